"""Rolling-origin evaluation: train up to an origin, forecast the rows after it, move the origin on, and again.

Everything is fitted to rows before the origin alone, the peer's scaler excepted. What is served is done the product's
own way (`icosfl.train.scores`): fitted to the oldest rows, chosen and calibrated on the next, told of the newest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from icosfl.process.windows import Windows
from icosfl.schema import Rows, Values
from icosfl.train.baselines import NAMES, Baselines
from icosfl.train.local import cut
from icosfl.train.loop import predict
from icosfl.train.model import Forecaster
from icosfl.train.scores import Scores, errors_of, mean_steps, score
from measuring import peer
from measuring.federation import Learner, Recipe, alone, centralised, federated, tuned
from measuring.fleets import HORIZONS, Fleet

FEDERATED = "federated"
CENTRALISED = "centralised"
LOCAL = "local only"
TUNED = "federated + fine-tuned"
COMMON = "federated, no own linear part"
LINEAR = "own linear part alone"
PEER = "ICOS-FL's algorithm"
LEARNED = (FEDERATED, CENTRALISED, LOCAL, TUNED, COMMON)
METHODS = (*LEARNED, LINEAR, *NAMES, PEER)
ERRORS = ("rmse", "mae", "smape", "mase")

# Forecasts of one node: for each horizon the quantiles [n, k, 3], or the values [n, k] alone.
Forecasts = list[Values]


@dataclass(frozen=True, slots=True)
class Origin:
    """Rows up to the share `train` are trained on, those from there to the share `end` are forecast."""

    train: float
    end: float

    def __str__(self) -> str:
        return f"{self.train:.0%} to {self.end:.0%}"


ORIGINS = (Origin(0.6, 0.7), Origin(0.7, 0.8), Origin(0.8, 1.0))


@dataclass(frozen=True, eq=False)
class Bench:
    """One node at one origin.

    Args:
        name: Of the node.
        rows: All that it has.
        learner: Its training windows and own parts.
        baselines: Fitted to the same windows.
        tests: For each horizon, all windows with a target after the origin, targets of shape [n, 1, k].
        steps: Mean absolute step of the training part, shape [k].
        cutoff_ns: The origin, nanoseconds since the epoch.
    """

    name: str
    rows: Rows
    learner: Learner
    baselines: Baselines
    tests: tuple[Windows, ...]
    steps: Values
    cutoff_ns: int

    @classmethod
    def of(cls, fleet: Fleet, name: str, origin: Origin) -> Bench:
        """Cut and fit a node."""
        rows = fleet.nodes[name]
        cutoff, until = cutoff_at(rows, origin.train), oldest(rows, origin.end)
        train = cut(until, fleet.schema, fleet.plan(), cutoff).train
        tests = tuple(cut(until, fleet.schema, fleet.plan((steps,)), cutoff).held_out for steps in HORIZONS)
        return cls(name, rows, Learner.of(train), Baselines.fit(train), tests, mean_steps(train), cutoff)

    def quantiles(self, model: Forecaster, *, own: bool = True) -> Forecasts:
        """A model's, above the node's own linear part or above the one that is common to all."""
        linear = self.learner.linear if own else None
        return [predict(model, linear, test.inputs, test.last_times)[:, at] for at, test in enumerate(self.tests)]

    def simple(self) -> dict[str, Forecasts]:
        """What the baselines and the own linear part forecast."""
        found: dict[str, Forecasts] = {name: [] for name in (LINEAR, *NAMES)}
        for at, test in enumerate(self.tests):
            seasonal = np.full((len(test), len(HORIZONS), test.width), np.nan)
            seasonal[:, at] = test.seasonal[:, 0]
            found[LINEAR].append(self.learner.linear.predict(test.inputs)[:, at])
            for name, values in self.baselines.predict(test.inputs, seasonal).items():
                found[name].append(values[:, at])
        return found

    def errors(self, forecasts: Forecasts) -> Values:
        """Errors of values, shape [h, k, 4] in the order of `ERRORS`; NaN where forecasts are missing."""
        found = np.full((len(HORIZONS), len(self.steps), len(ERRORS)), np.nan)
        for at, (test, values) in enumerate(zip(self.tests, forecasts, strict=False)):
            for column, step in enumerate(self.steps):
                told = np.isfinite(test.targets[:, 0, column])
                if told.any() and np.isfinite(values[told, column]).all():
                    errors = errors_of(test.targets[told, 0, column], values[told, column], float(step))
                    found[at, column] = [_number(getattr(errors, name)) for name in ERRORS]
        return found

    def held(self, quantiles: Forecasts) -> Values:
        """Share of the targets between the outer quantiles, and their mean distance, shape [h, k, 2]."""
        found = np.empty((len(HORIZONS), len(self.steps), 2))
        for at, (test, values) in enumerate(zip(self.tests, quantiles, strict=True)):
            target, lower, upper = test.targets[:, 0], values[..., 0], values[..., -1]
            inside = np.where(np.isfinite(target), (target >= lower) & (target <= upper), np.nan)
            found[at] = np.stack([np.nanmean(inside, axis=0), np.nanmean(upper - lower, axis=0)], axis=-1)
        return found


@dataclass(eq=False)
class Results:
    """What came of one fleet.

    Args:
        fleet: Which.
        recipe: How the product learned.
        seeds: Of the first weights and the order of windows.
        errors: By origin and method, shape [seeds, nodes, h, k, 4] in the order of `ERRORS`; one seed where no
            chance is in it. The peer's are of the last origin and one step only.
        held: By origin and learned method, share and width of P10 to P90, shape [seeds, nodes, h, k, 2].
        served: The product's scores, by seed and node.
        benches: The nodes at the last origin.
        forecasts: The first seed's federated quantiles there, by node.
        model: That made them.
        seconds: Processor seconds that learning took, by method.
    """

    fleet: Fleet
    recipe: Recipe
    seeds: tuple[int, ...]
    errors: dict[Origin, dict[str, Values]] = field(default_factory=dict)
    held: dict[Origin, dict[str, Values]] = field(default_factory=dict)
    served: list[dict[str, Scores]] = field(default_factory=list)
    benches: list[Bench] = field(default_factory=list)
    forecasts: list[Forecasts] = field(default_factory=list)
    model: Forecaster | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def last(self) -> Origin:
        """The newest origin."""
        return list(self.errors)[-1]

    @contextmanager
    def timed(self, method: str) -> Iterator[None]:
        """Count the processor time of a method."""
        begun = time.process_time()
        yield
        self.seconds[method] = self.seconds.get(method, 0.0) + time.process_time() - begun


Step = Callable[[str], None]


def study(fleet: Fleet, recipe: Recipe, seeds: Sequence[int], origins: Sequence[Origin], step: Step) -> Results:
    """Evaluate all methods on a fleet.

    Args:
        fleet: The rows.
        recipe: How the product learns.
        seeds: Of the first weights and the order of windows.
        origins: In the order of time; the peer's algorithm is measured at the last.
        step: Told what is being done, `steps` times.
    """
    results = Results(fleet, recipe, tuple(seeds))
    for origin in origins:
        benches = [Bench.of(fleet, name, origin) for name in fleet.nodes]
        simple = [bench.simple() for bench in benches]
        errors = {name: _errors(benches, [[each[name] for each in simple]]) for name in simple[0]}
        learned: dict[str, list[list[Forecasts]]] = {name: [] for name in LEARNED}
        for seed in seeds:
            step(f"{fleet.name}, {origin}, seed {seed}")
            model, found = _learned(results, benches, seed)
            for name, forecasts in found.items():
                learned[name].append(forecasts)
            if origin == origins[0]:
                results.served.append(_served(fleet, origin, model))
            if seed == seeds[0]:
                results.model, results.benches, results.forecasts = model, benches, found[FEDERATED]
        for name, runs in learned.items():
            errors[name] = _errors(benches, [[_middle(node) for node in nodes] for nodes in runs])
        results.errors[origin] = errors
        results.held[origin] = {
            name: np.array([[bench.held(node) for bench, node in zip(benches, nodes, strict=True)] for nodes in runs])
            for name, runs in learned.items()
        }
    with results.timed(PEER):
        results.errors[origins[-1]][PEER] = _peer(results.benches, seeds, lambda: step(f"{fleet.name}, {PEER}"))
    return results


def steps(fleet: Fleet, seeds: Sequence[int], origins: Sequence[Origin]) -> int:
    """How often `study` tells of a step."""
    return len(seeds) * len(origins) + len(fleet.schema) * peer.ROUNDS


def cutoff_at(rows: Rows, share: float) -> int:
    """The time of the last row of the oldest share."""
    return int(rows.times[int(len(rows) * share) - 1])


def oldest(rows: Rows, share: float) -> Rows:
    """The oldest share of the rows."""
    count = int(len(rows) * share)
    return Rows(rows.times[:count], rows.values[:count])


def _learned(results: Results, benches: Sequence[Bench], seed: int) -> tuple[Forecaster, dict[str, list[Forecasts]]]:
    """All models of one seed: the federated one, and the quantiles of each method and node."""
    recipe, nodes = results.recipe, [bench.learner for bench in benches]
    with results.timed(FEDERATED):
        model = federated(nodes, recipe, seed)
    with results.timed(CENTRALISED):
        pooled = centralised(nodes, recipe, seed)
    with results.timed(LOCAL):
        single = [alone(node, recipe, seed) for node in nodes]
    with results.timed(TUNED):
        further = [tuned(model, node, recipe, seed) for node in nodes]
    return model, {
        FEDERATED: [bench.quantiles(model) for bench in benches],
        CENTRALISED: [bench.quantiles(pooled) for bench in benches],
        LOCAL: [bench.quantiles(own) for bench, own in zip(benches, single, strict=True)],
        TUNED: [bench.quantiles(own) for bench, own in zip(benches, further, strict=True)],
        COMMON: [bench.quantiles(model, own=False) for bench in benches],
    }


def _served(fleet: Fleet, origin: Origin, model: Forecaster) -> dict[str, Scores]:
    """What nodes that are fitted up to an origin would serve: chosen on the next rows, measured on the newest."""
    found = {}
    for name, rows in fleet.nodes.items():
        prepared = cut(rows, fleet.schema, fleet.plan(), cutoff_at(rows, origin.train))
        learner, held_out = Learner.of(prepared.train), prepared.held_out
        quantiles = predict(model, learner.linear, held_out.inputs, held_out.last_times)
        simple = Baselines.fit(prepared.train).predict(held_out.inputs, held_out.seasonal)
        found[name] = score(prepared.schema, prepared.train, held_out, quantiles, simple)
    return found


def _peer(benches: Sequence[Bench], seeds: Sequence[int], step: Callable[[], None]) -> Values:
    """Errors of the peer's algorithm, series by series; it forecasts the next row only."""
    forecasts = [[np.full(bench.tests[0].targets[:, 0].shape, np.nan) for bench in benches] for _ in seeds]
    for column in range(benches[0].rows.width):
        nodes = [peer.Node.of(bench.rows, column, bench.cutoff_ns) for bench in benches]
        for at, (node, values) in enumerate(zip(nodes, peer.forecasts(nodes, seeds, step), strict=True)):
            test = benches[at].tests[0]
            # The grid's times are the middles of bins: the row that is meant is the nearest.
            wanted = np.searchsorted(node.times, test.last_times + test.period_ns // 2)
            for run, told in zip(forecasts, values, strict=True):
                run[at][:, column] = told[wanted]
    return _errors(benches, [[[values] for values in run] for run in forecasts])


def _errors(benches: Sequence[Bench], runs: Sequence[Sequence[Forecasts]]) -> Values:
    """Errors of the nodes' values for each seed, shape [seeds, nodes, h, k, 4]."""
    return np.array([[bench.errors(node) for bench, node in zip(benches, nodes, strict=True)] for nodes in runs])


def _middle(quantiles: Forecasts) -> Forecasts:
    return [values[..., values.shape[-1] // 2] for values in quantiles]


def _number(value: float | None) -> float:
    return np.nan if value is None else value
