"""A node's rows with something to learn in them, and what training makes of them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from icosfl.process import Grid, Windows
from icosfl.process.windows import make_windows
from icosfl.schema import Rows, Schema, Series
from icosfl.train.settings import TrainSettings

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


@pytest.fixture
def run_config() -> dict[str, object]:
    """The project's own run configuration."""
    config: dict[str, object] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
    return config


@pytest.fixture
def settings(run_config: dict[str, object]) -> TrainSettings:
    """Settings for a small run: a window of 10 s, forecasts for the next second and 5 s ahead."""
    small = {"window": "10s", "horizons": "next,5s", "season": "20s", "train-fraction": 0.75, "min-windows": 30}
    return TrainSettings.from_run_config(run_config | small)


@pytest.fixture
def schema() -> Schema:
    return Schema((Series("cpu_usage", "%"), Series("memory_usage", "MiBy"), Series("power", "W")))


@pytest.fixture
def make_rows() -> Callable[[int], Rows]:
    """Rows of `schema`, one a second: a noisy wave, a random walk, and no power."""

    def make(count: int, seed: int = 1) -> Rows:
        rng = np.random.default_rng(seed)
        steps = np.arange(count)
        wave = 40 + 20 * np.sin(steps / 3) + rng.normal(0, 1, count)
        walk = 2000 + np.cumsum(rng.normal(0, 3, count))
        return Rows(START + steps * SECOND, np.stack([wave, walk, np.full(count, np.nan)], axis=1))

    return make


@pytest.fixture
def windows_of() -> Callable[..., Windows]:
    """Windows of a window of 12 and horizons of 1 and 4 steps over these columns."""

    def make(*columns: np.ndarray) -> Windows:
        values = np.stack(columns, axis=1).astype(np.float64)
        times = np.arange(len(values), dtype=np.int64) * SECOND
        measured = np.isfinite(values)
        return make_windows(Grid(times, values, measured, SECOND), 12, (1, 4), measured.any(axis=0))

    return make


@pytest.fixture
def wave() -> np.ndarray:
    """A noisy sine of 300 values around 50 with an amplitude of 10."""
    return 50 + 10 * np.sin(np.arange(300) / 3) + np.random.default_rng(1).normal(0, 0.5, 300)
