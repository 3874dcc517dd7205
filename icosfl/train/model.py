"""The forecaster: each node's own linear part, and one network for all nodes that forecasts what that part leaves.

Nodes are unlike in size, load and rhythm. What is linear in a node's series is fitted on the node in closed form
(`icosfl.train.linear`) and stays there. The network, whose weights travel, sees each window less its mean and in its
own spread (instance normalisation, after Kim et al. 2022), together with what the linear part forecasts of it, and says
in that spread how far above or below the outcome lies: as quantiles, so that it also says how sure it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from icosfl.errors import SchemaMismatch
from icosfl.schema import Times, Values
from icosfl.train.linear import Linear
from icosfl.train.shape import CALENDAR, COMMON, LSTM, QUANTILES, Array, ModelShape, check_arrays, read_at_once

__all__ = ["Forecaster", "ModelShape", "View", "build", "load_arrays", "look", "to_arrays"]

# How much of the linear part's usual error counts as spread in a window that hardly moves.
NOISE_SHARE = 0.25

# A window's spread in units of the usual error is told as a logarithm; no window counts as flatter than this.
FLATTEST = 1e-2

# A window that moves by less than this share of its mean moves by rounding.
ROUNDING = 1e-12

# Beyond this many spreads from its mean no value of a window is told apart.
LARGEST = 1e6

DAY_NS = 24 * 3600 * 1_000_000_000

# What a fresh model adds above and takes away below: the half width, in units of `View.unit`, before the softplus.
FRESH_WIDTH = 0.7


class Forecaster(nn.Module):
    """Forecasts quantiles of all series at all horizons.

    Takes what `look` makes of windows, and returns the quantiles [b, h, k, 3] in the windows' spreads, less their
    means; they never cross. A fresh model forecasts what the linear part does.
    """

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer(COMMON, torch.full((shape.series, shape.window, shape.horizons), 1 / shape.window))
        kind = nn.LSTM if shape.network == LSTM else nn.GRU
        self.network = kind(shape.read * shape.series, shape.hidden, shape.layers, batch_first=True)
        told = shape.horizons * shape.series
        self.head = nn.Linear(shape.hidden + told + shape.series + CALENDAR, told * len(QUANTILES))
        nn.init.zeros_(self.head.weight)
        fresh = torch.tensor([FRESH_WIDTH, 0.0, FRESH_WIDTH])
        with torch.no_grad():
            self.head.bias.copy_(fresh.repeat(told))

    def forward(self, steps: Tensor, expected: Tensor, unit: Tensor, context: Tensor) -> Tensor:
        """Quantiles [b, h, k, 3] from `View.steps`, `View.expected`, `View.unit` and `View.context`."""
        states, _ = self.network(steps)
        seen = torch.cat([states[:, -1], torch.asinh(expected).flatten(1), context], dim=1)
        below, middle, above = self.head(seen).view(*expected.shape, len(QUANTILES)).unbind(-1)
        middle = expected + unit * middle
        quantiles = (middle - unit * functional.softplus(below), middle, middle + unit * functional.softplus(above))
        return torch.stack(quantiles, dim=-1)

    @property
    def common_part(self) -> Linear:
        """The linear part for a node that cannot fit its own yet: the mean of the others'."""
        weights = self.get_buffer(COMMON).numpy().astype(np.float64)
        nothing = np.zeros((self.shape.series, self.shape.horizons))
        return Linear(weights, nothing, nothing)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What a model sees of windows, without a unit, and how to bring its forecasts back to real ones.

    Args:
        steps: Each window less its mean, in its spread, as inverse hyperbolic sines, `ModelShape.read` values of each
            series in a step, after zeros where the window is no multiple of it; 0 for an absent series; float32, shape
            [n, ceil(window / read), read * k].
        expected: The linear part's forecasts, less the window's mean, in its spread, shape [n, h, k].
        unit: What the network's corrections and widths are told in: the geometric mean of the window's spread and the
            linear part's usual error at the horizon, in the spread, shape [n, h, k].
        context: Logarithm of the spread in units of the linear part's usual error, series by series, then the time of
            day; shape [n, k + 4].
        centre: The windows' means in real units, NaN for an absent series, shape [n, 1, k].
        spread: In real units, positive, shape [n, 1, k].
    """

    steps: Tensor
    expected: Tensor
    unit: Tensor
    context: Tensor
    centre: Values
    spread: Values

    def back(self, scaled: Values) -> Values:
        """Bring the model's quantiles [n, h, k, 3] to real units; NaN for an absent series."""
        return self.centre[..., None] + scaled * self.spread[..., None]


def look(inputs: Values, linear: Linear, times: Times | None) -> View:
    """What a model sees of windows.

    A series that is absent from a window, or that the linear part cannot forecast, is absent.

    Args:
        inputs: The windows in real units, shape [n, window, k].
        linear: The linear part.
        times: Of the windows' last steps, in nanoseconds since the epoch, shape [n]; None: the time of day is not told.

    Raises:
        SchemaMismatch: windows and linear part are of different shapes.
    """
    expected = linear.predict(inputs)
    centre = np.where(linear.fitted, inputs.mean(axis=1, keepdims=True), np.nan)
    floor = np.finfo(np.float32).tiny + np.abs(np.nan_to_num(centre)) * ROUNDING
    steps, ahead = _above(floor, inputs - centre), _above(floor, expected - centre)
    moved = np.sqrt((steps**2).mean(axis=1, keepdims=True))
    noise = np.where(linear.fitted, linear.noise.mean(axis=1), 0.0)
    spread = np.sqrt(np.nan_to_num(moved) ** 2 + (NOISE_SHARE * noise) ** 2 + floor**2)
    told = (noise > 0) & np.isfinite(moved[:, 0])
    flatness = np.where(told, np.log(np.nan_to_num(moved)[:, 0] / np.where(noise > 0, noise, 1.0) + FLATTEST) / 2, 0.0)
    context = np.concatenate([flatness, _time_of_day(times, len(inputs))], axis=1)
    usual = np.where(linear.fitted, linear.noise.T, 0.0)
    unit = np.sqrt(np.where(usual > 0, usual, spread) / spread)
    read = _read(np.arcsinh(_finite(steps / spread)))
    return View(_tensor(read), _tensor(ahead / spread), _tensor(unit), _tensor(context), centre, spread)


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


def take_common(model: Forecaster, own: Linear) -> None:
    """Put a node's plain linear part in the place of the common one; a series that it could not fit stays as it was.

    Raises:
        SchemaMismatch: it is of another shape.
    """
    common = model.get_buffer(COMMON)
    if own.weights.shape != tuple(common.shape):
        raise SchemaMismatch(f"a linear part of shape {own.weights.shape} does not fit a model of {model.shape}")
    weights = torch.from_numpy(own.weights.astype(np.float32))
    common[torch.from_numpy(own.fitted)] = weights[torch.from_numpy(own.fitted)]


def _above(floor: Values, values: Values) -> Values:
    """The values, with 0 for those that are no larger than the floor."""
    return np.where(np.abs(values) <= floor, 0.0, values)


def _time_of_day(times: Times | None, count: int) -> Values:
    if times is None:
        return np.zeros((count, CALENDAR))
    angle = 2 * np.pi * (times % DAY_NS / DAY_NS)[:, None] * np.arange(1, CALENDAR // 2 + 1)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def _read(steps: Values) -> Values:
    """Windows [n, window, k] as the network reads them: `View.steps`."""
    count, window, width = steps.shape
    read = read_at_once(window)
    whole = np.pad(steps, ((0, 0), (-window % read, 0), (0, 0)))
    return whole.reshape(count, whole.shape[1] // read, read * width)


def _tensor(values: Values) -> Tensor:
    return torch.from_numpy(_finite(values).astype(np.float32))


def _finite(values: Values) -> Values:
    return np.clip(np.nan_to_num(values), -LARGEST, LARGEST)
