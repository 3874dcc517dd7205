from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.fleet import alive

START_SECONDS = 20.0
NEW = (False, 0)


def after(answers: list[str], *, age: float = 0.0, grace: int = 1) -> list[int]:
    """The signals that looks with these answers end in, one after another."""
    memory, signals = NEW, []
    for answer in answers:
        memory, number = alive.decide(answer, age, START_SECONDS, grace, memory)
        signals.append(number)
    return signals


def test_service_that_worked_is_told_to_end_after_three_looks_and_killed_when_it_does_not() -> None:
    assert after(["", "no", "no", "no", "no", "no"], grace=1) == [
        0,
        0,
        0,
        signal.SIGTERM,
        signal.SIGKILL,
        signal.SIGKILL,
    ]


def test_service_gets_as_many_looks_to_end_as_its_stop_takes() -> None:
    assert after([""] + ["no"] * 5, grace=2)[3:] == [signal.SIGTERM, signal.SIGTERM, signal.SIGKILL]


def test_service_that_is_starting_is_left_alone_however_often_it_is_asked() -> None:
    assert after(["no"] * 50, age=START_SECONDS) == [0] * 50


def test_service_that_never_works_is_ended_when_its_time_is_over() -> None:
    assert after(["no"] * 3, age=START_SECONDS + 1) == [0, 0, signal.SIGTERM]


def test_service_that_worked_once_is_not_taken_for_a_starting_one() -> None:
    assert after(["", "no", "no", "no"], age=1.0)[-1] == signal.SIGTERM


@given(st.lists(st.booleans(), max_size=30), st.floats(0, 100), st.integers(1, 5))
def test_nothing_is_ended_that_worked_in_one_of_the_last_three_looks(works: list[bool], age: float, grace: int) -> None:
    signals = after(["" if each else "no" for each in works], age=age, grace=grace)

    for number, sent in enumerate(signals):
        if any(works[max(0, number - alive.PATIENCE + 1) : number + 1]) or number + 1 < alive.PATIENCE:
            assert sent == 0


@pytest.fixture
def server() -> Iterator[dict[str, object]]:
    """A server on this machine that answers everybody with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said: dict[str, object] = {"port": listener.getsockname()[1], "answer": b"", "asked": b""}

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    said["asked"] = connection.recv(1000)
                    connection.sendall(bytes(said["answer"]))  # type: ignore[call-overload]

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield said
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    ("kind", "answer", "problem"),
    [
        ("http", b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("http", b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503"),
        ("http", b"", "answers b''"),
        ("http", b"SSH-2.0-OpenSSH\r\n", "SSH"),
        ("redis", b"+PONG\r\n", ""),
        ("redis", b"-NOAUTH Authentication required.\r\n", ""),
        ("redis", b"-LOADING the dataset\r\n", "LOADING"),
        ("tcp", b"", ""),
    ],
)
def test_services_are_asked_in_their_own_way(kind: str, answer: bytes, problem: str, server: dict[str, object]) -> None:
    server["answer"] = answer

    said = alive.ask(kind, "127.0.0.1", int(str(server["port"])), "/healthz", "")

    assert (problem in said) if problem else said == ""
    if kind == "http":
        assert bytes(server["asked"]).startswith(b"GET /healthz HTTP/1.1\r\n")  # type: ignore[call-overload]


def test_nobody_there_is_a_problem() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]

        assert f"127.0.0.1:{port}" in alive.ask("http", "127.0.0.1", port, "/", "")
        assert f"127.0.0.1:{port}" in alive.ask("grpc", "127.0.0.1", port, "/", "")


def test_check_runs_without_any_library_and_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "alive.py"
    text = Path(alive.__file__).read_text().replace("/tmp/.alive", str(tmp_path / "memory"))
    copy.write_text(text.replace("_INIT = 1", "_INIT = -1"))  # the machine's own processes are none of ours
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        words = ["http", "127.0.0.1", str(unused.getsockname()[1]), "/", "", "20", "1"]

        looks = [
            subprocess.run([sys.executable, "-I", "-S", copy, *words], capture_output=True, text=True, check=False)
            for _ in range(2)
        ]

    assert [look.returncode for look in looks] == [1, 1]
    assert looks[0].stderr == ""
    assert "Connection refused" in looks[0].stdout
    assert (tmp_path / "memory").read_text() == "new 0"
