"""A container's health check, run in it: `python -I -S alive.py KIND HOST PORT PATH SERVICE START_SECONDS GRACE`.

Docker says whether a container is healthy, but restarts none that is not. So the check does: a service that does not
work, three looks in a row, is ended, and the restart policy starts it anew. One that is just starting is left alone.

Every look is a process of its own, for ever. So it loads next to nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

LOOK_SECONDS = 30  # between two looks: each costs about a tenth of a processor second, for ever
PATIENCE = 3  # looks
PROBE_SECONDS = 5.0

_MEMORY = "/tmp/.alive"  # noqa: S108 (the container's own, and empty again after each restart)
_ANSWER_BYTES = 300
_INIT = 1


def decide(
    answer: str, age: float, start_seconds: float, grace: int, before: tuple[bool, int]
) -> tuple[tuple[bool, int], int]:
    """Judge one look: what to remember, and the signal to send to the service, 0 for none.

    What is remembered is whether the service ever worked, and in how many looks in a row it did not, since it started.

    Args:
        answer: Why it does not work; "" when it does.
        age: Seconds since its process started.
        start_seconds: How long it may take to start.
        grace: How many looks it may take to end before it is killed.
        before: What the last look left to remember.
    """
    worked, failures = before
    if not answer:
        return (True, 0), 0
    if not worked and age <= start_seconds:
        return (False, 0), 0
    failures += 1
    if failures < PATIENCE:
        return (worked, failures), 0
    return (worked, failures), signal.SIGTERM if failures < PATIENCE + grace else signal.SIGKILL


def ask(kind: str, host: str, port: int, path: str, service: str) -> str:
    """Ask once and return why the service does not work, or "" when it does."""
    try:
        if kind == "grpc":
            return _grpc(host, port, service)
        with socket.create_connection((host, port), PROBE_SECONDS) as connection:
            if kind == "http":
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
                status = connection.recv(_ANSWER_BYTES).split(b"\r\n")[0]
                return "" if status.split(b" ")[1:2] and status.split(b" ")[1][:1] == b"2" else f"answers {status!r}"
            if kind == "redis":
                connection.sendall(b"PING\r\n")
                pong = connection.recv(_ANSWER_BYTES)
                return "" if pong.startswith((b"+PONG", b"-NOAUTH")) else f"answers PING with {pong!r}"
            return ""
    except OSError as error:
        return f"{host}:{port}: {error or type(error).__name__}"


def _grpc(host: str, port: int, service: str) -> str:
    # Nothing but this file is on the path: -I and -S.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120
    from icosfl.fleet.grpc_health import serving_status

    status = serving_status(host, port, service, PROBE_SECONDS)
    return "" if status == "SERVING" else f"gRPC health: {status or 'refused'}"


def main_processes() -> list[tuple[int, float]]:
    """Return the service's processes, those that the container's init started, and seconds since each started."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if int(fields[1]) == _INIT:
            started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
            found.append((int(name), time.clock_gettime(time.CLOCK_BOOTTIME) - started))
    return found


def _remembered() -> tuple[bool, int]:
    try:
        with open(_MEMORY, encoding="utf-8") as file:  # noqa: PTH123
            worked, failures = file.read().split()
        return worked == "worked", int(failures)
    except (OSError, ValueError):
        return False, 0  # the first look since the container started


def main(words: list[str]) -> int:
    """Look once; returns the exit code: 0 when the service works."""
    kind, host, port, path, service, start_seconds, grace = words
    answer = ask(kind, host, int(port), path, service)
    processes = main_processes()
    age = max((age for _, age in processes), default=0.0)
    (worked, failures), number = decide(answer, age, float(start_seconds), int(grace), _remembered())
    with open(_MEMORY, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(f"{'worked' if worked else 'new'} {failures}")
    if answer:
        sys.stdout.write(f"{answer}{f', so it is sent signal {number}' if number else ''}\n")
    if number:
        for process, _ in processes:
            os.kill(process, number)
    return 1 if answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
