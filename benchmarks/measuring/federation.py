"""Federated learning in one process, and what it is compared with; all learning and forecasting is the product's."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch

from icosfl.process.windows import Windows
from icosfl.train.linear import Linear, fit_blend, fit_common
from icosfl.train.loop import Examples, examples_of, fit, learn
from icosfl.train.model import Forecaster, build, load_arrays, take_common, to_arrays
from icosfl.train.settings import TrainSettings
from icosfl.train.shape import Array, ModelShape

PROJECT = Path(__file__).parents[2]

# Seeds of the order of windows: those of a run's rounds begin at its own.
TUNED_SEED = 1000

# The next model's arrays, of the round's number, the arrays that it began with, and those of all nodes.
Combine = Callable[[int, list[Array], list[list[Array]]], list[Array]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model learns, by the names of the product's settings."""

    network: str
    hidden_size: int
    num_server_rounds: int
    local_epochs: int
    learning_rate: float
    batch_size: int

    @classmethod
    def of_the_product(cls) -> Recipe:
        """The product's defaults."""
        text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
        settings = TrainSettings.from_run_config(tomllib.loads(text)["tool"]["flwr"]["app"]["config"])
        return cls(
            settings.network,
            settings.hidden_size,
            settings.num_server_rounds,
            settings.local_epochs,
            settings.learning_rate,
            settings.batch_size,
        )

    def __str__(self) -> str:
        return (
            f"{self.network} of width {self.hidden_size}, {self.num_server_rounds} rounds of {self.local_epochs} "
            f"epochs, learning rate {self.learning_rate:g}, batches of {self.batch_size}"
        )

    @property
    def epochs(self) -> int:
        """Of all rounds."""
        return self.num_server_rounds * self.local_epochs

    def shape(self, windows: Windows) -> ModelShape:
        """The model for windows like these."""
        return ModelShape(self.network, windows.width, len(windows.horizons), windows.window, self.hidden_size, 1)


@dataclass(frozen=True, eq=False)
class Learner:
    """A node that learns: its training windows, and what it fits to them by itself."""

    windows: Windows
    linear: Linear
    common: Linear

    @classmethod
    def of(cls, windows: Windows) -> Learner:
        """Fit a node's own parts."""
        return cls(windows, fit_blend(windows), fit_common(windows))


def federated(
    nodes: Sequence[Learner],
    recipe: Recipe,
    seed: int,
    combine: Combine | None = None,
    proximal_mu: float = 0.0,
) -> Forecaster:
    """Each round all nodes train the model, and their updates become the next.

    Args:
        nodes: All of them.
        recipe: How they learn.
        seed: Of the first weights; with the round's number of the order of windows.
        combine: Makes the next model from the round's number, its arrays and those of the nodes; None: FedAvg
            (McMahan et al. 2017), the mean by the nodes' windows.
        proximal_mu: Of FedProx's proximal term; 0: none.
    """
    model = build(recipe.shape(nodes[0].windows), seed)
    arrays = to_arrays(model)
    for number in range(1, recipe.num_server_rounds + 1):
        updates = []
        for node in nodes:
            load_arrays(model, arrays)
            take_common(model, node.common)
            _fit(model, node, recipe, recipe.local_epochs, seed + number, proximal_mu)
            updates.append(to_arrays(model))
        if combine is None:
            arrays = _mean(updates, [len(node.windows) for node in nodes])
        else:
            arrays = combine(number, arrays, updates)
    load_arrays(model, arrays)
    return model


def centralised(nodes: Sequence[Learner], recipe: Recipe, seed: int) -> Forecaster:
    """One model trained on all nodes' windows as if they were in one place, each above its own node's linear part.

    The windows are mixed, and there are as many epochs as in all rounds together.
    """
    model = build(recipe.shape(nodes[0].windows), seed)
    parts = [examples_of(node.windows, node.linear) for node in nodes]
    learn(
        model,
        Examples(*(torch.cat([getattr(part, name.name) for part in parts]) for name in fields(Examples))),
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=seed,
    )
    return model


def alone(node: Learner, recipe: Recipe, seed: int) -> Forecaster:
    """A model that saw one node only, with as many epochs as in all rounds together."""
    model = build(recipe.shape(node.windows), seed)
    _fit(model, node, recipe, recipe.epochs, seed)
    return model


def tuned(model: Forecaster, node: Learner, recipe: Recipe, seed: int) -> Forecaster:
    """A copy of a model that is trained further on one node, for the epochs of one round."""
    copy = build(model.shape, seed)
    load_arrays(copy, to_arrays(model))
    _fit(copy, node, recipe, recipe.local_epochs, seed + TUNED_SEED)
    return copy


def _fit(  # noqa: PLR0913, PLR0917 (each is one plain setting)
    model: Forecaster, node: Learner, recipe: Recipe, epochs: int, seed: int, proximal_mu: float = 0.0
) -> None:
    fit(
        model,
        node.windows,
        node.linear,
        epochs=epochs,
        learning_rate=recipe.learning_rate,
        batch_size=recipe.batch_size,
        seed=seed,
        proximal_mu=proximal_mu,
    )


def _mean(updates: Sequence[Sequence[Array]], counts: Sequence[int]) -> list[Array]:
    stacks = zip(*updates, strict=True)
    return [np.average(np.stack(stack), axis=0, weights=counts).astype(np.float32) for stack in stacks]
