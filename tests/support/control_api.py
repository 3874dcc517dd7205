"""A SuperLink's Control API over TLS that says what a test wants, without a SuperLink behind it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from flwr.proto.control_pb2 import ListNodesResponse, ListRunsResponse, StopRunResponse
from flwr.proto.control_pb2_grpc import ControlServicer, add_ControlServicer_to_server
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run, RunStatus

from icosfl.fleet import keys, pki


@dataclass
class MadeUpControl(ControlServicer):
    """What there is: runs by number, with their status as Flower words it, and nodes by number with theirs."""

    runs: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    nodes: dict[int, str] = field(default_factory=dict)

    def ListRuns(self, request: Any, context: grpc.ServicerContext) -> ListRunsResponse:  # noqa: N802
        """Answer with all runs, or the one that is asked for."""
        if request.HasField("run_id") and request.run_id not in self.runs:
            context.abort(grpc.StatusCode.NOT_FOUND, "Run ID not found")
        wanted = [request.run_id] if request.HasField("run_id") else list(self.runs)
        return ListRunsResponse(run_dict={number: self._run(number) for number in wanted})

    def StopRun(self, request: Any, context: grpc.ServicerContext) -> StopRunResponse:  # noqa: N802
        """Stop a run that goes on, and refuse another one."""
        if request.run_id not in self.runs:
            context.abort(grpc.StatusCode.NOT_FOUND, "Run ID not found")
        if self.runs[request.run_id][0] == "finished":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"Run ID {request.run_id} is already finished")
        self.runs[request.run_id] = ("finished", "stopped", "")
        return StopRunResponse(success=True)

    def ListNodes(self, request: Any, context: grpc.ServicerContext) -> ListNodesResponse:  # noqa: N802
        """Answer with all nodes; each one's key is its number."""
        del request, context
        found = [
            NodeInfo(node_id=number, status=status, public_key=b"%d" % number) for number, status in self.nodes.items()
        ]
        return ListNodesResponse(nodes_info=found)

    def _run(self, number: int) -> Run:
        status, sub_status, details = self.runs[number]
        return Run(run_id=number, status=RunStatus(status=status, sub_status=sub_status, details=details))


@contextmanager
def served(control: MadeUpControl, home: Path, connection: str) -> Iterator[None]:
    """Serve it on a free port, and write Flower's configuration with the connection into `home`."""
    authority = pki.make_authority("test", datetime.now(UTC))
    key = keys.make_key()
    signed = pki.sign(authority, keys.make_request(key, "superlink"), pki.names_of("superlink"), 1, datetime.now(UTC))
    (home / "ca.crt").write_text(authority.certificate, encoding="utf-8")
    server = grpc.server(ThreadPoolExecutor(1))
    add_ControlServicer_to_server(control, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key.encode(), signed.encode())]))
    text = f'[superlink.{connection}]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{home / "ca.crt"}"\n'
    (home / "config.toml").write_text(text, encoding="utf-8")
    server.start()
    try:
        yield
    finally:
        server.stop(grace=None).wait()
