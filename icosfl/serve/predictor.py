"""A global model made ready for one node: does it fit, what does it forecast, how good is it here."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from icosfl.config import NodeConfig, schema_of
from icosfl.errors import CheckpointError
from icosfl.process.windows import LatestWindow
from icosfl.schema import Rows, Values
from icosfl.serve.measure import Measured, measured_of, part_of, restore
from icosfl.serve.predict import Outlook, Said, state, window_of
from icosfl.serve.values import ModelInfo
from icosfl.train.artifact import Artifact
from icosfl.train.linear import Linear
from icosfl.train.local import select
from icosfl.train.node import measure

if TYPE_CHECKING:
    from icosfl.train.evaluation import Evaluation


class Predictor:
    """A global model, ready to forecast on one node. Building the first one imports torch.

    Args:
        artifact: The model.
        node: Tells the node's series, its sampling period and the longest gap that is bridged.
        saved: What the node measured of the model when it was handed out, if it did.

    Attributes:
        info: What is told of the model.
        plan: How it looks at rows.
        handed: What `saved` says, if it belongs to the model.

    Raises:
        SchemaMismatch: the node keeps other series, units or another period than the model was taught.
        CheckpointError: the model does not say properly when it was made.
    """

    def __init__(self, artifact: Artifact, node: NodeConfig, saved: Evaluation | None) -> None:
        from icosfl.train.model import build, load_arrays

        self._schema = schema_of(node.series)
        artifact.check_suits(self._schema, node.period_seconds)
        self.info = info_of(artifact)
        self.plan = artifact.plan(node.max_gap_seconds)
        self._artifact = artifact
        self._node = node
        self._least_cutoff = saved.cutoff_ns if saved else 0
        self._network = build(artifact.shape, seed=0)
        load_arrays(self._network, artifact.arrays)
        self._network.eval()
        self.handed = restore(saved, artifact) if saved else None

    @property
    def rows_wanted(self) -> int:
        """How many of the newest rows a forecast needs, with some to spare for jitter and half filled rows."""
        return 2 * max(self.plan.window, self.plan.season) + math.ceil(self.plan.max_gap_ns / self.plan.period_ns)

    def outlook(self, rows: Rows, measured: Measured | None) -> Outlook:
        """Forecast from the node's newest rows.

        Args:
            rows: `rows_wanted` of them or more, in the node's schema; or all that there are.
            measured: How good the predictors are on this node. Without it the global model's median is all that is
                told, made with the linear part that the nodes have in common.

        Raises:
            NotReady: no series can be forecast: too few rows, or a gap among the newest.
        """
        newest = window_of(rows, self._schema, self.plan)
        quantiles = self._quantiles(newest, measured.linear if measured else None)
        baselines = measured.baselines.predict(newest.inputs, newest.seasonal) if measured else {}
        seen = select(rows, self._schema, self.plan.names).values[-self.plan.window :]
        said = Said(newest, quantiles, {name: values[0] for name, values in baselines.items()}, seen)
        return state(self._artifact, said, measured)

    def measure(self, rows: Rows) -> Measured:
        """Measure the model and the baselines on the node's own rows, all of them.

        Raises:
            NotReady: there are too few rows, before or after the cutoff.
        """
        kept, cutoff = part_of(rows, self._artifact, self._least_cutoff)
        return measured_of(measure(self._artifact, self._node, kept, cutoff), int(kept.times[-1]))

    def _quantiles(self, newest: LatestWindow, linear: Linear | None) -> Values:
        """The global model's quantiles [h, k, 3]; for a series that the own linear part lacks by the common one."""
        from icosfl.train.loop import predict

        times = np.array([newest.last_time])
        quantiles: Values = predict(self._network, linear, newest.inputs, times)[0]
        if linear is None or bool((linear.fitted | ~newest.present).all()):
            return quantiles
        common = predict(self._network, None, newest.inputs, times)[0]
        return np.asarray(np.where(linear.fitted[None, :, None], quantiles, common), np.float64)


def info_of(artifact: Artifact) -> ModelInfo:
    """Return what is told of a model.

    Raises:
        CheckpointError: the model does not say properly when it was made.
    """
    try:
        created = datetime.fromisoformat(artifact.created)
    except ValueError as error:
        raise CheckpointError(
            f"the model says {artifact.created!r} for when it was made", cure="train again"
        ) from error
    moment = created.replace(tzinfo=UTC) if created.tzinfo is None else created.astimezone(UTC)
    return ModelInfo(artifact.digest, artifact.run, artifact.round, artifact.nodes, moment)
