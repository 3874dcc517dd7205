"""ICOS-FL's learning, written from its description: what the forecaster is measured against. No code of it is here.

A window of 10 values is one step of 10 features for an LSTM of width 10 with a linear head, which says the next value.
The whole series is standardised, the rows that it is judged by included. Each round every node trains with Adam
(1e-3, batches of 64, mean squared error) from the mean of the models before it, weighted by samples. One model a
series, one step ahead.

An LSTM that sees one step starts from an empty state: what goes from state to state (400 of its 891 numbers) is
multiplied by nothing and never learned, and is left out here. Windows are cut once, and the models of nodes with as
many samples, and of all seeds, are trained side by side: the same steps of the same models, sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from icosfl.schema import Rows, Times, Values
from icosfl.train.loop import one_thread

STEPS = 10
HIDDEN = 10
ROUNDS = 10
EPOCHS = 20
BATCH = 64
LEARNING_RATE = 1e-3

# Of m models side by side: the gates' weights and two biases, the head's weights and bias.
Weights = list[Tensor]


@dataclass(frozen=True, eq=False)
class Node:
    """One series of a node.

    Args:
        windows: All of them, standardised, shape [n, STEPS].
        targets: The value after each, standardised, shape [n].
        times: Of the targets, in nanoseconds since the epoch, shape [n].
        samples: How many of the oldest are trained on.
        mean: Of the whole series.
        spread: Of the whole series.
    """

    windows: Tensor
    targets: Tensor
    times: Times
    samples: int
    mean: float
    spread: float

    @classmethod
    def of(cls, rows: Rows, column: int, cutoff_ns: int) -> Node:
        """A series of a node's rows; missing values are interpolated, as it could not learn with them."""
        told = np.isfinite(rows.values[:, column])
        whole = np.interp(rows.times, rows.times[told], rows.values[told, column])
        mean, spread = float(whole.mean()), float(whole.std()) or 1.0
        scaled = torch.from_numpy(((whole - mean) / spread).astype(np.float32))
        times = rows.times[STEPS:]
        samples = int((times <= cutoff_ns).sum()) - 1  # it leaves one out
        return cls(scaled.unfold(0, STEPS, 1)[:-1].contiguous(), scaled[STEPS:], times, samples, mean, spread)


def forecasts(nodes: Sequence[Node], seeds: Sequence[int], step: Callable[[], None]) -> list[Values]:
    """Train on all nodes, and return each one's one-step forecasts in real units, shape [seeds, n].

    Args:
        nodes: One series of each node.
        seeds: Of the first weights and the order of samples.
        step: Called after each round.
    """
    groups = [list(same) for _, same in groupby(sorted(nodes, key=_samples), key=_samples)]
    total = sum(node.samples for node in nodes)
    with one_thread(), torch.random.fork_rng(devices=[]):
        weights = _fresh(seeds)
        for _ in range(ROUNDS):
            mean = [torch.zeros_like(tensor) for tensor in weights]
            for group in groups:
                share = group[0].samples / total
                for averaged, trained in zip(mean, _trained(weights, group), strict=True):
                    averaged.add_(trained.unflatten(0, (len(group), len(seeds))).sum(dim=0), alpha=share)
            weights = mean
            step()
        return [_real(node, _forward(weights, node.windows.expand(len(seeds), -1, -1))) for node in nodes]


def _samples(node: Node) -> int:
    return node.samples


def _fresh(seeds: Sequence[int]) -> Weights:
    """First weights as torch gives them to such an LSTM and head."""
    drawn: list[Weights] = []
    for seed in seeds:
        torch.manual_seed(seed)
        lstm, head = nn.LSTM(STEPS, HIDDEN), nn.Linear(HIDDEN, 1)
        biases = [lstm.bias_ih_l0[None], lstm.bias_hh_l0[None]]
        drawn.append([lstm.weight_ih_l0.T, *biases, head.weight.T, head.bias[None]])
    return [torch.stack([tensor.detach() for tensor in tensors]) for tensors in zip(*drawn, strict=True)]


def _trained(weights: Weights, group: Sequence[Node]) -> Weights:
    """The models of a group's nodes after a round, node by node, for each all seeds."""
    count, seeds = group[0].samples, len(weights[0])
    windows = torch.stack([node.windows[:count] for node in group]).repeat_interleave(seeds, dim=0)
    targets = torch.stack([node.targets[:count] for node in group]).repeat_interleave(seeds, dim=0)
    models = torch.arange(len(windows))[:, None]
    own = [tensor.repeat(len(group), 1, 1).requires_grad_() for tensor in weights]
    optimiser = torch.optim.Adam(own, lr=LEARNING_RATE, fused=True)
    for _ in range(EPOCHS):
        for batch in torch.rand(len(windows), count).argsort(dim=1).split(BATCH, dim=1):
            optimiser.zero_grad()
            errors = _forward(own, windows[models, batch]) - targets[models, batch]
            (errors**2).mean(dim=1).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return [tensor.detach() for tensor in own]


def _forward(weights: Weights, windows: Tensor) -> Tensor:
    """Forecasts [m, n] of m models, each of its own windows [m, n, STEPS]."""
    gates, bias, more, head, offset = weights
    enters, _, cell, leaves = (torch.baddbmm(bias + more, windows, gates)).chunk(4, dim=2)
    state = leaves.sigmoid() * (enters.sigmoid() * cell.tanh()).tanh()
    return torch.baddbmm(offset, state, head)[..., 0]


def _real(node: Node, scaled: Tensor) -> Values:
    return np.asarray(scaled.double().numpy() * node.spread + node.mean, np.float64)
