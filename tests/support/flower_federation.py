"""A federation of real Flower processes and real object stores, on rows that were made up."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from icosfl.config import NodeConfig, SeriesConfig, StoreConfig, load, schema_of
from icosfl.fleet.rounds import main
from icosfl.schema import Rows
from icosfl.store import open_store
from icosfl.train.artifact import Artifact, load_latest
from support.dataclay_stack import DataclayStack
from support.flower_stack import CONNECTION, FlowerStack

ROOT = Path(__file__).parents[2]
SERIES = (SeriesConfig(name="cpu_usage", unit="%"), SeriesConfig(name="power", unit="W"))
PERIOD = 3.0
ROWS = {"controller": 300, "worker-1": 300, "worker-2": 300, "worker-3": 20}
RUN_CONFIG = {
    "series": "cpu_usage,power",
    "window": "30s",
    "horizons": "next,30s",
    "min-windows": 32,
    "hidden-size": 8,
    "local-epochs": 1,
    "query-timeout-seconds": 40,
    "round-timeout-seconds": 90,
}


@dataclass
class Federation:
    """What the tests hold of the federation."""

    directory: Path
    flower: FlowerStack
    nodes: dict[str, NodeConfig]

    def rounds(self, capsys: pytest.CaptureFixture[str], verb: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Call `icosfl.fleet.rounds`; returns its exit code and its answer."""
        code = main([verb, "--connection", CONNECTION, "--flwr-home", str(self.flower.home), *arguments])
        return code, json.loads(capsys.readouterr().out)

    def submit(self, capsys: pytest.CaptureFixture[str], nodes: int, **changes: object) -> str:
        """Submit a run; returns its id."""
        overrides = self.directory / "overrides.toml"
        values = RUN_CONFIG | {key.replace("_", "-"): value for key, value in changes.items()}
        overrides.write_text(tomli_w.dumps(values), encoding="utf-8")
        options = ["--app", str(self.directory / "app"), "--expect-nodes", str(nodes), "--config-file", str(overrides)]
        code, answer = self.rounds(capsys, "submit", *options)
        assert code == 0, answer
        return str(answer["run_id"])

    @property
    def runs_dir(self) -> Path:
        """Where the controller keeps its runs."""
        return self.nodes["controller"].runs_dir

    def wait(self, capsys: pytest.CaptureFixture[str], run: str, *step: str) -> tuple[int, dict[str, Any]]:
        """Wait for a step of a run."""
        options = ["--run-id", run, "--runs-dir", str(self.runs_dir), "--timeout", "240", *step]
        return self.rounds(capsys, "await", "--app", str(self.directory / "app"), *options)

    def result(self, run: str) -> dict[str, Any]:
        """The result that a run left."""
        text = (self.runs_dir / run / "result.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def model(self, host: str) -> Artifact | None:
        """The newest model of a host."""
        return load_latest(self.nodes[host].models_dir)


@contextmanager
def running(directory: Path, stack: DataclayStack, rows: Mapping[str, int] = ROWS) -> Iterator[Federation]:
    """A controller and workers with so many rows; of the usual three one has too few to take part."""
    (directory / "app").mkdir()
    shutil.copy(ROOT / "pyproject.toml", directory / "app")
    shutil.copytree(ROOT / "icosfl", directory / "app" / "icosfl", ignore=shutil.ignore_patterns("__pycache__"))
    files = {host: _write_config(directory, host, stack) for host in rows}
    nodes = {host: load(file, NodeConfig) for host, file in files.items()}
    for number, (host, count) in enumerate(rows.items()):
        _fill(nodes[host].store, count, seed=number)
    controller = files.pop("controller")
    flower = FlowerStack(directory, controller, files)
    try:
        flower.start()
        yield Federation(directory, flower, nodes)
    finally:
        flower.stop()


def _write_config(directory: Path, host: str, stack: DataclayStack) -> Path:
    store = stack.store_config(f"{directory.name}-{host}")
    data = {
        "host": host,
        "period_seconds": PERIOD,
        "max_gap_seconds": 9.0,
        "stale_after_seconds": 1e9,  # made-up rows are of no particular time
        "models_dir": str(directory / host / "models"),
        "runs_dir": str(directory / host / "runs"),
        "store": asdict(store),
        "series": [asdict(one) for one in SERIES],
    }
    file = directory / f"{host}.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    return file


def _fill(config: StoreConfig, count: int, seed: int) -> None:
    """A slow wave with noise for the CPU; no host has a power meter."""
    steps = np.arange(count)
    noise = np.random.default_rng(seed).normal(0, 2, count)
    cpu = 50 + 30 * np.sin(steps / 15) + noise
    values = np.column_stack([cpu, np.full(count, np.nan)])
    times = time.time_ns() - (steps[::-1] * int(PERIOD * 1e9)).astype(np.int64)
    with open_store(config, schema_of(SERIES)) as store:
        store.append(Rows(times, values))
