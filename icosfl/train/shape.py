"""The shape of a model, without torch: for guards, artifacts and queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides the shapes of a model's arrays.

    Args:
        series: How many series it sees and forecasts.
        horizons: How many horizons it forecasts.
        hidden: Width of the LSTM.
        layers: Layers of the LSTM.

    Raises:
        SchemaMismatch: one of them is not at least 1.
    """

    series: int
    horizons: int
    hidden: int
    layers: int

    def __post_init__(self) -> None:
        if min(self.series, self.horizons, self.hidden, self.layers) < 1:
            raise SchemaMismatch(f"a model needs at least one of everything, not {self}")

    def arrays(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of each array of the model, in the order in which they travel."""
        gates = 4 * self.hidden
        arrays: list[tuple[str, tuple[int, ...]]] = []
        for layer in range(self.layers):
            width = self.series if layer == 0 else self.hidden
            arrays += [
                (f"lstm.weight_ih_l{layer}", (gates, width)),
                (f"lstm.weight_hh_l{layer}", (gates, self.hidden)),
                (f"lstm.bias_ih_l{layer}", (gates,)),
                (f"lstm.bias_hh_l{layer}", (gates,)),
            ]
        out = self.horizons * self.series
        return (*arrays, ("head.weight", (out, self.hidden)), ("head.bias", (out,)))


def check_arrays(shape: ModelShape, arrays: Sequence[NDArray[Any]]) -> None:
    """Make sure that arrays are those of a model of this shape.

    Raises:
        SchemaMismatch: their number, a shape or a type is wrong, or a number is not finite.
    """
    expected = shape.arrays()
    if len(arrays) != len(expected):
        raise SchemaMismatch(f"a model of this shape has {len(expected)} arrays, not {len(arrays)}")
    for (name, dimensions), array in zip(expected, arrays, strict=True):
        if array.shape != dimensions:
            raise SchemaMismatch(f"{name} must be of shape {dimensions}, not {array.shape}")
        if array.dtype != np.float32:
            raise SchemaMismatch(f"{name} must be of the floating type float32, not {array.dtype}")
        if not bool(np.all(np.isfinite(array))):
            raise SchemaMismatch(f"{name} holds numbers that are not finite")
