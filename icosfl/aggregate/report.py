"""What a run leaves for people: `report.html`, one file that needs no network, and its pictures as `report.png`.

Importing this imports neither matplotlib nor torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from icosfl.aggregate.progress import Event
from icosfl.aggregate.report_page import page
from icosfl.aggregate.report_picture import OwnForecast, draw, stack
from icosfl.aggregate.report_story import story
from icosfl.config import NodeConfig, schema_of
from icosfl.process.clean import NANOSECONDS
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact
from icosfl.train.evaluation import Evaluation, load_evaluation
from icosfl.train.files import write_atomically
from icosfl.train.local import cut
from icosfl.train.scores import older_half

REPORT_FILE = "report.html"
PICTURE_FILE = "report.png"

# So many of the newest test points are drawn of each series and horizon.
_POINTS = 360
_NOTHING: Mapping[str, Any] = MappingProxyType({})

logger = logging.getLogger(__name__)


def report(  # noqa: PLR0913, PLR0917 (all that a run made)
    directory: Path,
    events: Sequence[Event],
    result: Mapping[str, Any],
    artifact: Artifact,
    node: NodeConfig,
    rows: Rows | None,
    config: Mapping[str, object] = _NOTHING,
) -> str:
    """Write a run's report on the controller; a report that cannot be made never fails a run.

    Args:
        directory: The run's own.
        events: All of the run, with its last word.
        result: What `result.json` says.
        artifact: The model that was handed out.
        node: The controller's configuration.
        rows: The controller's; None where its store does not answer.
        config: The run configuration.

    Returns:
        Why there is no report, "" when there is.
    """
    try:
        evaluation = load_evaluation(node.models_dir, artifact.digest)
        write_report(directory, events, result, own_forecasts(artifact, evaluation, node, rows), config)
    except Exception as error:  # whatever a drawing library or a full disk says: the model is what counts
        logger.warning("the run has no report: %s: %s", type(error).__name__, error)
        return f"{type(error).__name__}: {error}"
    return ""


def write_report(
    directory: Path,
    events: Sequence[Event],
    result: Mapping[str, Any],
    forecasts: Sequence[OwnForecast] = (),
    config: Mapping[str, object] = _NOTHING,
) -> Path:
    """Write `report.png` and `report.html`.

    Args:
        directory: The run's own.
        events: All of the run, also of one that failed or was resumed.
        result: What `result.json` says; empty where the run has none.
        forecasts: On the controller's own rows.
        config: The run configuration.

    Returns:
        The page.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    told = story(events, result)
    pictures = draw(told, result.get("summary") or (), forecasts)
    write_atomically(directory / PICTURE_FILE, stack(f"Run {told.run}: {told.state}", pictures))
    write_atomically(directory / REPORT_FILE, page(told, events, result, pictures, config).encode())
    return directory / REPORT_FILE


def own_forecasts(
    artifact: Artifact, evaluation: Evaluation | None, node: NodeConfig, rows: Rows | None
) -> tuple[OwnForecast, ...]:
    """What a model says of the newest of the controller's test rows: neither taught to it nor part of any choice.

    Args:
        artifact: The model.
        evaluation: Of that model on these rows: its linear part here, and what the training part was; None: none.
        node: Whose rows these are.
        rows: All of its store's; None: none.

    Returns:
        By series and horizon, without those that have no test point.

    Raises:
        SchemaMismatch: the node lacks a series of the model.
    """
    if evaluation is None or rows is None:
        return ()
    from icosfl.train.loop import predict
    from icosfl.train.model import build, load_arrays

    held_out = cut(rows, schema_of(node.series), artifact.plan(node.max_gap_seconds), evaluation.cutoff_ns).held_out
    newer = ~older_half(held_out.last_times)
    shown = held_out.pick(newer & (np.cumsum(newer[::-1])[::-1] <= _POINTS))
    if len(shown) == 0:
        return ()
    model = build(artifact.shape, seed=0)
    load_arrays(model, artifact.arrays)
    quantiles = predict(model, evaluation.linear, shown.inputs, shown.last_times)
    return tuple(
        OwnForecast(
            host=node.host,
            series=series.name,
            unit=series.unit,
            horizon_seconds=steps * shown.period_ns / NANOSECONDS,
            period_ns=shown.period_ns,
            times=shown.last_times + steps * shown.period_ns,
            truth=shown.targets[:, row, column],
            quantiles=quantiles[:, row, column],
        )
        for column, series in enumerate(artifact.schema.series)
        for row, steps in enumerate(artifact.horizons)
        if bool(np.isfinite(shown.targets[:, row, column]).any()) and bool(np.isfinite(quantiles[:, row, column]).any())
    )
