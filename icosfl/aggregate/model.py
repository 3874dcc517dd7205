"""The global model through a run: where it starts, what each round makes of it, how good it is for the controller."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError, NotReady, SchemaMismatch
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact, load_latest, now_utc
from icosfl.train.messages import Arrays
from icosfl.train.node import Job, measure
from icosfl.train.shape import Array


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a run starts from.

    Args:
        artifact: Of round 0 of the run.
        fresh_because: Why it does not go on from an earlier model; "" when it does.
    """

    artifact: Artifact
    fresh_because: str


def start(job: Job, run: str) -> Start:
    """Go on from the controller's newest model if it fits; else begin with fresh weights.

    A model that was taught a larger share of the rows does not fit: it has seen rows that this run measures on.

    Args:
        job: The run's settings and series on the controller.
        run: The run's id.

    Raises:
        SchemaMismatch: the controller lacks a series of the run.
    """
    latest, reason = _latest(job.node.models_dir)
    if latest is not None:
        reason = _misfit(latest, job)
    if latest is None or reason:
        return Start(_fresh(job, run), reason)
    return Start(
        replace(
            latest,
            train_fraction=job.settings.train_fraction,
            season=job.plan.season,
            run=run,
            round=0,
            nodes=(),
            created=now_utc(),
            parent=latest.digest,
        ),
        "",
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


def common_of(
    average: NDArray[Any], parts: Sequence[NDArray[Any]], examples: Sequence[int], has: NDArray[np.bool_]
) -> Array:
    """The common linear part: of each series the mean over the nodes that have it, weighted by examples.

    Args:
        average: Of all nodes' parts, shape [k, window, h]: what a series keeps that no node has.
        parts: The nodes' parts.
        examples: How many windows each node was trained on.
        has: Which node has which series, shape [nodes, k].
    """
    common = np.array(average, np.float32)
    for series, those in enumerate(has.T):
        if bool(those.any()):
            rows = [part[series] for part, one in zip(parts, those, strict=True) if one]
            weights = [count for count, one in zip(examples, those, strict=True) if one]
            common[series] = np.average(rows, axis=0, weights=weights)
    return common


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


def _latest(directory: Path) -> tuple[Artifact | None, str]:
    try:
        artifact = load_latest(directory)
    except CheckpointError as error:
        return None, error.message
    return artifact, "" if artifact is not None else "there is no earlier model"


def _misfit(latest: Artifact, job: Job) -> str:
    plan, fraction = job.plan, job.settings.train_fraction
    schema = job.schema.select(job.names)
    reason = latest.misfit(schema, plan.period_seconds, plan.window, plan.horizons, job.shape) or ""
    if not reason and latest.train_fraction > fraction:
        return (
            f"the earlier model was taught {latest.train_fraction:g} of the rows, this run measures on all after "
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
