"""Watch the directory into which the federated run hands out its models."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError, DataError
from icosfl.serve.predictor import Predictor
from icosfl.train.artifact import load_served, served_digest

if TYPE_CHECKING:
    from icosfl.train.evaluation import Evaluation

logger = logging.getLogger(__name__)


class ModelWatch:
    """Finds new models. One that is damaged or does not fit this node is left, with the reason in `trouble`.

    Args:
        node: Tells the directory, and what the node's rows are.
    """

    def __init__(self, node: NodeConfig) -> None:
        self._node = node
        self.trouble = ""

    def look(self, present: str | None) -> Predictor | None:
        """Return the model to forecast with if it is another than the present one, by its digest; cheap when it is not.

        That is the best one that a run handed out, not what a round has just made, see `artifact.served_digest`.

        A model that was refused is tried again at each look: its file may be whole by then.
        """
        try:
            digest = served_digest(self._node.models_dir)
            found = None if digest in (None, present) else self._load()
        except DataError as error:
            self.trouble = str(error)
            return None
        self.trouble = ""
        return found

    def _load(self) -> Predictor | None:
        artifact = load_served(self._node.models_dir)
        if artifact is None:
            return None
        saved = self._saved_evaluation(artifact.digest)
        return Predictor(artifact, self._node, saved)

    def _saved_evaluation(self, digest: str) -> Evaluation | None:
        from icosfl.train.evaluation import load_evaluation

        try:
            return load_evaluation(self._node.models_dir, digest)
        except CheckpointError as error:
            logger.warning("%s", error)  # the service measures by itself as well
            return None
