"""How a model looks at a node's rows, and what it then sees of them: the values between rows and training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from icosfl.process.clean import NANOSECONDS, to_period_ns
from icosfl.process.windows import Windows
from icosfl.schema import Schema
from icosfl.train.settings import TrainSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model looks at rows.

    Args:
        names: The model's series, in the order of its columns.
        window: Steps that it sees.
        horizons: Steps ahead that it forecasts, ascending.
        season: Steps after which the series may repeat; 0: none.
        period_seconds: Distance of two steps.
        max_gap_seconds: Longest time between two values that is bridged by interpolation.
    """

    names: tuple[str, ...]
    window: int
    horizons: tuple[int, ...]
    season: int
    period_seconds: float
    max_gap_seconds: float

    @classmethod
    def of(cls, settings: TrainSettings, names: Sequence[str], period_seconds: float, max_gap_seconds: float) -> Self:
        """The plan of a run, for these of its series.

        Raises:
            ConfigError: window, horizons or season do not suit the period.
        """
        window, horizons = settings.window_steps(period_seconds), settings.horizon_steps(period_seconds)
        season = settings.season_steps(period_seconds)
        return cls(tuple(names), window, horizons, season, period_seconds, max_gap_seconds)

    @property
    def period_ns(self) -> int:
        """Distance of two steps in nanoseconds."""
        return to_period_ns(self.period_seconds)

    @property
    def max_gap_ns(self) -> int:
        """Longest time between two values that is bridged, in nanoseconds."""
        return round(self.max_gap_seconds * NANOSECONDS)


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What a node can say about its rows before a run, without any of their values.

    Args:
        rows: Rows in the store.
        newest: Time of the newest row in nanoseconds since the epoch, None without rows.
        cutoff_ns: Rows up to this time are trained on, later ones are held out; None without rows.
        present: Names of the series that the node has.
        train_windows: Windows to train on.
        reason: Why the node cannot take part, or None when it can.
    """

    rows: int
    newest: int | None
    cutoff_ns: int | None
    present: tuple[str, ...]
    train_windows: int
    reason: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A node's windows of the model's series, in real units.

    Args:
        schema: The model's series.
        has: Which of them the node has, shape [k].
        train: Made of rows up to the cutoff alone.
        held_out: Windows whose targets all lie after the cutoff.
        cutoff_ns: The cutoff.
    """

    schema: Schema
    has: NDArray[np.bool_]
    train: Windows
    held_out: Windows
    cutoff_ns: int

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the series that the node has."""
        return tuple(name for name, has in zip(self.schema.names, self.has, strict=True) if has)
