from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icosfl.config import Endpoint, ForecastConfig, NodeConfig, SeriesConfig, StoreConfig, schema_of
from icosfl.schema import Rows, Schema, Series, Values
from icosfl.store.memory import MemoryStore
from icosfl.train.artifact import Artifact
from icosfl.train.model import build, to_arrays
from icosfl.train.shape import ModelShape

SECOND = 1_000_000_000
START = 1_772_366_400 * SECOND
SCHEMA = Schema((Series("cpu_usage", "%"), Series("memory_usage", "MiBy"), Series("power", "W")))
WINDOW, HORIZONS, SEASON = 10, (1, 5), 60


def _rows(count: int, start: int = START, gap_after: int | None = None, gap: int = 0) -> Rows:
    """`count` rows a second apart: a wave of CPU, growing memory, no power; `gap` seconds are missing somewhere."""
    steps = np.arange(count, dtype=np.int64)
    if gap_after is not None:
        steps[gap_after:] += gap
    values = np.full((count, len(SCHEMA)), np.nan)
    values[:, 0] = 50 + 20 * np.sin(steps / 5)
    values[:, 1] = 1000 + steps
    return Rows(start + steps * SECOND, values)


def _artifact(round_number: int = 1, **changes: Any) -> Artifact:
    """A model that was taught nothing: it forecasts the last value, or what a node's own linear part does."""
    schema: Schema = changes.pop("schema", SCHEMA)
    shape = ModelShape(network="lstm", series=len(schema), horizons=len(HORIZONS), window=WINDOW, hidden=4, layers=1)
    arrays = to_arrays(build(shape, seed=1))
    arrays[0][:] = 0.0  # the common linear part
    arrays[0][:, -1, :] = 1.0
    artifact = Artifact(
        schema=schema,
        period_seconds=1.0,
        horizons=HORIZONS,
        season=SEASON,
        train_fraction=0.75,
        shape=shape,
        taught=schema.names,
        run="run-1",
        round=round_number,
        nodes=("worker1", "worker2"),
        created="2026-03-01T12:00:00+00:00",
        parent=None,
        arrays=tuple(arrays),
    )
    return replace(artifact, **changes)


def _shifting_artifact(change: Values, **changes: Any) -> Artifact:
    """A model that forecasts the same plus `change` [h, k], in shares of the window's spread."""
    artifact = _artifact(**changes)
    arrays = [array.copy() for array in artifact.arrays]
    arrays[-1].reshape(*change.shape, -1)[..., 1] += change
    return replace(artifact, arrays=tuple(arrays))


@pytest.fixture
def make_rows() -> Callable[..., Rows]:
    return _rows


@pytest.fixture
def make_artifact() -> Callable[..., Artifact]:
    return _artifact


@pytest.fixture
def shifting_artifact() -> Callable[..., Artifact]:
    return _shifting_artifact


@pytest.fixture
def node(tmp_path: Path) -> NodeConfig:
    return NodeConfig(
        host="worker1",
        period_seconds=1.0,
        max_gap_seconds=3.0,
        stale_after_seconds=30.0,
        models_dir=tmp_path / "models",
        runs_dir=tmp_path / "runs",
        store=StoreConfig("memory", "rows", 1000, 1.0, Endpoint("127.0.0.1", 1), "d", "u", "p"),
        series=tuple(SeriesConfig(series.name, series.unit) for series in SCHEMA.series),
    )


@pytest.fixture
def config(node: NodeConfig) -> ForecastConfig:
    return ForecastConfig(
        listen=Endpoint("127.0.0.1", 0), refresh_seconds=0.02, evaluate_seconds=0.05, node=node, log_level="info"
    )


@pytest.fixture
def store(node: NodeConfig) -> Iterator[MemoryStore]:
    with MemoryStore(schema_of(node.series), 1000) as store:
        yield store


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits for a condition, at most 20 seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.005)

    return wait
