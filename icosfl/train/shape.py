"""The shape of a model, without torch: for guards, artifacts and queries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch

Array = NDArray[np.float32]

# Sine and cosine of the time of day, once and twice a day: what the network is told of the calendar.
CALENDAR = 4

# The network reads several values of each series in a step: as good as one by one, and three times as quick. A short
# window is read by so few at a time that the network takes this many steps.
MOST_READ = 5
LEAST_STEPS = 8

# The array that is not trained but averaged: see `icosfl.train.model`.
COMMON = "common"


# The shares of all outcomes that lie below the three values of a forecast.
QUANTILES = (0.1, 0.5, 0.9)

LSTM = "lstm"
GRU = "gru"

# Gates of each network's cell; each has as many rows of weights as the network is wide.
NETWORKS = {LSTM: 4, GRU: 3}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What decides the shapes of a model's arrays.

    Args:
        network: Its name in `NETWORKS`.
        series: How many series it sees and forecasts.
        horizons: How many horizons it forecasts.
        window: How many steps it sees.
        hidden: Width of the network.
        layers: Layers of the network.

    Raises:
        SchemaMismatch: the network is not known, or a number is not at least 1.
    """

    network: str
    series: int
    horizons: int
    window: int
    hidden: int
    layers: int

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise SchemaMismatch(f"{self.network!r} is no network; there are {', '.join(NETWORKS)}")
        if min(self.series, self.horizons, self.window, self.hidden, self.layers) < 1:
            raise SchemaMismatch(f"a model needs at least one of everything, not {self}")

    @property
    def read(self) -> int:
        """How many values of each series the network reads in a step."""
        return read_at_once(self.window)

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return sum(math.prod(dimensions) for _, dimensions in self.arrays())

    def arrays(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and shape of each array of the model, in the order in which they travel."""
        gates = NETWORKS[self.network] * self.hidden
        arrays: list[tuple[str, tuple[int, ...]]] = [(COMMON, (self.series, self.window, self.horizons))]
        for layer in range(self.layers):
            width = self.read * self.series if layer == 0 else self.hidden
            arrays += [
                (f"network.weight_ih_l{layer}", (gates, width)),
                (f"network.weight_hh_l{layer}", (gates, self.hidden)),
                (f"network.bias_ih_l{layer}", (gates,)),
                (f"network.bias_hh_l{layer}", (gates,)),
            ]
        told = self.horizons * self.series
        seen = self.hidden + told + self.series + CALENDAR
        return (*arrays, ("head.weight", (len(QUANTILES) * told, seen)), ("head.bias", (len(QUANTILES) * told,)))


def read_at_once(window: int) -> int:
    """How many of a window's values of each series the network reads in a step."""
    return min(max(window // LEAST_STEPS, 1), MOST_READ)


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
