"""Between which values a quantity can lie at all, told by its unit."""

from __future__ import annotations

import math

import numpy as np

from icosfl.schema import Values

# Percentages here are shares of a whole host; what is counted, stored or spent is never less than nothing.
_PERCENT = (0.0, 100.0)
_NOT_NEGATIVE = frozenset({"1", "By", "KiBy", "MiBy", "GiBy", "By/s", "Hz", "J", "mW", "s", "W", "kW"})


def limits_of(unit: str, measured: Values) -> tuple[float, float]:
    """Return the least and the greatest value that a forecast in `unit` may state.

    `%` lies between 0 and 100, counts, sizes, times, energy and power are not negative, other units have no limits.
    A limit that the node's own measured values pass is none: they tell that it is not this quantity's.
    """
    low, high = _PERCENT if unit == "%" else (0.0 if unit in _NOT_NEGATIVE else -math.inf, math.inf)
    known = measured[np.isfinite(measured)]
    if len(known) == 0:
        return low, high
    return low if known.min() >= low else -math.inf, high if known.max() <= high else math.inf
