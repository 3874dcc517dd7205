"""Many records of rows become one: what the store gets in a call. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icosfl.schema import Rows


def merge(parts: Sequence[Rows]) -> Rows:
    """The rows that are there once a store has taken the parts one after the other.

    Of two rows of one time the later one's values win; NaN brings none.

    Args:
        parts: At least one, all of the same width.
    """
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([part.times for part in parts])
    values = np.concatenate([part.values for part in parts])
    if bool(np.all(times[1:] > times[:-1])):
        return Rows(times, values)
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    starts = np.flatnonzero(np.concatenate(([True], times[1:] != times[:-1])))
    places = np.where(np.isnan(values), -1, np.arange(len(times))[:, np.newaxis])
    last = np.maximum.reduceat(places, starts, axis=0)  # of each time and column, where its last value stands
    merged = np.where(last < 0, np.nan, np.take_along_axis(values, np.maximum(last, 0), axis=0))
    return Rows(times[starts], merged)
