"""Is the model that a node has still good? Measured on rows that came after the model was made.

What counts are targets that lie after the model's making, after its cutoff on this node, and within the newest part of
the rows that was asked for; the windows that they are forecast from may reach back, as at any forecast. The node's own
linear part is fitted as the forecast service fits it: to the rows up to the cutoff, which moves on with the rows. So
what is measured is what a forecast of now is worth, and a training can only be better by its network.

Importing this does not import torch.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from icosfl.config import NodeConfig, schema_of
from icosfl.errors import CheckpointError, NotReady
from icosfl.process.clean import NANOSECONDS
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import GLOBAL, PERSISTENCE
from icosfl.train.linear import fit_blend
from icosfl.train.local import cut, cutoff_of
from icosfl.train.messages import Checked, Level
from icosfl.train.scores import Scores
from icosfl.train.validation import levels

if TYPE_CHECKING:
    from icosfl.train.evaluation import Evaluation

# Neighbouring errors are alike, up to the farthest horizon: fewer windows than so many times it tell nothing.
LEAST_SPANS = 4
FEWEST_WINDOWS = 30


def least_windows(horizons: tuple[int, ...]) -> int:
    """Without so many windows there is no verdict on a model with these horizons, in steps."""
    return max(FEWEST_WINDOWS, LEAST_SPANS * horizons[-1])


def least_seconds(horizons: tuple[int, ...], period_seconds: float) -> float:
    """How long the rows are at least in which so many windows have their targets."""
    return (least_windows(horizons) + horizons[-1] - horizons[0]) * period_seconds


def recheck(  # noqa: PLR0913, PLR0917 (the model, the rows, and which of them)
    artifact: Artifact, saved: Evaluation | None, node: NodeConfig, rows: Rows, window_seconds: float, now_ns: int
) -> Checked:
    """Measure a node's model on its newest rows.

    Args:
        artifact: The model.
        saved: What the node measured of it when it was handed out, if it did.
        node: Whose rows these are.
        rows: All of them.
        window_seconds: How far back the rows count.
        now_ns: Nanoseconds since the epoch.

    Raises:
        NotReady: too few rows came since the model was made.
        SchemaMismatch: the node lacks a series of the model.
        CheckpointError: the model does not say properly when it was made.
    """
    from icosfl.train.loop import predict
    from icosfl.train.model import build, load_arrays

    artifact.check_suits(schema_of(node.series), node.period_seconds)
    cutoff = max(cutoff_of(rows, artifact.train_fraction), saved.cutoff_ns if saved else 0)
    newest, made = int(rows.times[-1]), made_ns(artifact)
    since = max(cutoff, made, newest - round(window_seconds * NANOSECONDS))
    plan = artifact.plan(node.max_gap_seconds)
    prepared = cut(rows, schema_of(node.series), plan, cutoff, since)
    count, least = len(prepared.held_out), least_windows(plan.horizons)
    if count < least:
        why = ", when the model was made" if since == made else ""
        raise NotReady(
            f"no verdict: {count} windows of rows after {_iso(since)}{why}, at least {least} are needed",
            cure="check again when more rows have come; icosfl status tells how the nodes' rows stand",
        )
    model = build(artifact.shape, seed=0)
    load_arrays(model, artifact.arrays)
    inputs, times = prepared.held_out.inputs, prepared.held_out.last_times
    found = levels(prepared.schema, prepared.held_out, predict(model, fit_blend(prepared.train), inputs, times))
    return Checked(
        host=node.host,
        digest=artifact.digest,
        levels=tuple(level for level in found if level.count >= FEWEST_WINDOWS),
        before=levels_of_test(saved.scores) if saved else (),
        windows=count,
        since_ns=since,
        age_seconds=(now_ns - newest) / NANOSECONDS,
    )


def levels_of_test(scores: Scores) -> tuple[Level, ...]:
    """What scores say of the global model beside persistence on the test rows, which no choice was made by."""
    return tuple(
        Level(score.series, score.horizon_steps, score.count, score.errors[GLOBAL].rmse, score.errors[PERSISTENCE].rmse)
        for score in scores.scores
        if score.count > 0 and {GLOBAL, PERSISTENCE} <= set(score.errors)
    )


def made_ns(artifact: Artifact) -> int:
    """When a model was made, nanoseconds since the epoch.

    Raises:
        CheckpointError: it does not say so properly.
    """
    try:
        moment = datetime.fromisoformat(artifact.created)
    except ValueError as error:
        raise CheckpointError(
            f"the model says {artifact.created!r} for when it was made", cure="train again"
        ) from error
    known = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return round(known.timestamp()) * NANOSECONDS


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / NANOSECONDS, UTC).isoformat(timespec="seconds")
