"""How long a local fit takes: all windows as one tensor that is sliced, beside a frame that is cut item by item.

    .venv/bin/python benchmarks/train_local.py

Both train the same network on the same windows, one thread, the same number of steps. Read the ratio, not the seconds.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from icosfl.process import Grid, Moments, Scaler, Windows
from icosfl.process.windows import make_windows
from icosfl.train.loop import fit, one_thread
from icosfl.train.model import ModelShape, build

WINDOW, HORIZONS, SERIES, EPOCHS, BATCH = 30, (1, 20, 100), 3, 5, 64


class PerItem(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Cuts a window out of the scaled rows each time that it is asked for."""

    def __init__(self, windows: Windows, scaler: Scaler) -> None:
        self._windows, self._scaler = windows, scaler

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = self._scaler.transform(self._windows.inputs[index])
        targets = self._scaler.transform(self._windows.targets[index])
        return torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32)


def windows_of(count: int) -> Windows:
    """`count` windows over random walks."""
    rows = count + WINDOW + HORIZONS[-1] - 1
    values = np.cumsum(np.random.default_rng(1).normal(size=(rows, SERIES)), axis=0)
    grid = Grid(np.arange(rows, dtype=np.int64), values, np.ones(values.shape, np.bool_), 1)
    return make_windows(grid, WINDOW, HORIZONS, np.ones(SERIES, np.bool_))


def sliced(windows: Windows, scaler: Scaler) -> float:
    """Seconds of our loop."""
    model = build(ModelShape(SERIES, len(HORIZONS), 32, 1), seed=1)
    return fit(model, windows, scaler, epochs=EPOCHS, learning_rate=0.005, batch_size=BATCH, seed=1).seconds


def per_item(windows: Windows, scaler: Scaler) -> float:
    """Seconds of the usual loop over a Dataset and a DataLoader."""
    model = build(ModelShape(SERIES, len(HORIZONS), 32, 1), seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
    started = time.monotonic()
    with one_thread():
        for _ in range(EPOCHS):
            for inputs, targets in DataLoader(PerItem(windows, scaler), batch_size=BATCH, shuffle=True):
                optimiser.zero_grad()
                torch.nn.functional.mse_loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return time.monotonic() - started


def main() -> None:
    """Print the table."""
    print(f"{EPOCHS} epochs, window {WINDOW}, {SERIES} series, {len(HORIZONS)} horizons, one thread, best of 3\n")
    print("windows   sliced s   per item s   ratio")
    for count in (500, 2000, 8000):
        windows = windows_of(count)
        scaler = Moments.of(windows.inputs[:, -1]).scaler()
        ours, usual = (min(loop(windows, scaler) for _ in range(3)) for loop in (sliced, per_item))
        print(f"{count:7d} {ours:10.2f} {usual:12.2f} {usual / ours:7.1f}")


if __name__ == "__main__":
    main()
