"""From a grid to windows: what a model sees, and what it shall say for each horizon."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch
from icosfl.process.clean import Grid
from icosfl.schema import Times, Values

# Stands for seasonal values that were left out.
_NO_SEASON: Values = np.empty(0)


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of one node, in the order of time and in the series' own units.

    A series is either whole in a window (NaN-free inputs that end in a measured value) or wholly absent from it
    (NaN inputs, targets and seasonal values). A target that was not measured is NaN.

    Args:
        inputs: Shape [n, window, k].
        targets: The values `horizons` steps after the last input, shape [n, h, k].
        last_times: Time of the last input in nanoseconds since the epoch, shape [n].
        horizons: In steps of the period, ascending.
        period_ns: The distance of two steps in nanoseconds.
        seasonal: The value one season before each target, and for a horizon beyond one season the least number of whole
            seasons before it: never after the last input. In a short hole it is the bridged value, in a gap NaN. Shape
            [n, h, k]; left out: NaN everywhere.

    Raises:
        SchemaMismatch: the seasonal values are not of the targets' shape.
    """

    inputs: Values
    targets: Values
    last_times: Times
    horizons: tuple[int, ...]
    period_ns: int
    seasonal: Values = field(default_factory=lambda: _NO_SEASON)

    def __post_init__(self) -> None:
        if self.seasonal is _NO_SEASON:
            object.__setattr__(self, "seasonal", np.full(self.targets.shape, np.nan))
        elif self.seasonal.shape != self.targets.shape:
            raise SchemaMismatch(f"targets {self.targets.shape} need seasonal values alike, not {self.seasonal.shape}")

    def __len__(self) -> int:
        return len(self.last_times)

    @property
    def window(self) -> int:
        """How many steps a window's inputs have."""
        return int(self.inputs.shape[1])

    @property
    def width(self) -> int:
        """How many series the windows have."""
        return int(self.inputs.shape[2])

    @classmethod
    def empty(cls, window: int, horizons: tuple[int, ...], width: int, period_ns: int) -> Self:
        """No windows, of these shapes."""
        inputs, targets = np.empty((0, window, width)), np.empty((0, len(horizons), width))
        return cls(inputs, targets, np.empty(0, np.int64), horizons, period_ns)

    def pick(self, keep: NDArray[np.bool_]) -> Windows:
        """The windows for which `keep` [n] is true."""
        parts = (self.inputs[keep], self.targets[keep], self.last_times[keep])
        return Windows(*parts, self.horizons, self.period_ns, self.seasonal[keep])


@dataclass(frozen=True, slots=True, eq=False)
class LatestWindow:
    """The newest window that a forecast can start from.

    Args:
        inputs: NaN for a series that is not whole, shape [1, window, k].
        last_time: Time of the last input in nanoseconds since the epoch.
        present: Which series are whole, shape [k].
        seasonal: As in `Windows`, for the horizons that were asked for, shape [1, h, k].
    """

    inputs: Values
    last_time: int
    present: NDArray[np.bool_]
    seasonal: Values


def make_windows(
    grid: Grid, window: int, horizons: tuple[int, ...], require: NDArray[np.bool_], season: int = 0
) -> Windows:
    """Cut every window of `window` steps, with its targets, out of a bridged grid.

    No window spans a gap in a required series, from its first input to its farthest target, and each required series
    has a measured value as its last input. Another series takes part in the windows in which the same holds for it,
    and is absent from the others. A target that was only interpolated is NaN; a window without a target is left out.

    Args:
        grid: With short holes bridged already.
        window: Steps that the model sees, at least 1.
        horizons: Steps after the last input, ascending, each at least 1.
        require: Which series must be whole, at least one, shape [k].
        season: Steps after which values are expected to come again; 0: none.

    Raises:
        SchemaMismatch: an argument is not as stated.
    """
    _check(grid, window, horizons, require)
    span = window + horizons[-1]
    count = len(grid) - span + 1
    if count < 1:
        return Windows.empty(window, horizons, grid.width, grid.period_ns)
    last = np.arange(count) + window - 1
    whole = _whole(grid, span)[:count] & grid.measured[last]
    keep = np.flatnonzero(whole[:, require].all(axis=1))
    whole = whole[keep]
    inputs = _inputs(grid, window, keep, whole)
    positions = last[keep][:, None] + np.asarray(horizons)
    usable = grid.measured[positions] & whole[:, None, :]
    targets = np.where(usable, grid.values[positions], np.nan)
    seasonal = _seasonal(grid, last[keep], horizons, season, whole)
    windows = Windows(inputs, targets, grid.times[last[keep]], horizons, grid.period_ns, seasonal)
    told = usable.any(axis=(1, 2))
    return windows if bool(told.all()) else windows.pick(told)


def count_whole(grid: Grid, window: int, horizons: tuple[int, ...]) -> NDArray[np.int64]:
    """How many windows each series alone would give, shape [k].

    Raises:
        SchemaMismatch: an argument is not as in `make_windows`.
    """
    _check(grid, window, horizons, np.ones(grid.width, np.bool_))
    count = len(grid) - (window + horizons[-1]) + 1
    if count < 1:
        return np.zeros(grid.width, np.int64)
    whole = _whole(grid, window + horizons[-1])[:count] & grid.measured[window - 1 : window - 1 + count]
    return np.asarray(whole.sum(axis=0), np.int64)


def latest_window(
    grid: Grid, window: int, slack: int, horizons: tuple[int, ...] = (), season: int = 0
) -> LatestWindow | None:
    """The newest window in which as many series as possible are whole.

    Series may reach a store one after another, so that the newest bin is only half filled: of the newest `slack` + 1
    bins the window ends at the one with the most whole series, and at the newest one of these.

    Args:
        grid: With short holes bridged already.
        window: Steps that the model sees, at least 1.
        slack: How many bins before the newest one the window may end.
        horizons: Steps after the last input for which seasonal values are wanted.
        season: As in `make_windows`.

    Returns:
        None when no series is whole in any of them.

    Raises:
        SchemaMismatch: the window, the slack or the season is too small.
    """
    if window < 1 or slack < 0:
        raise SchemaMismatch(f"a window needs at least 1 step and slack 0 or more, not {window} and {slack}")
    ends = np.arange(max(len(grid) - 1 - slack, window - 1), len(grid))
    if len(ends) == 0:
        return None
    whole = _whole(grid, window)[ends - window + 1] & grid.measured[ends]
    counts = whole.sum(axis=1)
    best = len(ends) - 1 - int(np.argmax(counts[::-1]))
    if counts[best] == 0:
        return None
    last, present = ends[best : best + 1], whole[best : best + 1]
    inputs = _inputs(grid, window, last - window + 1, present)
    seasonal = _seasonal(grid, last, horizons, season, present)
    return LatestWindow(inputs, int(grid.times[last[0]]), present[0], seasonal)


def rows_needed(window: int, horizons: tuple[int, ...], min_windows: int) -> int:
    """How many rows in a stretch without a gap give `min_windows` windows."""
    return window + max(horizons) + min_windows - 1


def split_by_time(windows: Windows, cutoff_ns: int) -> tuple[Windows, Windows]:
    """Split into windows for training and held-out ones; those that straddle the cutoff are in neither.

    A bin reaches half a period to both sides of its time. A training window's bins end at or before the cutoff,
    targets included; the targets of a held-out window begin after it. Its inputs may lie before: at the time of a
    forecast they are known. Interpolation looks ahead: for a training part that holds nothing of the time after the
    cutoff, cut the rows before making the grid, as `icosfl.train.local.prepare` does.
    """
    half = windows.period_ns // 2
    ends = windows.last_times + windows.horizons[-1] * windows.period_ns + half
    begins = windows.last_times + windows.horizons[0] * windows.period_ns - half
    return windows.pick(ends <= cutoff_ns), windows.pick(begins > cutoff_ns)


def _check(grid: Grid, window: int, horizons: tuple[int, ...], require: NDArray[np.bool_]) -> None:
    if window < 1:
        raise SchemaMismatch(f"a window needs at least 1 step, not {window}")
    if not horizons or horizons[0] < 1 or list(horizons) != sorted(set(horizons)):
        raise SchemaMismatch(f"horizons must be ascending steps of at least 1, not {horizons}")
    if require.shape != (grid.width,) or not bool(require.any()):
        raise SchemaMismatch(f"windows need at least one required series of {grid.width}, not {require.tolist()}")


def _whole(grid: Grid, span: int) -> NDArray[np.bool_]:
    """Whether the series are without NaN in the `span` bins from each bin on, shape [len - span + 1, k]."""
    missing = np.concatenate([np.zeros((1, grid.width), np.int64), np.cumsum(np.isnan(grid.values), axis=0)])
    return np.asarray(missing[span:] == missing[:-span], np.bool_)


def _inputs(grid: Grid, window: int, starts: NDArray[np.int64], whole: NDArray[np.bool_]) -> Values:
    views = sliding_window_view(grid.values, window, axis=0)  # [len - window + 1, k, window], a view
    inputs = np.ascontiguousarray(views[starts].transpose(0, 2, 1))
    inputs.transpose(0, 2, 1)[~whole] = np.nan
    return inputs


def _seasonal(
    grid: Grid, last: NDArray[np.int64], horizons: tuple[int, ...], season: int, whole: NDArray[np.bool_]
) -> Values:
    """The values whole seasons before each target, shape [n, h, k], for windows that end in bins `last` [n].

    Bins are found by their times: a long gap, of which a grid keeps a single bin, moves no value into another season.
    A bridged value is one too, and looks no farther ahead than the window: a whole series is measured in bin `last`, so
    that the value that closes any hole before it lies at or before it.
    """
    if season < 0:
        raise SchemaMismatch(f"a season is at least 1 step, or 0 for none, not {season}")
    if season == 0:
        return np.full((len(last), len(horizons), grid.width), np.nan)
    ahead = np.asarray(horizons, np.int64)
    back = -(-ahead // season) * season - ahead  # steps from the last input back, at least 0
    wanted = grid.times[last][:, None] - back * grid.period_ns
    found = np.searchsorted(grid.times, wanted)  # never beyond `last`
    usable = (grid.times[found] == wanted)[..., None] & np.isfinite(grid.values[found]) & whole[:, None, :]
    return np.where(usable, grid.values[found], np.nan)
