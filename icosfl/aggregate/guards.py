"""Which updates may be combined: plain checks on values, one reason for each that may not, or not as it came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from icosfl.aggregate.progress import Absent
from icosfl.aggregate.settings import REJECT, CombineSettings
from icosfl.errors import SchemaMismatch
from icosfl.train.messages import Arrays, Update
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


@dataclass(frozen=True, slots=True, eq=False)
class Contribution:
    """A valid update, as it is combined with the others of its round.

    Args:
        host: The node's name.
        arrays: In the order of `ModelShape.arrays`.
        examples: How many windows it was trained on, at least 1.
        has: Which series the node has, shape [k].
    """

    host: str
    arrays: Arrays
    examples: int
    has: NDArray[np.bool_]


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
    return unfit(expected.shape, update.arrays)


def unfit(shape: ModelShape, arrays: Arrays) -> str | None:
    """Why these are no arrays of a trained model of this shape; None when they may be."""
    try:
        check_arrays(shape, arrays)
    except SchemaMismatch as error:
        return error.message
    return _wild(shape, arrays)


def bound(
    before: Arrays, contributions: Sequence[Contribution], settings: CombineSettings
) -> tuple[list[Contribution], list[Absent]]:
    """The updates that are not too far from the round's model, and what is said of those that were.

    Too far is `norm_factor` times the median distance, over all numbers of a model. One that is too far is brought
    nearer on a straight line, or left out, as `norm_action` says.

    Args:
        before: The arrays that the round began with.
        contributions: Whose arrays have the same shapes, and are finite.
        settings: Of the run.
    """
    distances = [_distance(before, one.arrays) for one in contributions]
    limit = settings.norm_factor * float(np.median(distances)) if distances else 0.0
    # Where most updates have not moved at all, the median tells nothing of the others.
    if limit == 0:
        return list(contributions), []
    kept, notes = [], []
    for one, distance in zip(contributions, distances, strict=True):
        if distance <= limit:
            kept.append(one)
            continue
        far = f"{distance:.3g} from the round's model, {settings.norm_factor:g} times the median are {limit:.3g}"
        if settings.norm_action == REJECT:
            notes.append(Absent(one.host, f"rejected: {far}"))
        else:
            notes.append(Absent(one.host, f"clipped: {far}"))
            kept.append(replace(one, arrays=_nearer(before, one.arrays, limit / distance)))
    return kept, notes


def counted(
    contributions: Sequence[Contribution], settings: CombineSettings
) -> tuple[list[Contribution], list[Absent]]:
    """The updates with no more examples than `norm_factor` times the median, and what is said of those that had more.

    How many examples there were a node only says; a mean would follow whoever says most.

    Args:
        contributions: Of a round.
        settings: Of the run.
    """
    limit = int(settings.norm_factor * float(np.median([one.examples for one in contributions] or [0])))
    if limit == 0:
        return list(contributions), []
    notes = [
        Absent(one.host, f"counts as {limit} windows instead of {one.examples}, more than others have")
        for one in contributions
        if one.examples > limit
    ]
    return [replace(one, examples=min(one.examples, limit)) for one in contributions], notes


def _distance(before: Arrays, after: Arrays) -> float:
    squares = [float(np.square(new.astype(np.float64) - old).sum()) for old, new in zip(before, after, strict=True)]
    return math.sqrt(math.fsum(squares))


def _nearer(before: Arrays, after: Arrays, share: float) -> Arrays:
    return [
        (old + share * (new.astype(np.float64) - old)).astype(new.dtype) for old, new in zip(before, after, strict=True)
    ]


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
