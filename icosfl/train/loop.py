"""Fitting a model to a node's windows, and forecasting with it, in real units outside and scaled within."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from icosfl.errors import NotReady, RunFailed, SchemaMismatch
from icosfl.process.scale import Scaler
from icosfl.process.windows import Windows
from icosfl.schema import Values
from icosfl.train.model import FLAT, Forecaster

# Scaled distances from a window's last value are cut off here, so that one wild value cannot overflow.
LARGEST_SCALED = 1e6
LARGEST_GRADIENT = 1.0
BATCH = 1024


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit did.

    Args:
        examples: Windows trained on.
        epochs: Passes over them.
        loss_first: Mean loss of the first epoch, while learning; 1 is the loss of persistence.
        loss_last: Mean loss of the last epoch, while learning.
        seconds: How long it took.
    """

    examples: int
    epochs: int
    loss_first: float
    loss_last: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Tensors:
    inputs: Tensor
    targets: Tensor
    weights: Tensor


def fit(  # noqa: PLR0913 (each is one plain setting)
    model: Forecaster,
    windows: Windows,
    scaler: Scaler,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> FitReport:
    """Train the model in place on windows in real units.

    The loss is the squared error divided by that of persistence on the same windows, averaged over the series and
    horizons that have targets: each counts the same, whatever its unit and however far ahead. A missing target takes
    no part. The same seed, data and weights give the same result; one thread is used.

    Raises:
        NotReady: no window has a target.
        SchemaMismatch: model, windows and scaler are of different shapes.
        RunFailed: the loss or a weight is not finite any more.
    """
    check_fit(model, windows, scaler)
    started = time.monotonic()
    with one_thread():
        data = _tensors(windows, scaler)
        optimiser = _Adam(list(model.parameters()), learning_rate)
        order = torch.Generator().manual_seed(seed)
        losses = [_epoch(model, data, optimiser, batch_size, order) for _ in range(epochs)]
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise _diverged("a weight")
    return FitReport(len(windows), epochs, losses[0], losses[-1], time.monotonic() - started)


def predict(model: Forecaster, scaler: Scaler, inputs: Values) -> Values:
    """Forecast from inputs [n, window, k] in real units to values [n, h, k] in real units.

    A series that is absent from a window, or unknown to the scaler, is absent (NaN) from its forecast.

    Raises:
        SchemaMismatch: model, scaler and inputs are of different shapes.
    """
    _check_inputs(model, scaler, inputs)
    outputs = np.empty((len(inputs), model.shape.horizons, model.shape.series))
    with one_thread(), torch.inference_mode():
        for part in _parts(len(inputs)):
            last = scaler.transform(inputs[part, -1:, :])
            steps = _from_last(scaler, inputs[part], last)
            absent = np.isnan(steps).any(axis=1, keepdims=True)
            outputs[part] = np.where(absent, np.nan, last + model(_tensor(steps)).numpy())
    return scaler.inverse(outputs)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: small models gain nothing from more, and the node has other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Adam:
    """Adam, by torch's own function for its step.

    The class `torch.optim.Adam` would load torch's compiler first: 1.7 s of a core and 70 MB in each process.
    """

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float) -> None:
        self.parameters = parameters
        self._learning_rate = learning_rate
        self._means = [torch.zeros_like(parameter) for parameter in parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients, and drop these."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        adam(
            list[Tensor](self.parameters),
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            foreach=False,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
        for parameter in self.parameters:
            parameter.grad = None


def _epoch(model: Forecaster, data: _Tensors, optimiser: _Adam, batch_size: int, order: torch.Generator) -> float:
    """One pass in a new order; returns the mean loss over the windows."""
    total = 0.0
    for batch in torch.split(torch.randperm(len(data.inputs), generator=order), batch_size):
        loss = _loss(model(data.inputs[batch]), data.targets[batch], data.weights[batch])
        if not bool(torch.isfinite(loss)):
            raise _diverged("the loss")
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach()) * len(batch)
    return total / len(data.inputs)


def _diverged(what: str) -> RunFailed:
    return RunFailed(f"training diverged: {what} is not finite", cure="lower learning-rate")


def _loss(forecasts: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return ((forecasts - targets).square() * weights).sum(dim=(1, 2)).mean()


def _tensors(windows: Windows, scaler: Scaler) -> _Tensors:
    """Inputs and targets without NaN, and weights: 0 where a target is missing, else 1 / the error of persistence."""
    last = scaler.transform(windows.inputs[:, -1:, :])
    targets = _from_last(scaler, windows.targets, last)
    squares = targets**2
    told = np.isfinite(squares)
    if not bool(told.any()):
        raise NotReady("no window has a target to learn from")
    count = np.maximum(told.sum(axis=0), 1)
    persistence = np.where(told, squares, 0.0).sum(axis=0) / count
    learnable = persistence > FLAT**2
    share = len(windows) / (count * max(int(learnable.sum()), 1))
    weights = np.where(told & learnable, share / np.where(learnable, persistence, 1.0), 0.0)
    inputs = torch.empty(windows.inputs.shape, dtype=torch.float32)
    for part in _parts(len(windows)):
        inputs[part] = _tensor(_from_last(scaler, windows.inputs[part], last[part]))
    return _Tensors(inputs, _tensor(targets), _tensor(weights))


def _parts(count: int) -> Iterator[slice]:
    """Parts of `count` windows that are scaled or forecast at a time, so that memory stays small."""
    return (slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def _from_last(scaler: Scaler, values: Values, last: Values) -> Values:
    """Scaled values less the scaled last one of their window.

    The model looks at nothing else, and so neither float32 nor the limit touches a series that moves little beside
    its size, or that was still when the scaler was made.
    """
    with np.errstate(invalid="ignore"):
        return np.clip(scaler.transform(values) - last, -LARGEST_SCALED, LARGEST_SCALED)


def _tensor(values: Values) -> Tensor:
    return torch.from_numpy(np.nan_to_num(values, nan=0.0).astype(np.float32))


def check_fit(model: Forecaster, windows: Windows, scaler: Scaler) -> None:
    """Make sure that a model, windows and a scaler belong together.

    Raises:
        NotReady: there is no window.
        SchemaMismatch: they are of different shapes.
    """
    _check_inputs(model, scaler, windows.inputs)
    if len(windows) == 0:
        raise NotReady("there is no window to train on")
    if len(windows.horizons) != model.shape.horizons:
        raise SchemaMismatch(f"a model of {model.shape.horizons} horizons cannot learn {len(windows.horizons)}")


def _check_inputs(model: Forecaster, scaler: Scaler, inputs: Values) -> None:
    if inputs.ndim != 3 or inputs.shape[2] != model.shape.series or len(scaler) != model.shape.series:
        raise SchemaMismatch(
            f"a model of {model.shape.series} series cannot take inputs of shape {inputs.shape} and a scaler of "
            f"{len(scaler)}"
        )
