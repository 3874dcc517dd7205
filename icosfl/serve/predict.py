"""From a model and a node's newest rows to forecasts in real units, beside what simple forecasts say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icosfl.errors import NotReady
from icosfl.process.clean import NANOSECONDS
from icosfl.process.windows import LatestWindow
from icosfl.schema import Rows, Schema, Values
from icosfl.serve.limits import limits_of
from icosfl.serve.measure import Measured
from icosfl.serve.values import Forecast, Omitted, finite, to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import AR, NAMES, Baselines
from icosfl.train.local import Plan, newest_window

if TYPE_CHECKING:
    from icosfl.train.scores import Score

MODEL = "model"

# With fewer errors than this, none lies in a tail of 10 %: they cannot bear an interval of 80 %.
FEWEST_POINTS = 9


@dataclass(frozen=True, slots=True)
class Outlook:
    """The forecasts of one moment.

    Args:
        last_time: Time of the newest row that they are based on, in nanoseconds since the epoch.
        forecasts: By series, then by horizon.
        omitted: The model's series that cannot be forecast from these rows.
    """

    last_time: int
    forecasts: tuple[Forecast, ...]
    omitted: tuple[Omitted, ...]


def window_of(rows: Rows, schema: Schema, plan: Plan) -> LatestWindow:
    """Return the newest window that the model can see, in real units.

    Raises:
        NotReady: too few rows, or no series without a gap among the newest.
    """
    have, need = len(rows), plan.window
    if have < need:
        wait = (need - have) * plan.period_seconds
        raise NotReady(f"{have} of the {need} rows that the model looks back on; about {wait:.0f} s to go")
    return newest_window(rows, schema, plan)


def state(artifact: Artifact, newest: LatestWindow, values: Values, seen: Values, measured: Measured | None) -> Outlook:
    """Put the model's values beside intervals, simple forecasts and scores.

    Args:
        artifact: The model.
        newest: The window that it forecast from.
        values: What it forecast, in real units, NaN where it cannot, shape [h, k].
        seen: The newest rows of the model's series as they were measured, shape [window, k].
        measured: How good the model is on this node, if that is known.

    Raises:
        NotReady: no series was forecast.
    """
    basis = _Basis(artifact, newest, values, seen, measured, _simple(newest, artifact.horizons, measured))
    forecasts, omitted = [], []
    for column, name in enumerate(artifact.schema.names):
        if np.isfinite(values[:, column]).all():
            forecasts += [_forecast(basis, column, row) for row in range(len(artifact.horizons))]
        else:
            omitted.append(Omitted(name, _why_not(basis, column)))
    if not forecasts:
        raise NotReady("; ".join(f"{item.series}: {item.reason}" for item in omitted))
    return Outlook(newest.last_time, tuple(forecasts), tuple(omitted))


@dataclass(frozen=True, slots=True, eq=False)
class _Basis:
    """What `state` is given, and the simple forecasts [h, k] by name."""

    artifact: Artifact
    newest: LatestWindow
    values: Values
    seen: Values
    measured: Measured | None
    simple: Mapping[str, Values]


def _forecast(basis: _Basis, column: int, row: int) -> Forecast:
    artifact = basis.artifact
    series, steps = artifact.schema.series[column], artifact.horizons[row]
    low, high = limits_of(series.unit, basis.seen[:, column])
    score = basis.measured.scores.of(series.name, steps) if basis.measured else None
    value = float(basis.values[row, column])
    lower, upper = _interval(value, score, low, high)
    seconds = steps * artifact.period_seconds
    simple = {name: finite(np.clip(values[row, column], low, high)) for name, values in basis.simple.items()}
    return Forecast(
        series=series.name,
        unit=series.unit,
        horizon_seconds=seconds,
        time=to_datetime(basis.newest.last_time + round(seconds * NANOSECONDS)),
        last=float(basis.newest.inputs[0, -1, column]),
        value=float(np.clip(value, low, high)),
        lower=lower,
        upper=upper,
        coverage=score.coverage if score else None,
        baselines=simple,
        skill={name: score.skill.get(name) if score else None for name in NAMES},
        rmse=_rmse(score),
    )


def _simple(newest: LatestWindow, horizons: tuple[int, ...], measured: Measured | None) -> dict[str, Values]:
    """The baselines' forecasts [h, k]; AR is fitted when the model is measured, before that it has none."""
    if measured is not None:
        return {name: values[0] for name, values in measured.baselines.predict(newest.inputs).items()}
    width = newest.inputs.shape[2]
    unfitted = Baselines(np.zeros(width), np.ones((width, 1)), np.zeros((width, 1, len(horizons))), horizons)
    forecasts = {name: values[0] for name, values in unfitted.predict(newest.inputs).items()}
    forecasts[AR] = np.full_like(forecasts[AR], np.nan)
    return forecasts


def _interval(value: float, score: Score | None, low: float, high: float) -> tuple[float | None, float | None]:
    """The ends of the interval, around the value and within the limits; None with too few points for its share."""
    if score is None or score.lower is None or score.upper is None or score.count < FEWEST_POINTS:
        return None, None
    lower, upper = value + min(score.lower, 0.0), value + max(score.upper, 0.0)
    return float(np.clip(lower, low, high)), float(np.clip(upper, low, high))


def _rmse(score: Score | None) -> dict[str, float | None]:
    if score is None or score.model is None:
        return dict.fromkeys((MODEL, *NAMES))
    return {MODEL: score.model.rmse, **{name: errors.rmse for name, errors in score.baselines.items()}}


def _why_not(basis: _Basis, column: int) -> str:
    seen = basis.seen[:, column]
    if bool(basis.newest.present[column]):
        known = bool(np.isfinite(basis.artifact.scaler.mean[column]))
        return "the model's forecast is not finite" if known else "no node had it when the model was trained"
    have = int(np.isfinite(seen).sum())
    if have == 0:
        return f"this node has no value of it in the newest {len(seen)} rows"
    return f"there is a gap in it: {have} of the newest {len(seen)} rows have a value"
