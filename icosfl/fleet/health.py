"""Asks services whether they work, once or until they do; a wait always ends, with the last reason.

No heavy client is loaded as long as nothing fails, gRPC and Redis are asked by a few lines of their own: the Ansible
modules that wait here are started many times, and the watchdog for ever.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from icosfl.fleet.grpc_health import serving_status
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import HealthCheck

_LONGEST_PROBE_SECONDS = 2.0
_SHORTEST_PROBE_SECONDS = 0.2
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 0.5
_BODY_BYTES = 300
# Redis answers these when it works but wants a password first.
_ALIVE = (b"+PONG", b"-NOAUTH")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a wait ended: `reason` is "" when the service works; `ended` tells that its process did not live so long."""

    reason: str = ""
    ended: bool = False

    @property
    def healthy(self) -> bool:
        """Whether the service works."""
        return not self.reason


def probe(check: HealthCheck, timeout_seconds: float = _LONGEST_PROBE_SECONDS) -> str:
    """Ask once and return why the service does not work, or "" when it does; of a mere process nothing is asked."""
    ask = {"http": _http, "grpc": _grpc, "redis": _redis, "tcp": _tcp}.get(check.kind)
    try:
        return ask(check, timeout_seconds) if ask else ""
    except TimeoutError:
        return f"{check.address} does not answer within {timeout_seconds:.1f} s"
    except (OSError, http.client.HTTPException) as error:
        return f"{check.address}: {getattr(error, 'strerror', None) or error or type(error).__name__}"


def wait_until_healthy(check: HealthCheck, status: Callable[[], Status]) -> Verdict:
    """Ask until the service works, its process ends, or the check's own timeout has passed.

    Args:
        check: How to ask.
        status: What the process manager says of the service. A process that is gone, or another than at first, has
            ended.
    """
    deadline = time.monotonic() + check.timeout_seconds
    pause, first_pid = _FIRST_PAUSE_SECONDS, 0
    while True:
        now = status()
        first_pid = first_pid or now.pid
        if not now.up or now.pid != first_pid:
            return Verdict(now.reason or "and was started again", ended=True)
        reason = _ask(check, now, deadline)
        if not reason and status().pid == first_pid:
            return Verdict()
        if time.monotonic() + pause >= deadline:
            return Verdict(
                f"it does not work after {check.timeout_seconds:g} s: {reason or 'its process was replaced'}"
            )
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _ask(check: HealthCheck, now: Status, deadline: float) -> str:
    if check.kind == "process":
        return "" if now.state == "RUNNING" else f"it is {now.state}"
    left = deadline - time.monotonic()
    return probe(check, min(_LONGEST_PROBE_SECONDS, max(_SHORTEST_PROBE_SECONDS, left)))


def _http(check: HealthCheck, timeout_seconds: float) -> str:
    connection = http.client.HTTPConnection(check.host, check.port, timeout=timeout_seconds)
    try:
        connection.request("GET", check.path)
        answer = connection.getresponse()
        body = answer.read(_BODY_BYTES).decode("utf-8", "replace").strip()
    finally:
        connection.close()
    return "" if 200 <= answer.status < 300 else f"http://{check.address} answers {answer.status}: {body}"


def _grpc(check: HealthCheck, timeout_seconds: float) -> str:
    status = serving_status(check.host, check.port, check.service, timeout_seconds)
    if status:
        return "" if status == "SERVING" else f"{check.address}: gRPC health: {status}"
    return _grpc_refusal(check, timeout_seconds)


def _grpc_refusal(check: HealthCheck, timeout_seconds: float) -> str:
    """Ask a server that refuses the question once more, with a client that understands why."""
    import grpc  # a third of a second of processor time: only who must explain a refusal pays for it
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    # The process-wide pool of connections would remember failures, and a proxy in the environment has no business on
    # loopback.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(check.address, options=options) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=check.service), timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            return f"{check.address}: gRPC health: {error.code().name} {error.details()}"
    named = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return "" if named == "SERVING" else f"{check.address}: gRPC health: {named}"


def _tcp(check: HealthCheck, timeout_seconds: float) -> str:
    socket.create_connection((check.host, check.port), timeout_seconds).close()
    return ""


def _redis(check: HealthCheck, timeout_seconds: float) -> str:
    with socket.create_connection((check.host, check.port), timeout_seconds) as connection:
        connection.sendall(b"PING\r\n")
        answer = connection.recv(_BODY_BYTES)
    return "" if answer.startswith(_ALIVE) else f"{check.address} answers PING with {answer!r}"
