"""A node's configuration, rows and settings for tests of learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from icosfl.config import Endpoint, NodeConfig, SeriesConfig, StoreConfig, run_config
from icosfl.schema import Rows
from icosfl.train.messages import Question

PERIOD = 3.0
SERIES = (SeriesConfig(name="cpu_usage", unit="%"), SeriesConfig(name="power", unit="W"))
QUESTION = Question(series=SERIES, period_seconds=PERIOD)
RUN_CONFIG: dict[str, Any] = run_config(Path(__file__).parents[2]) | {
    "num-server-rounds": 2,
    "local-epochs": 1,
    "learning-rate": 0.01,
    "batch-size": 32,
    "hidden-size": 4,
    "series": "cpu_usage,power",
    "window": "15s",
    "horizons": "next,15s",
    "season": "60s",
    "min-windows": 20,
    "query-timeout-seconds": 0.2,
    "round-timeout-seconds": 0.2,
}
# Middle of the range of times that a test may meet, in nanoseconds since the epoch.
START = 1_800_000_000 * 10**9


def node_config(directory: Path, host: str) -> NodeConfig:
    """The configuration of a node whose store is in memory."""
    store = StoreConfig(
        kind="memory",
        alias=host,
        capacity_rows=1000,
        deadline_seconds=1.0,
        metadata=Endpoint(host="127.0.0.1", port=1),
        dataset="",
        username="",
        password="",
    )
    return NodeConfig(
        host=host,
        period_seconds=PERIOD,
        max_gap_seconds=9.0,
        stale_after_seconds=1e9,  # made-up rows are of no particular time
        models_dir=directory / host / "models",
        runs_dir=directory / host / "runs",
        store=store,
        series=SERIES,
    )


def rows(count: int, seed: int = 1) -> Rows:
    """A wave of CPU use with noise, and no power."""
    steps = np.arange(count)
    cpu = 50 + 30 * np.sin(steps / 8) + np.random.default_rng(seed).normal(0, 1, count)
    return Rows(START + steps * int(PERIOD * 1e9), np.column_stack([cpu, np.full(count, np.nan)]))


def swings(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """CPU use that climbs to a limit, slowly and quickly by turns, and falls back at once: no line tells it.

    Args:
        count: How many values.
        seed: Each node has its own.
    """
    random = np.random.default_rng(seed)
    values, level, slope, quick = np.empty(count), 20.0, 3.0, False
    for step in range(count):
        if level < 75:
            level += slope
        else:
            level, quick = 20.0, not quick
            slope = (6.0 if quick else 2.0) * random.uniform(0.9, 1.1)
        values[step] = level
    return values + random.normal(0, 0.7, count)
