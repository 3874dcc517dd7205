"""The ClientApp: an LSTM of a few hundred weights on made-up numbers, which says when it began and ended what.

It steps by Adam's function instead of `torch.optim.Adam`, as icosfl does: the first step of the class loads torch's
compiler, which takes longer than all training here. That spares Flower's side as much as ours.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

WINDOW = 12
EXAMPLES = 512
EPOCHS = 2
LEARNING_RATE = 0.01

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:  # noqa: ARG001 (as Flower calls it)
    """Say that the node is there."""
    return Message(RecordDict(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Measure the model as it came, then train it."""
    marks = {"created": _created(), "called": time.time()}
    import torch
    from torch.optim.adam import adam

    from tiny_rounds.model import build, load, unload

    marks["imported"] = time.time()
    torch.set_num_threads(1)
    inputs, targets = (torch.from_numpy(array) for array in _numbers(context.node_id))
    model = build()
    load(model, message.content["arrays"].to_numpy_ndarrays())
    weights = list(model.parameters())
    first, second = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    steps = [torch.tensor(0.0) for _ in weights]
    loss_before = float(torch.nn.functional.mse_loss(model(inputs), targets).detach())
    for _ in range(EPOCHS):
        for part, wanted in zip(inputs.split(64), targets.split(64), strict=True):
            loss = torch.nn.functional.mse_loss(model(part), wanted)
            gradients = torch.autograd.grad(loss, weights)
            with torch.no_grad():
                adam(
                    weights, list(gradients), first, second, [], steps, foreach=False, amsgrad=False, beta1=0.9,
                    beta2=0.999, lr=LEARNING_RATE, weight_decay=0.0, eps=1e-8, maximize=False,
                )  # fmt: skip
    arrays = unload(model)
    marks["done"] = time.time()
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": _metrics(marks, loss_before)})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the model."""
    marks = {"created": _created(), "called": time.time()}
    import torch

    from tiny_rounds.model import build, load

    marks["imported"] = time.time()
    torch.set_num_threads(1)
    inputs, targets = (torch.from_numpy(array) for array in _numbers(context.node_id))
    model = build()
    load(model, message.content["arrays"].to_numpy_ndarrays())
    loss = float(torch.nn.functional.mse_loss(model(inputs), targets).detach())
    marks["done"] = time.time()
    return Message(RecordDict({"metrics": _metrics(marks, loss)}), reply_to=message)


def _numbers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of noisy waves, shape [EXAMPLES, WINDOW, 1], and what comes next, shape [EXAMPLES, 1]."""
    random = np.random.default_rng(seed % 2**32)
    wave = np.sin(np.arange(EXAMPLES + WINDOW) / 5) + random.normal(0, 0.1, EXAMPLES + WINDOW)
    windows = np.lib.stride_tricks.sliding_window_view(wave, WINDOW + 1).astype(np.float32)
    return windows[:, :WINDOW, None].copy(), windows[:, WINDOW:].copy()


def _metrics(marks: dict[str, float], loss: float) -> MetricRecord:
    return MetricRecord({**marks, "loss": loss, "num-examples": EXAMPLES})


def _created() -> float:
    """When this process was made, in seconds since the epoch."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age
