"""What a node measured of a model on its own rows, kept beside the model for the forecast service."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import CheckpointError, SchemaMismatch
from icosfl.train.baselines import Baselines
from icosfl.train.files import evaluation_path, write_atomically
from icosfl.train.linear import Linear
from icosfl.train.scores import Scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's scores on one node, and all that was fitted there: the model's linear part, and the baselines.

    Args:
        digest: Of the artifact that was measured.
        measured: When, UTC, ISO 8601.
        cutoff_ns: Rows up to this time were the training part, later ones were held out.
        scores: On the held-out part.
        baselines: Fitted on the training part, of the model's series and horizons.
        linear: The node's own linear part of the model, fitted likewise.

    Raises:
        SchemaMismatch: baselines and linear part are of different shapes.
    """

    digest: str
    measured: str
    cutoff_ns: int
    scores: Scores
    baselines: Baselines
    linear: Linear

    def __post_init__(self) -> None:
        if self.linear.weights.shape != self.baselines.ar.weights.shape:
            raise SchemaMismatch(
                f"baselines of shape {self.baselines.ar.weights.shape} and a linear part of shape "
                f"{self.linear.weights.shape} do not fit each other"
            )


def save_evaluation(evaluation: Evaluation, directory: Path) -> Path:
    """Write an evaluation atomically beside the models.

    Save it before the artifact, so that a reader that sees the new model finds its evaluation.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    path = evaluation_path(directory, evaluation.digest)
    data = {
        "digest": evaluation.digest,
        "measured": evaluation.measured,
        "cutoff_ns": evaluation.cutoff_ns,
        "scores": evaluation.scores.to_dict(),
        "baselines": evaluation.baselines.to_dict(),
        "linear": evaluation.linear.to_dict(),
    }
    write_atomically(path, json.dumps(data, allow_nan=False, indent=1).encode())
    return path


def load_evaluation(directory: Path, digest: str) -> Evaluation | None:
    """The evaluation of the artifact of this digest, or None when none was saved.

    Raises:
        CheckpointError: the file is damaged or another one.
    """
    path = evaluation_path(directory, digest)
    try:
        data = json.loads(path.read_bytes())
        evaluation = Evaluation(
            digest=str(data["digest"]),
            measured=str(data["measured"]),
            cutoff_ns=int(data["cutoff_ns"]),
            scores=Scores.from_dict(data["scores"]),
            baselines=Baselines.from_dict(data["baselines"]),
            linear=Linear.from_dict(data["linear"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, SchemaMismatch) as error:
        raise CheckpointError(
            f"{path}: no sound evaluation: {error}", cure="remove the file, and train again to make a new one"
        ) from error
    if evaluation.digest != digest:
        raise CheckpointError(f"{path}: belongs to another model", cure="remove the file, and train again")
    return evaluation
