"""The values that cross from one stage to the next: which series there are, and rows of them.

A `Schema` is fixed for a fleet (it comes from `group_vars/all/metrics.yml`); its order is that of columns everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch

_CURE = "correct icosfl_series in group_vars, or what names series of it"

Times = NDArray[np.int64]
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """One measured quantity: its name and its unit (UCUM, as in OpenTelemetry: `%`, `MiBy`, `W`, `1`)."""

    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class Schema:
    """The ordered series of a store, a window or a model.

    Raises:
        SchemaMismatch: two series share a name, or there is none.
    """

    series: tuple[Series, ...]

    def __post_init__(self) -> None:
        if not self.series:
            raise SchemaMismatch("a schema needs at least one series", cure=_CURE)
        if len(set(self.names)) != len(self.series):
            raise SchemaMismatch(f"a series name stands twice in {', '.join(self.names)}", cure=_CURE)

    @property
    def names(self) -> tuple[str, ...]:
        """The series' names in the order of columns."""
        return tuple(series.name for series in self.series)

    @property
    def units(self) -> tuple[str, ...]:
        """The series' units in the order of columns."""
        return tuple(series.unit for series in self.series)

    def __len__(self) -> int:
        return len(self.series)

    def index(self, name: str) -> int:
        """The column of the series `name`.

        Raises:
            SchemaMismatch: no series has this name.
        """
        try:
            return self.names.index(name)
        except ValueError:
            known = ", ".join(self.names)
            raise SchemaMismatch(f"no series is called {name!r}; there are {known}", cure=_CURE) from None

    def select(self, names: Sequence[str]) -> Schema:
        """The schema of some of the series, in the order asked for.

        Raises:
            SchemaMismatch: a name is unknown or stands twice.
        """
        return Schema(tuple(self.series[self.index(name)] for name in names))


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Measured rows in the order of time.

    Args:
        times: Nanoseconds since the epoch, strictly ascending, shape [n].
        values: One column a series of the schema, shape [n, k]; NaN where a row has no value of a series.

    Raises:
        SchemaMismatch: the shapes do not fit, or times do not ascend.
    """

    times: Times
    values: Values

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or self.values.ndim != 2 or len(self.times) != len(self.values):
            raise SchemaMismatch(
                f"rows need times [n] and values [n, k], not {self.times.shape} and {self.values.shape}"
            )
        if self.times.dtype != np.int64 or self.values.dtype != np.float64:
            raise SchemaMismatch(
                f"rows need int64 times and float64 values, not {self.times.dtype} and {self.values.dtype}"
            )
        if len(self.times) > 1 and not bool(np.all(self.times[1:] > self.times[:-1])):
            raise SchemaMismatch("the times of rows must ascend strictly")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def width(self) -> int:
        """How many columns the rows have."""
        return int(self.values.shape[1])

    @classmethod
    def empty(cls, width: int) -> Rows:
        """No rows, of `width` columns."""
        return cls(np.empty(0, np.int64), np.empty((0, width), np.float64))

    def tail(self, count: int) -> Rows:
        """The newest `count` rows, or all of them if there are fewer."""
        start = max(len(self) - count, 0)
        return Rows(self.times[start:], self.values[start:])
