"""Fitting a model to a node's windows, and forecasting with it: real units outside, each window's own within."""

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
from icosfl.process.windows import Windows
from icosfl.schema import Times, Values
from icosfl.train.linear import Linear
from icosfl.train.model import DAY_NS, Forecaster, look
from icosfl.train.shape import CALENDAR, QUANTILES, read_at_once

LARGEST_GRADIENT = 1.0
BATCH = 1024

# A series that a line foretells almost without error must not outweigh all others: the unit of its loss is at least
# this share of its windows' usual spread. Of the 13 recorded hosts none is so near to a line.
LEAST_NOISE = 0.2

# Windows that span less tell nothing of the time of day: each of its hours was there once, if at all.
LEAST_DAYS = 2


@dataclass(frozen=True, slots=True)
class FitReport:
    """What a fit did.

    Args:
        examples: Windows trained on.
        loss: Mean loss of the last epoch, while learning.
        seconds: How long it took.
    """

    examples: int
    loss: float
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What is learned from: what the model sees of each window, the targets in the same terms, and what each counts.

    Args:
        steps: As in `View`.
        expected: As in `View`.
        unit: As in `View`.
        context: As in `View`.
        targets: Less the windows' means, in their spreads, shape [n, h, k]; 0 where missing.
        weights: What each target's error counts, shape [n, h, k]; 0 where missing.
    """

    steps: Tensor
    expected: Tensor
    unit: Tensor
    context: Tensor
    targets: Tensor
    weights: Tensor


def fit(  # noqa: PLR0913 (each is one plain setting)
    model: Forecaster,
    windows: Windows,
    linear: Linear,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    proximal_mu: float = 0.0,
) -> FitReport:
    """Train the model in place on windows in real units, above the node's linear part.

    The loss is the pinball loss of the quantiles (Koenker and Bassett 1978), summed over them, in units of the linear
    part's usual error (see `LEAST_NOISE`) and averaged over the series and horizons that have targets: each counts the
    same, whatever its unit and however far ahead. A missing target takes no part. The same seed, data and weights give
    the same result; one thread is used.

    With a `proximal_mu` above 0 half of it times the squared distance of all weights from where they began is added to
    the loss (FedProx, Li et al. 2020), but not to the loss that is reported.

    Raises:
        NotReady: there is no window, or none has a target to learn from.
        SchemaMismatch: model, windows and linear part are of different shapes.
        RunFailed: the loss or a weight is not finite any more.
    """
    check_fit(model, windows, linear)
    started = time.monotonic()
    with one_thread():
        examples = examples_of(windows, linear)
        loss = learn(
            model,
            examples,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            proximal_mu=proximal_mu,
        )
    return FitReport(len(windows), loss, time.monotonic() - started)


def learn(  # noqa: PLR0913 (each is one plain setting)
    model: Forecaster,
    examples: Examples,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
    proximal_mu: float = 0.0,
) -> float:
    """Train the model in place on examples, as `fit` does, and return the mean loss of the last epoch.

    Raises:
        RunFailed: the loss or a weight is not finite any more.
    """
    optimiser = _Adam(list(model.parameters()), learning_rate, proximal_mu)
    order = torch.Generator().manual_seed(seed)
    with one_thread():
        losses = [_epoch(model, examples, optimiser, batch_size, order) for _ in range(epochs)]
    if not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters()):
        raise _diverged("a weight")
    return losses[-1]


def predict(model: Forecaster, linear: Linear | None, inputs: Values, times: Times) -> Values:
    """Forecast quantiles [n, h, k, 3], ascending, from inputs [n, window, k], both in real units.

    A series that is absent from a window, or that the linear part cannot forecast, is absent (NaN).

    Args:
        model: The global model.
        linear: The node's own linear part; None: the model's common one.
        inputs: The windows.
        times: Of their last steps, in nanoseconds since the epoch, shape [n].

    Raises:
        SchemaMismatch: model, linear part and inputs are of different shapes.
    """
    own = model.common_part if linear is None else linear
    _check_shapes(model, own, inputs)
    outputs = np.empty((len(inputs), model.shape.horizons, model.shape.series, len(QUANTILES)))
    with one_thread(), torch.inference_mode():
        for part in _parts(len(inputs)):
            view = look(inputs[part], own, times[part])
            outputs[part] = view.back(model(view.steps, view.expected, view.unit, view.context).numpy())
    return outputs


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

    Args:
        parameters: To be moved.
        learning_rate: How far, at most about.
        proximal_mu: Of FedProx's proximal term, which draws them back to where they began; 0: none.
    """

    def __init__(self, parameters: list[nn.Parameter], learning_rate: float, proximal_mu: float) -> None:
        self.parameters = parameters
        self._learning_rate = learning_rate
        self._proximal_mu = proximal_mu
        self._began = [parameter.detach().clone() for parameter in parameters]
        self._means = [torch.zeros_like(parameter) for parameter in parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in parameters]
        self._steps = [torch.zeros(()) for _ in parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients and the proximal term's, and drop these."""
        for parameter, began in zip(self.parameters, self._began, strict=True):
            if parameter.grad is not None and self._proximal_mu > 0:
                parameter.grad.add_(parameter - began, alpha=self._proximal_mu)
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


def _epoch(model: Forecaster, data: Examples, optimiser: _Adam, batch_size: int, order: torch.Generator) -> float:
    """One pass in a new order; returns the mean loss over the windows."""
    total = 0.0
    for batch in torch.split(torch.randperm(len(data.steps), generator=order), batch_size):
        quantiles = model(data.steps[batch], data.expected[batch], data.unit[batch], data.context[batch])
        loss = _pinball(data.targets[batch].unsqueeze(-1) - quantiles, data.weights[batch])
        if not bool(torch.isfinite(loss)):
            raise _diverged("the loss")
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        total += float(loss.detach()) * len(batch)
    return total / len(data.steps)


def _diverged(what: str) -> RunFailed:
    return RunFailed(f"training diverged: {what} is not finite", cure="lower learning-rate")


def _pinball(errors: Tensor, weights: Tensor) -> Tensor:
    """Mean over windows of the weighted pinball loss of errors [b, h, k, 3], weights [b, h, k]."""
    shares = torch.tensor(QUANTILES)
    losses = torch.maximum(shares * errors, (shares - 1) * errors).sum(dim=-1)
    return (losses * weights).sum(dim=(1, 2)).mean()


def examples_of(windows: Windows, linear: Linear) -> Examples:
    """Inputs and targets without NaN, and weights: 0 for a target that is missing, or that never leaves an error.

    Raises:
        NotReady: there is nothing to learn from.
    """
    told = np.isfinite(windows.targets) & linear.fitted
    count = told.sum(axis=0)
    learnable = (count > 0) & (np.nan_to_num(linear.noise.T) > 0)
    if not bool(learnable.any()):
        raise NotReady("no window has a target to learn from: every series is constant, or absent")
    share = len(windows) / (np.maximum(count, 1) * int(learnable.sum()))
    examples, centre, spread = _seen(windows, linear)
    there = np.isfinite(centre)
    usual = (spread * there).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    noise = np.where(learnable, np.maximum(linear.noise.T, LEAST_NOISE * usual), 1.0)
    for part in _parts(len(windows)):
        scaled = (windows.targets[part] - centre[part]) / spread[part]
        weights = np.where(told[part] & learnable, share * spread[part] / noise, 0.0)
        examples.targets[part], examples.weights[part] = _tensor(np.nan_to_num(scaled)), _tensor(weights)
    return examples


def _seen(windows: Windows, linear: Linear) -> tuple[Examples, Values, Values]:
    """Examples with their targets and weights still to be filled in, and the windows' means and spreads [n, 1, k].

    Windows are looked at in parts, so that little is in memory beside them in the precision that looking needs.
    """
    count, window, width = windows.inputs.shape
    ahead = (count, len(windows.horizons), width)
    read = read_at_once(window)
    examples = Examples(
        steps=torch.empty(count, -(-window // read), read * width),
        expected=torch.empty(ahead),
        unit=torch.empty(ahead),
        context=torch.empty(count, width + CALENDAR),
        targets=torch.empty(ahead),
        weights=torch.empty(ahead),
    )
    centre, spread = np.empty((count, 1, width)), np.empty((count, 1, width))
    tells_days = _tells_days(windows)
    for part in _parts(count):
        view = look(windows.inputs[part], linear, windows.last_times[part] if tells_days else None)
        for name in ("steps", "expected", "unit", "context"):
            getattr(examples, name)[part] = getattr(view, name)
        centre[part], spread[part] = view.centre, view.spread
    return examples, centre, spread


def _tells_days(windows: Windows) -> bool:
    """Whether the windows span days enough to learn from that a time of day comes again."""
    return int(windows.last_times[-1] - windows.last_times[0]) >= LEAST_DAYS * DAY_NS


def _parts(count: int) -> Iterator[slice]:
    """Parts of `count` windows that are looked at together, so that memory stays small."""
    return (slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH))


def _tensor(values: Values) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


def check_fit(model: Forecaster, windows: Windows, linear: Linear) -> None:
    """Make sure that a model, windows and a linear part belong together.

    Raises:
        NotReady: there is no window.
        SchemaMismatch: they are of different shapes.
    """
    _check_shapes(model, linear, windows.inputs)
    if len(windows) == 0:
        raise NotReady("there is no window to train on")
    if len(windows.horizons) != model.shape.horizons:
        raise SchemaMismatch(f"a model of {model.shape.horizons} horizons cannot learn {len(windows.horizons)}")


def _check_shapes(model: Forecaster, linear: Linear, inputs: Values) -> None:
    shape = model.shape
    wanted = (shape.series, shape.window, shape.horizons)
    if inputs.ndim != 3 or inputs.shape[1:] != (shape.window, shape.series) or linear.weights.shape != wanted:
        raise SchemaMismatch(
            f"a model of {shape.series} series, {shape.window} steps and {shape.horizons} horizons cannot take inputs "
            f"of shape {inputs.shape} and a linear part of shape {linear.weights.shape}"
        )
