"""The sliding window of rows that every store keeps: pure numpy, no clock, no lock, no input or output.

The window is one contiguous slice of a buffer twice its size, so reading it is one copy of a slice, and only every
`capacity` rows is it moved to the buffer's front.
"""

from __future__ import annotations

import numpy as np

from icosfl.schema import Times, Values


class Ring:
    """The newest `capacity` rows, one for each time, in the order of time.

    Args:
        capacity: How many rows are kept, at least 1.
        width: How many columns a row has, at least 1.

    Raises:
        ValueError: capacity or width is below 1.
    """

    def __init__(self, capacity: int, width: int) -> None:
        if capacity < 1 or width < 1:
            raise ValueError(f"a window needs at least one row and one column, not {capacity} and {width}")
        self._capacity = capacity
        self._times = np.empty(2 * capacity, np.int64)
        self._values = np.empty((2 * capacity, width), np.float64)
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def capacity(self) -> int:
        """How many rows are kept."""
        return self._capacity

    @property
    def width(self) -> int:
        """How many columns a row has."""
        return int(self._values.shape[1])

    @property
    def oldest(self) -> int | None:
        """The time of the oldest row, in ns; None when there is none."""
        return int(self._times[self._start]) if len(self) else None

    @property
    def newest(self) -> int | None:
        """The time of the newest row, in ns; None when there is none."""
        return int(self._times[self._end - 1]) if len(self) else None

    def read(self, last: int | None = None) -> tuple[Times, Values]:
        """Copy the newest `last` rows (None: all).

        Returns:
            Times, shape [n], and values, shape [n, width].
        """
        start = self._start if last is None else max(self._start, self._end - max(last, 0))
        return self._times[start : self._end].copy(), self._values[start : self._end].copy()

    def append(self, times: Times, values: Values) -> bool:
        """Put rows in their place.

        A row whose time is already there fills the values that it brings (NaN brings none); a row older than a full
        window is left out.

        Args:
            times: Strictly ascending, shape [n].
            values: Shape [n, width].

        Returns:
            Whether the window is another one now.

        Raises:
            ValueError: the shapes do not fit.
        """
        if times.ndim != 1 or values.shape != (len(times), self.width):
            raise ValueError(f"{times.shape} times and {values.shape} values do not fit {self.width} columns")
        if not len(times):
            return False
        newest = self.newest
        if newest is None or times[0] > newest:
            self._push(times, values)
            return True
        late = int(np.searchsorted(times, newest, side="right"))
        changed = self._merge(times[:late], values[:late])
        if late < len(times):
            self._push(times[late:], values[late:])
            return True
        return changed

    def resize(self, capacity: int) -> None:
        """Keep `capacity` rows from now on; the oldest rows go if there are more.

        Raises:
            ValueError: the capacity is below 1.
        """
        resized = Ring(capacity, self.width)
        resized._push(*self.read())
        self.__dict__.update(resized.__dict__)

    def _push(self, times: Times, values: Values) -> None:
        """Add rows that are newer than all there are."""
        count = min(len(times), self._capacity)
        if self._end + count > len(self._times):
            kept = min(len(self), self._capacity - count)
            self._times[:kept] = self._times[self._end - kept : self._end]
            self._values[:kept] = self._values[self._end - kept : self._end]
            self._start, self._end = 0, kept
        first, self._end = self._end, self._end + count
        self._times[first : self._end] = times[len(times) - count :]
        self._values[first : self._end] = values[len(times) - count :]
        self._start = max(self._start, self._end - self._capacity)

    def _merge(self, times: Times, values: Values) -> bool:
        """Add rows that are not newer than all there are; only the window after the first of them is rebuilt."""
        untouched = int(np.searchsorted(self._times[self._start : self._end], times[0]))
        after = slice(self._start + untouched, self._end)
        old_times, old_values = self._times[after].copy(), self._values[after].copy()
        merged_times = np.union1d(old_times, times)
        merged = np.full((len(merged_times), self.width), np.nan)
        merged[np.searchsorted(merged_times, old_times)] = old_values
        places = np.searchsorted(merged_times, times)
        before = merged[places]
        now = np.where(np.isnan(values), before, values)
        merged[places] = now

        stays = places >= len(merged_times) - self._capacity
        is_new = ~np.isin(times, old_times, assume_unique=True)
        differs = ~((now == before) | (np.isnan(now) & np.isnan(before))).all(axis=1)
        if not bool(np.any(stays & (is_new | differs))):
            return False
        self._end -= len(old_times)
        self._push(merged_times, merged)
        return True
