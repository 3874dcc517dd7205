from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from icosfl.fleet.health import probe
from icosfl.fleet.service import HealthCheck, HealthKind

from .conftest import Host, free_port, redis_service


def check(kind: HealthKind, port: int, path: str = "/", service: str = "") -> HealthCheck:
    return HealthCheck(kind, "127.0.0.1", port, path, service, 5.0)


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Give a port on which somebody answers the first connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.fixture
def grpc_health() -> Iterator[tuple[int, HealthServicer]]:
    servicer = HealthServicer()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port, servicer
        server.stop(None).wait()


@pytest.fixture
def website() -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = self.path == "/readyz"
            self.send_response(200 if ready else 503)
            self.end_headers()
            self.wfile.write(b"fine" if ready else b'{"reasons": ["no rows"]}')

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["http", "grpc", "tcp", "redis"])
def test_closed_port_is_a_reason_that_names_the_address(kind: HealthKind) -> None:
    port = free_port()

    assert f"127.0.0.1:{port}" in probe(check(kind, port))


def test_http_wants_a_good_answer_of_the_path(website: int) -> None:
    assert probe(check("http", website, "/readyz")) == ""
    assert (
        probe(check("http", website, "/x")) == f'http://127.0.0.1:{website}/x answers 503: {{"reasons": ["no rows"]}}'
    )


def test_http_does_not_wait_longer_than_told_for_a_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "does not answer within 0.2 s" in probe(check("http", silent.getsockname()[1]), 0.2)


def test_http_is_not_fooled_by_another_protocol() -> None:
    with listening(b"+PONG\r\n") as port:
        assert "+PONG" in probe(check("http", port))


def test_grpc_wants_the_named_service_to_serve(grpc_health: tuple[int, HealthServicer]) -> None:
    port, servicer = grpc_health
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("bridge", health_pb2.HealthCheckResponse.NOT_SERVING)

    assert probe(check("grpc", port)) == ""
    assert "NOT_SERVING" in probe(check("grpc", port, service="bridge"))
    assert "NOT_FOUND" in probe(check("grpc", port, service="other"))


def test_redis_answers_also_when_it_wants_a_password(host: Host) -> None:
    open_redis = redis_service(host)
    locked_redis = {**open_redis, "command": [*open_redis["command"], "--requirepass", "hunter22"]}

    for redis in (open_redis, locked_redis):
        started = host.start(redis)
        assert not started.failed, started["msg"]
        host.converge()
        assert probe(check("redis", host.ports["redis"])) == ""


def test_redis_that_is_loading_is_not_ready() -> None:
    with listening(b"-LOADING Redis is loading the dataset in memory\r\n") as port:
        assert "LOADING" in probe(check("redis", port))


def test_tcp_wants_an_open_port(website: int) -> None:
    assert probe(check("tcp", website)) == ""
