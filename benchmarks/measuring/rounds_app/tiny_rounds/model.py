"""The model: one LSTM layer and a linear one."""

from __future__ import annotations

import numpy as np
import torch

HIDDEN = 16


class Tiny(torch.nn.Module):
    """Forecasts the next value of a window, shape [n, window, 1] to [n, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, HIDDEN, batch_first=True)
        self.head = torch.nn.Linear(HIDDEN, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Forecast."""
        steps, _ = self.lstm(inputs)
        forecast: torch.Tensor = self.head(steps[:, -1])
        return forecast


def build() -> Tiny:
    """The model at its start."""
    torch.manual_seed(1)
    return Tiny()


def load(model: Tiny, arrays: list[np.ndarray]) -> None:
    """Take on weights."""
    with torch.no_grad():
        for weight, array in zip(model.parameters(), arrays, strict=True):
            weight.copy_(torch.from_numpy(array))


def unload(model: Tiny) -> list[np.ndarray]:
    """The weights."""
    return [weight.detach().numpy() for weight in model.parameters()]
