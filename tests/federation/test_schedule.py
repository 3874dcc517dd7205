"""The service that trains by itself, as its process manager starts it, on Flower's real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from icosfl.aggregate.record import is_alive, read_config
from icosfl.config import NodeConfig, schema_of
from icosfl.schema import Rows
from icosfl.store import open_store
from support.dataclay_stack import DataclayStack
from support.flower_federation import PERIOD, RUN_CONFIG, Federation, running
from support.flower_stack import CONNECTION

pytestmark = [pytest.mark.timeout(400)]

WORKERS = ("worker-1", "worker-2")
# Persistence is never beaten by so much: every check with a verdict finds too little skill.
SCHEDULE = {
    "train_every": "24h",
    "train_at": "",
    "check_every": "2s",
    "drift_skill": 0.99,
    "drift_windows": 2,
    "retry_seconds": 2.0,
    "retry_most_seconds": 2.0,
    "grace_seconds": 1.0,
}


class Service:
    """The service on the controller of a federation."""

    def __init__(self, federation: Federation) -> None:
        directory = federation.directory / "retraining"
        directory.mkdir()
        self.state = directory / "state.json"
        self.log = directory / "log"
        self._file = directory / "retraining.toml"
        values = {
            "schedule": SCHEDULE,
            "app_dir": str(federation.directory / "app"),
            "flwr_home": str(federation.flower.home),
            "connection": CONNECTION,
            "runs_dir": str(federation.runs_dir),
            "state_dir": str(directory),
            "names_file": str(directory / "names.json"),
            "nodes": len(WORKERS),
            "nodes_timeout_seconds": 60.0,
            "run_timeout_seconds": 240.0,
            "look_seconds": 0.5,
            "run_config": RUN_CONFIG | {"num-server-rounds": 1},
            "log_level": "info",
        }
        self._file.write_text(tomli_w.dumps(values), encoding="utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; what it says is added to its log."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "icosfl.fleet.retraining", "--config", str(self._file)]
            return subprocess.Popen(command, stderr=log)

    def memory(self) -> dict[str, Any]:
        """What it remembers."""
        return dict(json.loads(self.state.read_text())["memory"]) if self.state.exists() else {}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    rows = dict.fromkeys(("controller", *WORKERS), 300)
    with running(tmp_path_factory.mktemp("schedule"), dataclay_stack, rows) as federation:
        yield federation


def until(seen: Callable[[], bool], log: Path, seconds: float = 150) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
        time.sleep(0.1)


def come(node: NodeConfig, count: int) -> None:
    """Let rows of another load come, from now on and faster than they would."""
    steps = np.arange(count)
    cpu = 50 + np.cumsum(np.random.default_rng(5).normal(0, 5, count))
    times = time.time_ns() + ((steps + 1) * int(PERIOD * 1e9)).astype(np.int64)
    with open_store(node.store, schema_of(node.series)) as store:
        store.append(Rows(times, np.column_stack([cpu, np.full(count, np.nan)])))


def test_it_trains_survives_its_own_kill_and_trains_anew_when_checks_find_too_little_skill(
    federation: Federation,
) -> None:
    service = Service(federation)
    killed = service.start()
    until(lambda: bool(service.memory().get("under_way")), service.log)
    first = str(service.memory()["under_way"]["run"])
    until(lambda: is_alive(federation.runs_dir / first), service.log)
    killed.kill()
    killed.wait()

    process = service.start()
    try:
        until(lambda: service.memory()["trained"] is not None, service.log)
        assert service.memory()["training"]["run"] == first
        for host in WORKERS:
            come(federation.nodes[host], 120)
        until(lambda: service.memory()["training"]["run"] != first, service.log, 200)
    finally:
        process.terminate()
        process.wait(timeout=20)

    assert process.returncode == 0
    memory, said = service.memory(), service.log.read_text()
    assert memory["training"]["good"], said
    assert memory["skills"] == []
    assert "train: the skill was below 0.99 in 2 checks in a row: " in said
    purposes = [read_config(path).get("purpose") for path in federation.runs_dir.iterdir() if path.is_dir()]
    assert purposes.count("train") == 2, said
    checks = [json.loads(path.read_bytes()) for path in federation.runs_dir.glob("*/result.json")]
    assert len([check for check in checks if check.get("purpose") == "check" and check["skill"] is not None]) == 2
