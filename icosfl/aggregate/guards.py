"""Which replies may enter an average: plain checks on values, one reason for each that may not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icosfl.errors import SchemaMismatch
from icosfl.train.messages import Update
from icosfl.train.shape import Array, ModelShape, check_arrays

# No sound weight is larger: a network that learns on numbers around 1 has none of hundreds.
LARGEST_WEIGHT = 1e3

# The weights of a plain linear part sum to 1 (`icosfl.train.linear.fit_common`), as far as float32 can say it.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Expected:
    """What a valid update looks like: by this host, from this version, of this shape, from so many windows at most."""

    host: str
    version: str
    shape: ModelShape
    most_examples: int


def fault(update: Update, expected: Expected) -> str | None:
    """Why an update may not enter the average; None when it may."""
    trained = update.trained
    if trained.host != expected.host:
        return f"the reply comes from {trained.host}"
    if trained.version != expected.version:
        return f"trained version {trained.version} instead of {expected.version}"
    if not 1 <= update.examples <= expected.most_examples:
        return f"trained on {update.examples} examples, and said at first that it has {expected.most_examples}"
    if not math.isfinite(trained.loss):
        return "its loss is not finite"
    try:
        check_arrays(expected.shape, update.arrays)
    except SchemaMismatch as error:
        return error.message
    return _wild(expected.shape, update.arrays)


def _wild(shape: ModelShape, arrays: Sequence[Array]) -> str | None:
    """Why finite arrays of the right shape cannot come from training; None when they can."""
    for (name, _), array in zip(shape.arrays(), arrays, strict=True):
        largest = float(np.abs(array).max())
        if largest > LARGEST_WEIGHT:
            return f"{name} holds {largest:.3g}, no weight is larger than {LARGEST_WEIGHT:g}"
    off = float(np.abs(arrays[0].sum(axis=1, dtype=np.float64) - 1).max())
    if off > SUM_TOLERANCE:
        return f"its linear part's weights do not sum to 1, they are {off:.3g} off"
    return None
