"""The global model through a run: where it starts, what each round makes of it, how good it is for the controller."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError, NotReady, SchemaMismatch
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact, load_latest, now_utc
from icosfl.train.messages import Arrays
from icosfl.train.node import Job, measure


@dataclass(frozen=True, slots=True)
class Start:
    """The model that a run starts from.

    Args:
        artifact: Of round 0 of the run.
        fresh_because: Why it does not go on from an earlier model; "" when it does.
    """

    artifact: Artifact
    fresh_because: str


def start(job: Job, present: Collection[str], run: str) -> Start:
    """Go on from the controller's newest model if it fits; else begin with fresh weights.

    A model that was taught a larger share of the rows does not fit: it has seen rows that this run measures on.

    Args:
        job: The run's settings and series on the controller.
        present: Series that at least one member has.
        run: The run's id.

    Raises:
        SchemaMismatch: the controller lacks a series of the run.
    """
    latest, reason = _latest(job.node.models_dir)
    if latest is not None:
        reason = _misfit(latest, job)
    if latest is None or reason:
        return Start(_fresh(job, _among(job.names, present), run), reason)
    return Start(
        replace(
            latest,
            train_fraction=job.settings.train_fraction,
            season=job.plan.season,
            taught=_among(job.names, {*latest.taught, *present}),
            run=run,
            round=0,
            nodes=(),
            created=now_utc(),
            parent=latest.digest,
        ),
        "",
    )


def after_round(begun: Artifact, number: int, nodes: Sequence[str], arrays: Arrays) -> Artifact:
    """The model after a round.

    Raises:
        SchemaMismatch: the arrays are not those of the model.
    """
    weights = tuple(np.asarray(array, np.float32) for array in arrays)
    return replace(begun, round=number, nodes=tuple(nodes), created=now_utc(), arrays=weights)


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


def _among(names: Sequence[str], some: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in some)


def _fresh(job: Job, taught: tuple[str, ...], run: str) -> Artifact:
    from icosfl.train.model import build, to_arrays

    plan = job.plan
    return Artifact(
        schema=job.schema.select(job.names),
        period_seconds=plan.period_seconds,
        horizons=plan.horizons,
        season=plan.season,
        train_fraction=job.settings.train_fraction,
        taught=taught,
        shape=job.shape,
        run=run,
        round=0,
        nodes=(),
        created=now_utc(),
        parent=None,
        arrays=tuple(to_arrays(build(job.shape, job.settings.seed))),
    )
