"""How long a local fit takes: windows that are looked at once and sliced, beside a frame that is cut item by item.

    .venv/bin/python benchmarks/train_local.py

First the loops alone: the product's `fit`, and one that trains the same network on the same windows for as many epochs,
but is shaped like ICOS-FL's: a standardised pandas frame in a Dataset that cuts each item out of it, a DataLoader that
shuffles batches of 64, Adam, mean squared error. Then what a node does in a round as each is configured: the product's
windows, linear parts and fit for all series; ICOS-FL's loop with its own network (one step of ten values), 20 epochs
(the better of the settings that were measured, its default is 100), one model a series. One thread each; read the
ratios, not the seconds. Last, what a second thread would bring. Ends with 1 if a node's round is not 10 times as fast.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import measuring  # noqa: F401 (one thread for matrices, before numpy is loaded)
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import torch
from measuring import peer
from measuring.federation import Learner, Recipe
from measuring.fleets import HORIZONS, WINDOW
from measuring.processes import machine
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from icosfl.process import Grid, Windows
from icosfl.process.windows import make_windows
from icosfl.schema import Values
from icosfl.train import loop
from icosfl.train.model import Forecaster, build
from icosfl.train.shape import CALENDAR

SERIES = ("cpu_usage", "memory_usage", "load_1m")
COUNTS = (500, 2000, 8000)
TIMES = 3
WANTED = 10.0

Loader = DataLoader[tuple[Tensor, Tensor]]


class PerItem(Dataset[tuple[Tensor, Tensor]]):
    """Cuts `window` rows and their targets out of a frame each time that they are asked for."""

    def __init__(self, values: Values, window: int, horizons: tuple[int, ...]) -> None:
        scaled = (values - values.mean(axis=0)) / values.std(axis=0)
        self._frame = pd.DataFrame(scaled, columns=list(SERIES[: values.shape[1]]))
        self._window, self._horizons = window, horizons

    def __len__(self) -> int:
        return len(self._frame) - self._window - self._horizons[-1] + 1

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        end = index + self._window
        inputs = self._frame.iloc[index:end].to_numpy()
        targets = self._frame.iloc[[end + steps - 1 for steps in self._horizons]].to_numpy()
        return torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


class PeerModel(nn.Module):
    """ICOS-FL's network: the window as one step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(peer.STEPS, peer.HIDDEN, batch_first=True)
        self.head = nn.Linear(peer.HIDDEN, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """The next value [b, 1, 1] of windows [b, STEPS, 1]."""
        states, _ = self.lstm(windows.transpose(1, 2))
        return self.head(states)  # type: ignore[no-any-return]


def walks(count: int) -> Values:
    """Random walks of as many rows as give `count` windows."""
    rows = count + WINDOW + HORIZONS[-1] - 1
    return np.cumsum(np.random.default_rng(1).normal(size=(rows, len(SERIES))), axis=0)


def windows_of(values: Values) -> Windows:
    """All windows of rows."""
    grid = Grid(np.arange(len(values), dtype=np.int64), values, np.ones(values.shape, np.bool_), 1)
    return make_windows(grid, WINDOW, HORIZONS, np.ones(len(SERIES), np.bool_))


def fitted(node: Learner, recipe: Recipe) -> float:
    """Seconds of the product's loop."""
    return loop.fit(
        build(recipe.shape(node.windows), seed=1),
        node.windows,
        node.linear,
        epochs=recipe.local_epochs,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=1,
    ).seconds


def a_round(values: Values, recipe: Recipe) -> float:
    """Seconds of all that the product does with a node's rows in a round."""
    begun = time.monotonic()
    fitted(Learner.of(windows_of(values)), recipe)
    return time.monotonic() - begun


def per_item(data: PerItem, model: nn.Module, forward: Callable[[Tensor, Tensor], Tensor], epochs: int) -> float:
    """Seconds of the loop over a Dataset and a DataLoader."""
    begun = time.monotonic()
    loader: Loader = DataLoader(data, batch_size=peer.BATCH, shuffle=True)
    optimiser = torch.optim.Adam(model.parameters(), lr=peer.LEARNING_RATE)
    with loop.one_thread():
        for _ in range(epochs):
            for inputs, targets in loader:
                optimiser.zero_grad()
                nn.functional.mse_loss(forward(inputs, targets), targets).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return time.monotonic() - begun


def ours_per_item(values: Values, recipe: Recipe) -> float:
    """Seconds of the loop that cuts item by item with the product's network."""
    model = build(recipe.shape(windows_of(values)), seed=1)

    def forward(inputs: Tensor, targets: Tensor) -> Tensor:
        steps = inputs.reshape(len(inputs), -1, model.shape.read * len(SERIES))
        expected = inputs[:, -1:].expand_as(targets)
        context = inputs.new_zeros(len(inputs), len(SERIES) + CALENDAR)
        return _middle(model, steps, expected, context)

    return per_item(PerItem(values, WINDOW, HORIZONS), model, forward, recipe.local_epochs)


def peers_round(values: Values) -> float:
    """Seconds of what ICOS-FL does with a node's rows in a round, for all series: the same for each."""
    model = PeerModel()
    data = PerItem(values[:, :1], peer.STEPS, (1,))
    return per_item(data, model, lambda inputs, _: model(inputs), peer.EPOCHS) * len(SERIES)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let the product's loop use so many threads."""
    one, before = loop.one_thread, torch.get_num_threads()
    loop.one_thread = nullcontext  # type: ignore[assignment]
    torch.set_num_threads(count)
    try:
        yield
    finally:
        loop.one_thread = one
        torch.set_num_threads(before)


def best(measure: Callable[[], float]) -> float:
    """The least of some measurements."""
    return min(measure() for _ in range(TIMES))


def main() -> int:
    """Print the tables."""
    recipe = Recipe.of_the_product()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # loads torch's compiler, which takes seconds
    print(f"{machine()}; load {os.getloadavg()[0]:.1f}")
    print(f"{recipe}; window {WINDOW}, {len(SERIES)} series, {len(HORIZONS)} horizons, best of {TIMES}\n")
    print("         the loops alone, same network and epochs    a node's round, each as configured")
    print("windows      fit s   per item s   ratio              ours s   ICOS-FL's s   ratio")
    rounds = []
    for count in COUNTS:
        values = walks(count)
        node = Learner.of(windows_of(values))
        fit, item = best(lambda: fitted(node, recipe)), best(lambda: ours_per_item(values, recipe))  # noqa: B023
        ours, theirs = best(lambda: a_round(values, recipe)), peers_round(values)  # noqa: B023
        rounds.append(theirs / ours)
        print(
            f"{count:7d} {fit:10.3f} {item:12.3f} {item / fit:7.1f} {ours:19.3f} {theirs:13.2f} {rounds[-1]:7.1f}",
            flush=True,
        )
    node = Learner.of(windows_of(walks(COUNTS[-1])))
    print(f"\nthe product's loop, {COUNTS[-1]} windows, by threads:")
    for count in (1, 2):
        with threads(count):
            begun = time.process_time()
            seconds = best(lambda: fitted(node, recipe))
            print(f"{count}: {seconds:.3f} s, {(time.process_time() - begun) / TIMES:.3f} processor seconds")
    reached = min(rounds) >= WANTED
    print(f"load {os.getloadavg()[0]:.1f} at the end\n")
    print(f"{'PASS' if reached else 'FAIL'}  a node's round at least {WANTED:g} times as fast")
    return 0 if reached else 1


def _middle(model: Forecaster, steps: Tensor, expected: Tensor, context: Tensor) -> Tensor:
    return model(steps, expected, torch.ones_like(expected), context)[..., 1]  # type: ignore[no-any-return]


if __name__ == "__main__":
    sys.exit(main())
