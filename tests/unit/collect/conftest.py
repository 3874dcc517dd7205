from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import psutil
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)

from icosfl.config import Endpoint

DEADLINE_SECONDS = 30.0


def until(condition: Callable[[], bool]) -> None:
    """Wait, for a bounded time, for a condition that nobody announces."""
    pause = threading.Event()
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        pause.wait(0.01)


class Recorder(MetricsServiceServicer):
    """A bridge that answers as told and remembers what it acknowledged."""

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.attempts = 0
        self.answers: list[grpc.StatusCode] = []
        self.retry_seconds: float | None = None
        self.rejected = 0
        self.reason = ""
        self.stored: int | None = None
        self.hold: threading.Event | None = None

    def Export(  # noqa: N802  the generated name
        self, request: ExportMetricsServiceRequest, context: grpc.ServicerContext
    ) -> ExportMetricsServiceResponse:
        self.attempts += 1
        if self.hold is not None:
            self.hold.wait(DEADLINE_SECONDS)
        code = self.answers.pop(0) if self.answers else grpc.StatusCode.OK
        if code is not grpc.StatusCode.OK:
            self._abort(context, code)
        self.requests.append(request)
        if self.stored is not None:
            context.set_trailing_metadata((("icosfl-stored-points", str(self.stored)),))
        response = ExportMetricsServiceResponse()
        response.partial_success.rejected_data_points = self.rejected
        response.partial_success.error_message = self.reason
        return response

    def _abort(self, context: grpc.ServicerContext, code: grpc.StatusCode) -> None:
        if self.retry_seconds is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_seconds * 1e9))
            status = Status(code=code.value[0], message="as told")
            status.details.add().Pack(RetryInfo(retry_delay=delay))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, "as told")

    def times(self) -> list[int]:
        """The time of each acknowledged point, in the order of arrival."""
        return [point.time_unix_nano for request in self.requests for point in points_of(request)]


def metrics_of(request: ExportMetricsServiceRequest) -> list:
    return [
        metric for resource in request.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    ]


def points_of(request: ExportMetricsServiceRequest) -> list:
    return [point for metric in metrics_of(request) for point in getattr(metric, metric.WhichOneof("data")).data_points]


def serve(recorder: Recorder, port: int = 0) -> tuple[grpc.Server, Endpoint]:
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    add_MetricsServiceServicer_to_server(recorder, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, Endpoint("127.0.0.1", bound)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def bridge(recorder: Recorder) -> Iterator[Endpoint]:
    server, endpoint = serve(recorder)
    yield endpoint
    if recorder.hold is not None:
        recorder.hold.set()
    server.stop(None).wait(DEADLINE_SECONDS)


@pytest.fixture
def start_bridge(recorder: Recorder) -> Iterator[Callable[[Endpoint], None]]:
    """Starts the recorder on a port that a test chose."""
    servers: list[grpc.Server] = []
    yield lambda endpoint: servers.append(serve(recorder, endpoint.port)[0])
    for server in servers:
        server.stop(None).wait(DEADLINE_SECONDS)


@pytest.fixture
def nobody() -> Endpoint:
    """An address on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return Endpoint("127.0.0.1", free.getsockname()[1])


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    return until


class Proc:
    """A /proc that says what a test wants."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.cpu(busy=0, idle=0)
        self.memory(total=8000, free=2000, available=5000)

    def cpu(self, *, busy: int, idle: int, iowait: int = 0, guest: int = 0) -> None:
        """Ticks since boot; `guest` is a part of `busy`, as in the kernel."""
        line = f"cpu {busy} 0 0 {idle} {iowait} 0 0 0 {guest} 0\n"
        (self._root / "stat").write_text(line, encoding="utf-8")

    def memory(self, *, total: int, free: int, available: int) -> None:
        """In KiB."""
        values = {"MemTotal": total, "MemFree": free, "MemAvailable": available, "Buffers": 10, "Cached": 20}
        rest = dict.fromkeys(("Active", "Inactive", "Shmem", "SReclaimable", "Slab"), 1)
        lines = [f"{name}: {value} kB\n" for name, value in {**values, **rest}.items()]
        (self._root / "meminfo").write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    root = tmp_path / "proc"
    root.mkdir()
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(root))
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.5, 0.25, 0.125))
    return Proc(root)


class Powercap:
    """A powercap tree with the zones that a test adds."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def set(self, zone: str, name: str, energy_uj: int, range_uj: int | None = None) -> None:
        directory = self.root / zone
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "name").write_text(f"{name}\n", encoding="utf-8")
        (directory / "energy_uj").write_text(f"{energy_uj}\n", encoding="utf-8")
        if range_uj is not None:
            (directory / "max_energy_range_uj").write_text(f"{range_uj}\n", encoding="utf-8")


@pytest.fixture
def powercap(tmp_path: Path) -> Powercap:
    return Powercap(tmp_path / "powercap")


class Clock:
    """A clock that a test moves."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000_000)


class Site:
    """A web server with one page, which a test writes."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(site.status)
                self.send_header("Content-Length", str(len(site.body)))
                self.end_headers()
                self.wfile.write(site.body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01])
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/metrics"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join(DEADLINE_SECONDS)
        self.server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()
