"""How good the model is on this node: measured on rows that it was not taught, beside simple forecasts.

The rows are cut in time. The cutoff stands at the share of the node's rows, counted from the oldest, that the run
trained on (`Artifact.train_fraction`). When the run trained here, it cut the rows of that time at the same share; since
then rows came at the new end and left at the old one, so the cutoff of now is not before the run's: the model was
taught no row after it. Where the run left its own cutoff beside the model, the later of the two counts. AR is fitted
to the rows up to the cutoff, and all are measured on the same windows, whose targets lie after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from icosfl.errors import NotReady
from icosfl.schema import Rows
from icosfl.serve.values import Evaluation, to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import Baselines
from icosfl.train.local import Prepared, cutoff_of

if TYPE_CHECKING:
    from icosfl.train.evaluation import Evaluation as SavedEvaluation
    from icosfl.train.model import Forecaster
    from icosfl.train.scores import Scores

# Numbers in the windows of each part at most (16 MB), so that a full store costs a small host little. What is left out
# are the oldest rows of the training part, and those right after the cutoff, which moves on.
MOST_NUMBERS = 2_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """A model's quality on one node.

    Args:
        scores: By series and horizon, on the validation part.
        baselines: The simple forecasts, AR fitted to the training part.
        evaluation: What was measured, and when.
        interval: The share that the scores' intervals are meant to enclose.
    """

    scores: Scores
    baselines: Baselines
    evaluation: Evaluation
    interval: float


def measure(network: Forecaster, artifact: Artifact, prepared: Prepared, newest_ns: int, now: datetime) -> Measured:
    """Measure a model on a node's own windows.

    Args:
        network: The model's network with its weights.
        artifact: The model.
        prepared: The node's windows, cut by `part_of`.
        newest_ns: Time of the newest row in them, in nanoseconds since the epoch.
        now: When this is.

    Raises:
        NotReady: there is no window before, or none after the cutoff.
    """
    from icosfl.train.scores import INTERVAL, evaluate

    train, validation = prepared.train, prepared.validation
    if len(train) == 0 or len(validation) == 0:
        raise NotReady(
            f"its rows give {len(train)} windows up to the cutoff and {len(validation)} after it, "
            "and both parts need at least one"
        )
    scores = evaluate(network, artifact.scaler, prepared.schema, train, validation)
    evaluation = Evaluation(to_datetime(prepared.cutoff_ns), to_datetime(newest_ns), len(train), len(validation), now)
    return Measured(scores, Baselines.fit(train), evaluation, INTERVAL)


def restore(saved: SavedEvaluation, artifact: Artifact) -> Measured | None:
    """Return what the node measured when the model was handed out; None if it belongs to another model."""
    from icosfl.train.scores import INTERVAL

    if saved.baselines.horizons != artifact.horizons or len(saved.baselines.centre) != len(artifact.schema):
        return None
    try:
        when = datetime.fromisoformat(saved.measured)
    except ValueError:
        return None
    scores = saved.scores
    evaluation = Evaluation(to_datetime(saved.cutoff_ns), when, scores.train_windows, scores.validation_windows, when)
    return Measured(scores, saved.baselines, evaluation, INTERVAL)


def part_of(rows: Rows, artifact: Artifact, least_cutoff_ns: int) -> tuple[Rows, int]:
    """Return the rows to measure on, and the cutoff in nanoseconds: bounded, however many rows the node keeps.

    Args:
        rows: All rows of the node.
        artifact: The model; tells the share of rows before the cutoff.
        least_cutoff_ns: The cutoff of the model's own run on this node, if that is known, else 0.

    Raises:
        NotReady: there is no row.
    """
    span = artifact.window + artifact.horizons[-1]
    most = max(MOST_NUMBERS // (artifact.window * len(artifact.schema)), 1) + span
    oldest = rows.tail(most).times[:1]
    cutoff = max(cutoff_of(rows, artifact.train_fraction), least_cutoff_ns, *(int(time) for time in oldest))
    before = int((rows.times <= cutoff).sum())
    start = max(before - most, 0)
    return Rows(rows.times[start:], rows.values[start:]), cutoff
