"""How good the global model and the baselines are on this node: measured on rows that none of them was taught.

The rows are cut in time. The cutoff stands at the share of the node's rows, counted from the oldest, that the run
trained on (`Artifact.train_fraction`). When the run trained here, it cut the rows of that time at the same share; since
then rows came at the new end and left at the old one, so the cutoff of now is not before the run's: the model was
taught no row after it. Where the run left its own cutoff beside the model, the later of the two counts. The node's own
linear part and the baselines are fitted to the rows up to the cutoff, and all are measured on the same windows, whose
targets lie after it: see `icosfl.train.scores`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from icosfl.schema import Rows
from icosfl.serve.values import Evaluation, to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import Baselines
from icosfl.train.linear import Linear
from icosfl.train.local import cutoff_of

if TYPE_CHECKING:
    from icosfl.train.evaluation import Evaluation as SavedEvaluation

# Numbers in the windows of each part at most (16 MB), so that a full store costs a small host little. What is left out
# are the oldest rows of the training part, and those right after the cutoff, which moves on.
MOST_NUMBERS = 2_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on one node, and what was fitted there.

    Args:
        evaluation: What was measured, and when.
        baselines: Fitted to the training part.
        linear: The node's own linear part, fitted likewise.
    """

    evaluation: Evaluation
    baselines: Baselines
    linear: Linear


def measured_of(saved: SavedEvaluation, until_ns: int | None) -> Measured:
    """Return what an evaluation of a model says.

    Args:
        saved: The evaluation.
        until_ns: The newest row in it, in nanoseconds since the epoch; None when that is not known.

    Raises:
        ValueError: it does not say properly when it was made.
    """
    when = datetime.fromisoformat(saved.measured)
    until = when if until_ns is None else to_datetime(until_ns)
    evaluation = Evaluation(to_datetime(saved.cutoff_ns), until, when, saved.scores)
    return Measured(evaluation, saved.baselines, saved.linear)


def restore(saved: SavedEvaluation, artifact: Artifact) -> Measured | None:
    """Return what the node measured when the model was handed out; None if it belongs to another model."""
    if saved.linear.weights.shape != (len(artifact.schema), artifact.window, len(artifact.horizons)):
        return None
    try:
        return measured_of(saved, None)
    except ValueError:
        return None


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
