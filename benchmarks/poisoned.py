"""What one lying node of a federation does to the global model under each strategy, and what strategies cost without.

    nice .venv/bin/python benchmarks/poisoned.py [--rows made-up|hosts] [--nodes 5] [--rounds 5] [--seed 1]

All nodes learn in this process by the product's own functions; the updates go through the product's guards and its
Combiner. The first node lies, always in the same way; the model after the last round is measured on the newest fifth of
the other nodes' rows. The deployed engine is measured the same way by tests/federation/test_poisoned.py.

Skill is 1 - RMSE / RMSE of persistence, the mean over nodes, series and horizons. The network only corrects what each
node's own linear part forecasts: `own linear part alone` says where a model without a network would be.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from measuring import fleets
from measuring.federation import Combine, Recipe, federated
from measuring.fleets import Fleet
from measuring.processes import machine
from measuring.study import ERRORS, LINEAR, ORIGINS, Bench, Forecasts
from rich.console import Console
from rich.progress import track
from rich.table import Table

from icosfl.aggregate.combine import ROBUST, Combiner, Contribution
from icosfl.aggregate.settings import STRATEGIES, CombineSettings, RunSettings
from icosfl.config import run_config
from icosfl.errors import RunFailed
from icosfl.schema import Rows, Schema, Series
from icosfl.train.baselines import PERSISTENCE
from icosfl.train.shape import Array

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from support.made_up import swings  # noqa: E402 (the tests' library is not installed)
from support.poisoned_app import (  # noqa: E402
    FLIPPED,
    FLIPPED_SCALED,
    HONEST,
    HUGE,
    LAZY,
    NAN,
    SCALED,
    poisoned,
)

# Sends the honest updates' mean less their spread: it is told all of them, and no rule sees an outlier.
INLIER = "inlier"
ATTACKS = (HONEST, NAN, HUGE, FLIPPED, SCALED, FLIPPED_SCALED, INLIER, LAZY)

MADE_UP = "made-up"
MADE_UP_ROWS = 900
MADE_UP_PERIOD = 60

# Few made-up rows are learned in few rounds, so that a lie costs what was learned: by the defaults there is little.
QUICKLY: dict[str, Any] = {"learning_rate": 0.01, "local_epochs": 6, "batch_size": 64}

NOISES = (0.001, 0.01, 0.1, 1.0)
RMSE = ERRORS.index("rmse")
LIAR = 0


@dataclass(frozen=True, slots=True)
class Case:
    """A strategy as it is measured."""

    name: str
    settings: CombineSettings


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to; None where it failed.

    Args:
        rmse: In the series' unit, the mean over nodes, series and horizons.
        skill: Against persistence.
        said: What the rounds said of the lying node.
        bounded: How many of the others were clipped or rejected in some round.
        epsilon: What its privacy cost.
    """

    rmse: float | None
    skill: float | None
    said: str
    bounded: int = 0
    epsilon: float | None = None


def arguments() -> Namespace:
    """What was asked for."""
    parser = ArgumentParser(description="What one lying node does to the global model under each strategy.")
    parser.add_argument("--rows", choices=[MADE_UP, "hosts"], default=MADE_UP)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-attacks", action="store_true", help="only what strategies and noise cost without any")
    return parser.parse_args()


def made_up(nodes: int) -> Fleet:
    """Nodes whose CPU use is learnable, but not by lines."""
    times = (1_800_000_000 + np.arange(MADE_UP_ROWS, dtype=np.int64) * MADE_UP_PERIOD) * 10**9
    rows = {f"worker-{seed}": Rows(times, swings(MADE_UP_ROWS, seed)[:, None]) for seed in range(1, nodes + 1)}
    schema = Schema((Series("cpu_usage", "%"),))
    return Fleet(MADE_UP, f"{nodes} made-up nodes of {MADE_UP_ROWS} rows", schema, rows, MADE_UP_PERIOD, MADE_UP_PERIOD)


def hosts(nodes: int) -> Fleet:
    """The first so many of the 13 recorded hosts."""
    fleet = fleets.hosts()
    return replace(fleet, nodes=dict(list(fleet.nodes.items())[:nodes]))


def cases(settings: CombineSettings) -> list[Case]:
    """All strategies by the product's defaults, and the mean under a closer bound."""
    found = [Case(name, replace(settings, strategy=name)) for name in STRATEGIES]
    return [*found, Case("fedavg, norm-factor 2", replace(settings, norm_factor=2.0))]


def noises(settings: CombineSettings) -> list[Case]:
    """The mean under differential privacy."""
    return [
        Case(f"fedavg, noise-multiplier {noise:g}", replace(settings, strategy="fedavg", noise_multiplier=noise))
        for noise in NOISES
    ]


def run(benches: Sequence[Bench], recipe: Recipe, case: Case, attack: str, seed: int) -> Outcome:
    """A federated run with one liar, and how good its last model is for the others."""
    told: dict[str, str] = {}
    epsilon: list[float | None] = [None]
    try:
        combiner = Combiner(case.settings, recipe.shape(benches[0].learner.windows))
        combine = _combine(benches, combiner, attack, told, epsilon)
        nodes = [bench.learner for bench in benches]
        model = federated(nodes, recipe, seed, combine, combiner.proximal_mu)
    except RunFailed as error:
        return Outcome(None, None, error.message)
    quantiles = [bench.quantiles(model) for bench in _honest(benches)]
    forecasts = [[values[..., values.shape[-1] // 2] for values in node] for node in quantiles]
    rmse, skill = measured(benches, forecasts)
    said = {host: reason.split(":")[0] for host, reason in told.items()}
    of_liar = said.pop(benches[LIAR].name, "")
    return Outcome(rmse, skill, of_liar, sum(word in {"clipped", "rejected"} for word in said.values()), epsilon[0])


def _combine(
    benches: Sequence[Bench], combiner: Combiner, attack: str, told: dict[str, str], epsilon: list[float | None]
) -> Combine:
    def combine(number: int, before: list[Array], updates: list[list[Array]]) -> list[Array]:
        honest = updates[:LIAR] + updates[LIAR + 1 :]
        updates[LIAR] = inlier(honest) if attack == INLIER else poisoned(attack, before, updates[LIAR])
        contributions = [
            Contribution(bench.name, arrays, len(bench.learner.windows), np.ones(bench.rows.width, np.bool_))
            for bench, arrays in zip(benches, updates, strict=True)
        ]
        outcome = combiner.combine(number, before, contributions)
        told.update({note.host: note.reason for note in outcome.notes})
        epsilon[0] = outcome.epsilon
        return outcome.arrays

    return combine


def inlier(honest: Sequence[Sequence[Array]]) -> list[Array]:
    """The mean of the honest updates less their spread, number by number (after Baruch et al. 2019)."""
    stacks = [np.stack(arrays) for arrays in zip(*honest, strict=True)]
    lie = [(stack.mean(axis=0) - stack.std(axis=0)).astype(np.float32) for stack in stacks]
    lie[0] += (1 - lie[0].sum(axis=1, keepdims=True)) / lie[0].shape[1]
    return lie


def measured(benches: Sequence[Bench], forecasts: Sequence[Forecasts]) -> tuple[float, float]:
    """RMSE and skill of the honest nodes' forecasts."""
    honest = _honest(benches)
    rmse = np.array([bench.errors(values)[..., RMSE] for bench, values in zip(honest, forecasts, strict=True)])
    simple = np.array([bench.errors(bench.simple()[PERSISTENCE])[..., RMSE] for bench in honest])
    return float(rmse.mean()), float((1 - rmse / simple).mean())


def _honest(benches: Sequence[Bench]) -> list[Bench]:
    return [bench for number, bench in enumerate(benches) if number != LIAR]


def shown(console: Console, title: str, outcomes: Sequence[tuple[Case, str, Outcome]]) -> None:
    """Print a table; the change is that of the skill against the same strategy without an attack."""
    table = Table(title=title, title_justify="left")
    for heading in ("strategy", "attack"):
        table.add_column(heading)
    for heading in ("RMSE", "skill", "change"):
        table.add_column(heading, justify="right")
    table.add_column("others bounded", justify="right")
    table.add_column("of the liar was said")
    clean = {case.name: outcome.skill for case, attack, outcome in outcomes if attack == HONEST}
    for case, attack, outcome in outcomes:
        usual = clean.get(case.name)
        if outcome.skill is None or outcome.rmse is None:
            table.add_row(case.name, attack, "-", "-", "-", "-", f"the run failed: {outcome.said}")
            continue
        change = "" if attack == HONEST or usual is None else f"{(outcome.skill - usual) / abs(usual):+.1%}"
        privacy = "" if outcome.epsilon is None else f"epsilon {outcome.epsilon:.3g}"
        numbers = f"{outcome.rmse:.3f}", f"{outcome.skill:.4f}", change, str(outcome.bounded or "")
        table.add_row(case.name, attack, *numbers, outcome.said or privacy)
    console.print(table)


def main() -> int:
    """Measure and print; 1 if a robust strategy lost more than a tenth of its skill to an attack it is made for."""
    options = arguments()
    logging.getLogger("flwr").setLevel(logging.WARNING)
    console = Console(width=150)
    fleet = made_up(options.nodes) if options.rows == MADE_UP else hosts(options.nodes)
    settings = RunSettings.from_run_config(run_config(PROJECT)).combine
    recipe = replace(Recipe.of_the_product(), num_server_rounds=options.rounds)
    if options.rows == MADE_UP:
        recipe = replace(recipe, **QUICKLY)
    console.print(f"{machine()}; load {os.getloadavg()[0]:.1f} at the start", highlight=False)
    console.print(f"{fleet.about}; {recipe}; seed {options.seed}; all in one process", highlight=False)
    begun = time.monotonic()
    benches = [Bench.of(fleet, name, ORIGINS[-1]) for name in fleet.nodes]
    floor = measured(benches, [bench.simple()[LINEAR] for bench in _honest(benches)])
    console.print(f"own linear part alone: RMSE {floor[0]:.3f}, skill {floor[1]:.4f}", highlight=False)
    wanted = [(case, HONEST) for case in noises(settings)]
    attacks = ATTACKS[:1] if options.no_attacks else ATTACKS
    wanted = [*((case, attack) for case in cases(settings) for attack in attacks), *wanted]
    progress = track(wanted, "runs", console=Console(stderr=True), transient=True)
    outcomes = [(case, attack, run(benches, recipe, case, attack, options.seed)) for case, attack in progress]
    shown(console, f"one liar of {len(benches)}, the model after {options.rounds} rounds", outcomes)
    console.print(f"{time.monotonic() - begun:.0f} s; load {os.getloadavg()[0]:.1f} at the end", highlight=False)
    return 0 if all(held(outcomes)) else 1


def held(outcomes: Sequence[tuple[Case, str, Outcome]]) -> list[bool]:
    """Of each run under a robust strategy, whether it kept nine tenths of its skill; the liar among its peers excepted.

    Krum is not made for nodes that send the model back: see docs/decisions/0013.
    """
    clean = {case.name: outcome.skill for case, attack, outcome in outcomes if attack == HONEST}
    return [
        outcome.skill is not None and outcome.skill >= 0.9 * (clean[case.name] or 0.0)
        for case, attack, outcome in outcomes
        if case.settings.strategy in ROBUST and attack not in {INLIER, LAZY}
    ]


if __name__ == "__main__":
    sys.exit(main())
