"""From rows as they were measured to a regular grid of time, in which every gap stays a gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch
from icosfl.schema import Rows, Times, Values

NANOSECONDS = 1_000_000_000

# A stretch of more empty bins than this is kept as one empty bin: a clock that once was wrong by years costs no memory.
MAX_EMPTY_BINS = 64

# No quantity of a machine is larger; what is would only overflow in sums of squares.
LARGEST_VALUE = 1e100


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Values on a regular grid of time.

    Times ascend by exactly one period, except where more than `MAX_EMPTY_BINS` bins in a row were empty: of those a
    single one is kept, without values, so that nothing spans it.

    Args:
        times: The middle of each bin in nanoseconds since the epoch, shape [n].
        values: In the series' own units, NaN = no value, shape [n, k].
        measured: Where a value was measured, and not interpolated, shape [n, k].
        period_ns: The distance of two bins in nanoseconds.
    """

    times: Times
    values: Values
    measured: NDArray[np.bool_]
    period_ns: int

    def __len__(self) -> int:
        return len(self.times)

    @property
    def width(self) -> int:
        """How many series the grid has."""
        return int(self.values.shape[1])

    def tail(self, count: int) -> Grid:
        """The newest `count` bins, or all of them if there are fewer."""
        start = max(len(self) - count, 0)
        return Grid(self.times[start:], self.values[start:], self.measured[start:], self.period_ns)


def to_period_ns(seconds: float) -> int:
    """Seconds as whole nanoseconds.

    Raises:
        SchemaMismatch: they are not positive and finite.
    """
    if not (np.isfinite(seconds) and seconds > 0):
        raise SchemaMismatch(f"a sampling period must be positive, not {seconds} s")
    return max(round(seconds * NANOSECONDS), 1)


def to_grid(rows: Rows, period_ns: int) -> Grid:
    """Put each row into the bin of time that it lies in; of several values of a series in a bin the last one counts.

    The bins' middles are laid where the rows are (the circular mean of their phases), so that a sampler's jitter
    does not push neighbouring rows into one bin. Infinite values, and those beyond `LARGEST_VALUE`, count as none.

    Raises:
        SchemaMismatch: the period is not positive.
    """
    if period_ns < 1:
        raise SchemaMismatch(f"a sampling period must be at least 1 ns, not {period_ns}")
    if len(rows) == 0:
        return Grid(rows.times, rows.values, np.zeros(rows.values.shape, np.bool_), period_ns)
    origin = _phase(rows.times, period_ns)
    bins = (rows.times - origin + period_ns // 2) // period_ns
    slots, count = _squeeze(bins)
    times = np.empty(count, np.int64)
    times[slots] = bins * period_ns + origin
    values = np.full((count, rows.width), np.nan)
    for column in range(rows.width):
        present = np.abs(rows.values[:, column]) <= LARGEST_VALUE
        values[slots[present], column] = rows.values[present, column]
    _fill_empty_times(times, slots, period_ns)
    return Grid(times, values, np.isfinite(values), period_ns)


def bridge_gaps(grid: Grid, max_gap_ns: int) -> Grid:
    """Interpolate linearly between two measured values of a series that lie at most `max_gap_ns` apart.

    Longer holes, and the ends before the first and after the last value, stay NaN. `measured` stays as it is. A hole
    of more than `MAX_EMPTY_BINS` bins is never bridged.
    """
    reach = min(max_gap_ns // grid.period_ns, MAX_EMPTY_BINS)
    values = grid.values.copy()
    for column in range(grid.width):
        known = np.flatnonzero(np.isfinite(grid.values[:, column]))
        left, right = known[:-1], known[1:]
        regular = grid.times[right] - grid.times[left] == (right - left) * grid.period_ns
        holes = (right - left > 1) & (right - left <= reach) & regular
        edges = np.zeros(len(grid) + 1, np.int64)
        edges[left[holes] + 1] += 1
        edges[right[holes]] -= 1
        inside = np.flatnonzero(np.cumsum(edges))
        if len(inside):
            values[inside, column] = np.interp(inside, known, grid.values[known, column])
    return Grid(grid.times, values, grid.measured, grid.period_ns)


def _phase(times: Times, period_ns: int) -> int:
    angles = (times % period_ns) * (2 * np.pi / period_ns)
    mean = np.arctan2(np.sin(angles).mean(), np.cos(angles).mean())
    return round(float(mean % (2 * np.pi)) / (2 * np.pi) * period_ns) % period_ns


def _squeeze(bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The slot of each row's bin and the number of slots, with each long empty stretch as one slot."""
    steps = np.diff(bins)
    steps = np.where(steps > MAX_EMPTY_BINS + 1, 2, steps)
    slots = np.concatenate([np.zeros(1, np.int64), np.cumsum(steps)])
    return slots, int(slots[-1]) + 1


def _fill_empty_times(times: Times, slots: NDArray[np.int64], period_ns: int) -> None:
    filled = np.zeros(len(times), np.bool_)
    filled[slots] = True
    before = np.maximum.accumulate(np.where(filled, np.arange(len(times)), 0))
    times[:] = times[before] + (np.arange(len(times)) - before) * period_ns
