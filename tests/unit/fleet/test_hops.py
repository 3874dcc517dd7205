from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icosfl.errors import Unavailable
from icosfl.fleet import hops

PAGE = (
    "# TYPE stored counter\nstored_total{a='x'} 3\nstored_total{a='y'} 4\n# TYPE none counter\nnone_total 0\n".replace(
        "'", '"'
    )
)


@pytest.fixture
def serve() -> Iterator[Callable[[int, str], str]]:
    """Serve one answer on a free port of loopback; returns the address."""
    servers = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    yield start

    for server in servers:
        server.shutdown()
        server.server_close()


def readiness(rows: int, age: float | None) -> str:
    return json.dumps({"ready": False, "store": {"rows": rows, "age_seconds": age}})


def test_a_metric_is_summed_over_its_labels(serve) -> None:
    assert hops.page_value(f"http://{serve(200, PAGE)}/metrics", "stored_total") == "stored_total = 7"


def test_another_program_on_a_port_is_said_and_no_crash(serve) -> None:
    with pytest.raises(Unavailable, match="is no Prometheus page"):
        hops.page_value(f"http://{serve(200, '<html>')}/metrics", "stored_total")
    for body in ("<html>", "[]", "{}"):
        with pytest.raises(Unavailable, match="is not a forecast service's answer"):
            hops.fresh_rows(f"http://{serve(200, body)}/readyz", 5.0)


@pytest.mark.parametrize(("metric", "said"), [("none_total", "is 0"), ("other_total", "is not there")])
def test_a_metric_that_is_0_or_absent_is_no_proof(serve, metric, said) -> None:
    with pytest.raises(Unavailable, match=said):
        hops.page_value(f"http://{serve(200, PAGE)}/metrics", metric)


def test_a_page_that_is_refused_is_no_proof(serve) -> None:
    with pytest.raises(Unavailable, match="answers 500"):
        hops.page_value(f"http://{serve(500, PAGE)}/metrics", "stored_total")


def test_fresh_rows_prove_the_way_even_before_there_is_a_model(serve) -> None:
    assert hops.fresh_rows(f"http://{serve(503, readiness(12, 0.5))}/readyz", 30) == "12 rows, the newest 0.5 s old"


@pytest.mark.parametrize(("rows", "age", "said"), [(0, None, "no rows yet"), (12, 31.0, "31 s old")])
def test_no_rows_or_old_ones_are_no_proof(serve, rows, age, said) -> None:
    with pytest.raises(Unavailable, match=said):
        hops.fresh_rows(f"http://{serve(503, readiness(rows, age))}/readyz", 30)


def test_a_healthy_address_is_named(serve) -> None:
    address = serve(200, "")

    assert hops.health("http", address) == f"{address}/ answers"


def test_a_dead_address_is_named_with_a_cure() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9") as caught:
        hops.health("tcp", "127.0.0.1:9")

    assert "icosfl status" in caught.value.cure


def test_asking_ends_at_the_first_good_answer() -> None:
    answers = iter([Unavailable("not yet"), "now"])

    def question() -> str:
        answer = next(answers)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    assert hops.ask(question, 30) == "now"


def test_asking_gives_up_with_the_last_reason() -> None:
    def question() -> str:
        raise Unavailable("still down")

    with pytest.raises(Unavailable, match="still down"):
        hops.ask(question, 0)
