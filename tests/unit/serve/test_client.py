from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from icosfl.errors import DataError, Unavailable
from icosfl.serve.client import read_forecast, read_readiness
from icosfl.serve.values import ForecastPage, Readiness, to_json

UNREADY = Readiness(False, ("no model yet",), (), "worker1", None, None)
PAGE = ForecastPage(False, ("no model yet",), (), "worker1", None, None, None, None, (), (), None)


@contextmanager
def answering(status: int, body: bytes) -> Iterator[tuple[str, list[str]]]:
    """A service that answers everything with the same; its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A socket that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        yield door


def test_a_node_that_is_not_ready_is_an_answer_too() -> None:
    with answering(503, to_json(UNREADY)) as (address, asked):
        assert read_readiness(address, 10) == UNREADY
    assert asked == ["/readyz"]


def test_forecasts_are_read_from_their_page() -> None:
    with answering(503, to_json(PAGE)) as (address, asked):
        assert read_forecast(address, 10) == PAGE
    assert asked == ["/v1/forecast"]


def test_a_proxy_of_the_environment_does_not_stand_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    with answering(200, to_json(UNREADY)) as (address, _):
        assert read_readiness(address, 10).host == "worker1"


def test_nothing_that_listens_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

    with pytest.raises(Unavailable, match=f"http://127.0.0.1:{port}/readyz does not answer"):
        read_readiness(f"127.0.0.1:{port}", 10)


def test_a_service_that_says_nothing_is_unavailable_in_time(silent: socket.socket) -> None:
    with pytest.raises(Unavailable, match="does not answer: timed out"):
        read_forecast(f"127.0.0.1:{silent.getsockname()[1]}", 0.1)


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (200, b"<html>"), (200, b'{"ready": true}')])
def test_something_else_than_a_forecast_service_is_told_apart(status: int, body: bytes) -> None:
    with answering(status, body) as (address, _), pytest.raises(DataError):
        read_forecast(address, 10)


def test_an_address_that_is_none_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        read_readiness("127.0.0.1:port", 10)
