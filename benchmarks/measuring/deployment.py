"""Flower's deployment engine on this machine, by its own programs with their defaults, or as this project runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import psutil
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.control_pb2_grpc import ControlStub

from icosfl.fleet.flower import ENVIRONMENT, Flower

APP = Path(__file__).parent / "rounds_app"
CONNECTION = "rounds"
MATHS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BIN = Path(sys.executable).parent


class Deployment:
    """A SuperLink and SuperNodes without TLS, until the end of the `with` statement.

    Args:
        directory: Where logs, state and Flower's homes go.
        nodes: How many SuperNodes.
        ours: Whether the SuperNodes run as this project's role runs them, else by `flower-supernode` alone.
    """

    def __init__(self, directory: Path, nodes: int, ours: bool) -> None:
        directory.mkdir(parents=True)
        self._directory = directory
        self._count = nodes
        self._ours = ours
        self._processes: list[subprocess.Popen[bytes]] = []
        self._nodes: list[psutil.Process] = []
        self._logs = ExitStack()
        home = directory / "home"
        home.mkdir()
        self._app_io, self._fleet, self._control, *self._free = _ports(3 + nodes)
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "{self._control}"\ninsecure = true\n',
            encoding="utf-8",
        )
        self._flower = Flower(home, CONNECTION)

    def __enter__(self) -> Self:
        try:
            self._start_superlink()
            for number in range(self._count):
                self._nodes.append(psutil.Process(self._start_node(number).pid))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def wait(self, seconds: float) -> None:
        """Wait until all SuperNodes are online.

        Raises:
            SystemExit: they are not within these seconds.
        """
        until = time.monotonic() + seconds
        with grpc.insecure_channel(self._control) as channel:
            control = ControlStub(channel)
            while (online := _online(control)) < self._count:
                if time.monotonic() > until:
                    raise SystemExit(f"{online} of {self._count} SuperNodes are online after {seconds:g} s")
                time.sleep(1)

    def submit(self, rounds: int, *, evaluate: bool) -> Path:
        """Submit a run; returns the file in which it notes what happens."""
        record = self._directory / f"record-{len(list(self._directory.glob('record-*')))}.jsonl"
        self._flower.submit(
            APP,
            {
                "nodes": self._count,
                "rounds": rounds,
                "evaluate": evaluate,
                "bounded-grid": self._ours,
                "record": str(record),
            },
        )
        return record

    def memory_of_nodes(self, most: int = 5) -> float:
        """What a SuperNode with all its programs holds, in MiB: the mean of some of them.

        It is the proportional set size: memory that processes share counts in parts.
        """
        held = [sum(map(_proportional, [node, *_children(node)])) for node in self._nodes[:most]]
        return sum(held) / len(held) / 2**20

    def settled_memory(self, seconds: float = 60) -> float:
        """What a SuperNode holds, in MiB, once that grows no more."""
        until, before = time.monotonic() + seconds, 0.0
        while (held := self.memory_of_nodes()) > before + 1 and time.monotonic() < until:
            before = held
            time.sleep(2)
        return held

    def _start_superlink(self) -> None:
        command = [str(BIN / "flower-superlink"), "--insecure", f"--fleet-api-address={self._fleet}"]
        command += [f"--control-api-address={self._control}", f"--serverappio-api-address={self._app_io}"]
        if self._ours:
            command += ["--isolation=process"]
        self._run("superlink", command)
        if self._ours:
            arguments = ["--insecure", "--plugin-type=serverapp", f"--appio-api-address={self._app_io}"]
            self._run("superlink-executor", [str(BIN / "flower-superexec"), *arguments])
        for address in (self._fleet, self._control, self._app_io):
            _wait_for(address)

    def _start_node(self, number: int) -> subprocess.Popen[bytes]:
        app_io = self._free[number]
        command = [str(BIN / "flower-supernode"), "--insecure", f"--superlink={self._fleet}"]
        command += [f"--clientappio-api-address={app_io}"]
        if self._ours:
            executor = [sys.executable, "-m", "icosfl.fleet.executor", "--insecure", "--plugin-type=clientapp"]
            executor += [f"--appio-api-address={app_io}"]
            together = [sys.executable, "-m", "icosfl.fleet.together"]
            command = [*together, "--", *executor, "--", *command, "--isolation=process"]
        # a fleet's SuperLink has a machine of its own: here it does not wait for the nodes
        return self._run(f"node-{number}", ["nice", *command])

    def _run(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        log = self._logs.enter_context((self._directory / f"{name}.log").open("wb"))
        environment = {**os.environ, **ENVIRONMENT, **MATHS, "FLWR_HOME": str(self._directory / "homes" / name)}
        environment["PATH"] = os.pathsep.join([str(BIN), os.environ["PATH"]])
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self._directory)
        self._processes.append(process)
        return process

    def _end(self) -> None:
        """End all processes that were started here, and what they started."""
        tree = [psutil.Process(process.pid) for process in self._processes if process.poll() is None]
        tree += [child for process in tree for child in _children(process)]
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(tree, timeout=15)
        for left in alive:
            left.kill()
        for process in self._processes:
            process.wait()
        self._logs.close()


def notes(record: Path) -> list[Mapping[str, Any]]:
    """What a run has noted until now."""
    if not record.exists():
        return []
    lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _online(control: ControlStub) -> int:
    return sum(node.status == "online" for node in control.ListNodes(ListNodesRequest(), timeout=30).nodes_info)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0


def _ports(count: int) -> list[str]:
    """Addresses of loopback that are free now."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def _wait_for(address: str, seconds: float = 60) -> None:
    host, _, port = address.partition(":")
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise SystemExit(f"nothing listens at {address} after {seconds:g} s") from None
            time.sleep(0.1)
        else:
            return
