"""Old models go, so that the disk of a host that nobody looks after does not fill."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import CheckpointError
from icosfl.train.artifact import best_digest, latest_digest, load
from icosfl.train.files import evaluation_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class _Model:
    created: str
    written_ns: int
    round: int
    digest: str
    path: Path


def prune_models(directory: Path, keep: int, needed: Collection[str] = ()) -> None:
    """Delete all models but the newest `keep`, each with its evaluation.

    Those that `latest` and `best` name always stay, and those of the digests that are still `needed`.

    A file that does not prove by its digest to be a model stays too. The evaluation goes before the model, each in one
    step, so whatever ends this in between, the rest is done next time. What cannot be deleted is logged: no run is
    worth less for an old file.
    """
    try:
        named = (latest_digest(directory), best_digest(directory))
        models = sorted(_models(directory), reverse=True)
        kept = {*named, *needed, *(model.digest for model in models[:keep])}
        for model in models[keep:]:
            if model.digest not in kept:
                evaluation_path(directory, model.digest).unlink(missing_ok=True)
                model.path.unlink(missing_ok=True)
    except (CheckpointError, OSError) as error:
        logger.warning("old models in %s stay: %s", directory, error)


def _models(directory: Path) -> Iterator[_Model]:
    for path in directory.glob("*.npz"):
        try:
            artifact, written_ns = load(path), path.stat().st_mtime_ns
        except CheckpointError as error:
            logger.warning("%s", error)
        else:
            yield _Model(artifact.created, written_ns, artifact.round, artifact.digest, path)
