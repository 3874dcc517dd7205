"""The model: an LSTM over the steps of time that forecasts all series at all horizons at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from icosfl.train.shape import Array, ModelShape, check_arrays

__all__ = ["Forecaster", "ModelShape", "build", "load_arrays", "to_arrays"]

# Spread of a window, in standard deviations of its series over the fleet, below which it counts as flat.
FLAT = 1e-5


class Forecaster(nn.Module):
    """Forecasts the change of each series from its last value.

    Takes scaled windows [b, window, k] without NaN, returns scaled forecasts [b, h, k]. The LSTM sees each window
    relative to its own mean and spread, and its output is in that spread (reversible instance normalisation, Kim et
    al. 2022): nodes of different size and load look alike to the shared weights. So the scaler decides no more than
    what counts as flat (`FLAT`). A fresh model forecasts no change: it starts as persistence.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.lstm = nn.LSTM(shape.series, shape.hidden, shape.layers, batch_first=True)
        self.head = nn.Linear(shape.hidden, shape.horizons * shape.series)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, windows: Tensor) -> Tensor:
        """Forecast scaled values [b, h, k] from scaled windows [b, window, k]."""
        last = windows[:, -1:, :]
        centred = windows - windows.mean(dim=1, keepdim=True)
        spread = (centred.square().mean(dim=1, keepdim=True) + FLAT**2).sqrt()
        states, _ = self.lstm(centred / spread)
        change = self.head(states[:, -1]).view(-1, self.shape.horizons, self.shape.series)
        return cast(Tensor, last + change * spread)


def build(shape: ModelShape, seed: int) -> Forecaster:
    """A fresh model; the same seed gives the same weights. The global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Forecaster(shape)


def to_arrays(model: Forecaster) -> list[Array]:
    """Copies of the model's weights, in the order of `ModelShape.arrays`."""
    return [tensor.detach().cpu().numpy().astype(np.float32, copy=True) for tensor in model.state_dict().values()]


def load_arrays(model: Forecaster, arrays: Sequence[NDArray[Any]]) -> None:
    """Set the model's weights.

    Raises:
        SchemaMismatch: the arrays are not those of a model of this shape, or not finite; the model stays as it was.
    """
    check_arrays(model.shape, arrays)
    names = [name for name, _ in model.shape.arrays()]
    tensors = [torch.from_numpy(np.array(array, np.float32)) for array in arrays]
    model.load_state_dict(dict(zip(names, tensors, strict=True)))
