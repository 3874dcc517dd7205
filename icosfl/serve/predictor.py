"""A model of the fleet made ready for one node: does it fit, what does it forecast, how good is it here."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError
from icosfl.schema import Rows, Schema
from icosfl.serve.measure import Measured, measure, part_of, restore
from icosfl.serve.predict import Outlook, state, window_of
from icosfl.serve.values import ModelInfo
from icosfl.train.artifact import Artifact
from icosfl.train.local import Plan, cut, select

if TYPE_CHECKING:
    from icosfl.train.evaluation import Evaluation


class Predictor:
    """A model of the fleet, ready to forecast on one node. Building the first one imports torch.

    Args:
        artifact: The model.
        schema: The series of the node's rows.
        node: Tells the node's sampling period and the longest gap that is bridged.
        saved: What the node measured of the model when it was handed out, if it did.

    Attributes:
        info: What is told of the model.
        plan: How it looks at rows.
        handed: What `saved` says, if it belongs to the model.

    Raises:
        SchemaMismatch: the node keeps other series, units or another period than the model was taught.
        CheckpointError: the model does not say properly when it was made.
    """

    def __init__(self, artifact: Artifact, schema: Schema, node: NodeConfig, saved: Evaluation | None) -> None:
        from icosfl.train.model import build, load_arrays

        artifact.check_suits(schema, node.period_seconds)
        self.info = info_of(artifact)
        self.plan = Plan(
            artifact.schema.names, artifact.window, artifact.horizons, node.period_seconds, node.max_gap_seconds
        )
        self._artifact = artifact
        self._schema = schema
        self._least_cutoff = saved.cutoff_ns if saved else 0
        self._network = build(artifact.shape, seed=0)
        load_arrays(self._network, artifact.arrays)
        self._network.eval()
        self.handed = restore(saved, artifact) if saved else None

    @property
    def rows_wanted(self) -> int:
        """How many of the newest rows a forecast needs, with some to spare for jitter and half filled rows."""
        return 2 * self.plan.window + math.ceil(self.plan.max_gap_ns / self.plan.period_ns)

    def outlook(self, rows: Rows, measured: Measured | None) -> Outlook:
        """Forecast from the node's newest rows.

        Args:
            rows: `rows_wanted` of them or more, in the node's schema; or all that there are.
            measured: How good the model is on this node; without it there are no intervals, no skill and no AR.

        Raises:
            NotReady: no series can be forecast: too few rows, or a gap among the newest.
        """
        from icosfl.train.loop import predict

        newest = window_of(rows, self._schema, self.plan)
        values = predict(self._network, self._artifact.scaler, newest.inputs)[0]
        seen = select(rows, self._schema, self.plan.names).values[-self.plan.window :]
        return state(self._artifact, newest, values, seen, measured)

    def measure(self, rows: Rows, now: datetime) -> Measured:
        """Measure the model on the node's own rows, all of them.

        Raises:
            NotReady: there are too few rows, before or after the cutoff.
        """
        kept, cutoff = part_of(rows, self._artifact, self._least_cutoff)
        prepared = cut(kept, self._schema, self.plan, cutoff)
        return measure(self._network, self._artifact, prepared, int(kept.times[-1]), now)


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
