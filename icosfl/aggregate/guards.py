"""Which replies may enter an average: plain checks on values, one reason for each that may not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from icosfl.errors import SchemaMismatch
from icosfl.train.messages import Update
from icosfl.train.shape import ModelShape, check_arrays


@dataclass(frozen=True, slots=True)
class Expected:
    """What a valid update looks like: made by this host, from this version, of this shape."""

    host: str
    version: str
    shape: ModelShape


def fault(update: Update, expected: Expected) -> str | None:
    """Why an update may not enter the average; None when it may."""
    trained = update.trained
    if trained.host != expected.host:
        return f"the reply comes from {trained.host}"
    if trained.version != expected.version:
        return f"trained version {trained.version} instead of {expected.version}"
    if update.examples < 1:
        return f"trained on {update.examples} examples"
    if not math.isfinite(trained.loss):
        return "its loss is not finite"
    try:
        check_arrays(expected.shape, update.arrays)
    except SchemaMismatch as error:
        return error.message
    return None
