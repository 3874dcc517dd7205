"""The global model through a run: where it starts, what each round makes of it, how good it is for the controller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError, NotReady, SchemaMismatch
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact, load_best, load_latest, now_utc
from icosfl.train.messages import Arrays, Level
from icosfl.train.node import Job, measure


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a run starts from.

    Args:
        artifact: Of round 0 of the run.
        parent_file: Name of the earlier model that it goes on from; "" when it begins afresh.
        fresh_because: Why it does not go on from an earlier model; "" when it does.
    """

    artifact: Artifact
    parent_file: str
    fresh_because: str


def start(job: Job, run: str, *, warm: bool = True) -> Start:
    """Go on from the controller's best model if it fits, else from its newest; else begin with fresh weights.

    A model that was taught a larger share of the rows does not fit: it has seen rows that this run measures on.

    Args:
        job: The run's settings and series on the controller.
        run: The run's id.
        warm: Whether to go on from an earlier model at all.

    Raises:
        SchemaMismatch: the controller lacks a series of the run.
    """
    if not warm:
        return Start(begun(job, run, None), "", "warm-start is false")
    reason = ""
    for load in (load_best, load_latest):
        parent, reason = _earlier(load, job)
        if parent is not None:
            return Start(begun(job, run, parent), parent.file_name, "")
    return Start(begun(job, run, None), "", reason)


def begun(job: Job, run: str, parent: Artifact | None) -> Artifact:
    """The model of round 0 of a run: an earlier one, or fresh weights.

    Args:
        job: The run's settings and series on the controller.
        run: The run's id.
        parent: The earlier model; None for fresh weights, which are the same for the same seed.

    Raises:
        SchemaMismatch: the controller lacks a series of the run.
    """
    if parent is None:
        return _fresh(job, run)
    return replace(
        parent,
        train_fraction=job.settings.train_fraction,
        season=job.plan.season,
        run=run,
        round=0,
        nodes=(),
        created=now_utc(),
        parent=parent.digest,
    )


def after_round(
    before: Artifact, number: int, nodes: Sequence[str], series: Collection[str], arrays: Arrays
) -> Artifact:
    """The model after a round.

    Args:
        before: The model that the round began with.
        number: The round.
        nodes: Hosts whose updates are in the average.
        series: Names of those that some of these nodes have: they are taught now.
        arrays: The average.

    Raises:
        SchemaMismatch: the arrays are not those of the model.
    """
    weights = tuple(np.asarray(array, np.float32) for array in arrays)
    taught = tuple(name for name in before.schema.names if name in before.taught or name in series)
    return replace(before, round=number, nodes=tuple(nodes), taught=taught, created=now_utc(), arrays=weights)


def known_levels(levels: Collection[Level], artifact: Artifact) -> tuple[Level, ...]:
    """What a node measured, without what the model does not forecast; of what is told twice, the last."""
    places = {(level.series, level.horizon_steps): level for level in levels}
    known = [(name, steps) for name in artifact.schema.names for steps in artifact.horizons]
    return tuple(places[place] for place in known if place in places)


def evaluate(artifact: Artifact, node: NodeConfig, rows: Rows | None) -> dict[str, Any]:
    """Score a model on the controller's rows and keep the scores: `{"scores": …}`, or `{"skipped": why}`.

    A controller without rows of its own can still coordinate a run: its nodes measure the model when they get it.
    """
    from icosfl.train.evaluation import save_evaluation

    if rows is None:
        return {"skipped": f"the store of {node.host} does not answer"}
    try:
        evaluation = measure(artifact, node, rows, None)
    except (NotReady, SchemaMismatch) as error:
        return {"skipped": f"{node.host}: {error.message}"}
    save_evaluation(evaluation, node.models_dir)
    return {"scores": evaluation.scores.to_dict()}


def _earlier(load: Callable[[Path], Artifact | None], job: Job) -> tuple[Artifact | None, str]:
    """The model that `load` finds if a run can go on from it, or why not."""
    try:
        found = load(job.node.models_dir)
    except CheckpointError as error:
        return None, error.message
    if found is None:
        return None, "there is no earlier model"
    reason = _misfit(found, job)
    return (None, reason) if reason else (found, "")


def _misfit(earlier: Artifact, job: Job) -> str:
    plan, fraction = job.plan, job.settings.train_fraction
    schema = job.schema.select(job.names)
    reason = earlier.misfit(schema, plan.period_seconds, plan.window, plan.horizons, job.shape) or ""
    if not reason and earlier.train_fraction > fraction:
        return (
            f"the earlier model was taught {earlier.train_fraction:g} of the rows, this run measures on all after "
            f"{fraction:g}"
        )
    return reason


def _fresh(job: Job, run: str) -> Artifact:
    from icosfl.train.model import build, to_arrays

    plan = job.plan
    return Artifact(
        schema=job.schema.select(job.names),
        period_seconds=plan.period_seconds,
        horizons=plan.horizons,
        season=plan.season,
        train_fraction=job.settings.train_fraction,
        taught=(),
        shape=job.shape,
        run=run,
        round=0,
        nodes=(),
        created=now_utc(),
        parent=None,
        arrays=tuple(to_arrays(build(job.shape, job.settings.seed))),
    )
