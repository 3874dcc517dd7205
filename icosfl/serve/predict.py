"""From what the global model and the baselines say of a node's next moments to what it serves, in real units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from icosfl.errors import NotReady
from icosfl.process.clean import NANOSECONDS
from icosfl.process.windows import LatestWindow
from icosfl.schema import Rows, Schema, Series, Values
from icosfl.serve.limits import limits_of
from icosfl.serve.measure import Measured
from icosfl.serve.values import Forecast, Omitted, finite, to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import GLOBAL, NAMES
from icosfl.train.local import Plan, newest_window
from icosfl.train.scores import Score
from icosfl.train.shape import QUANTILES


@dataclass(frozen=True, slots=True)
class Outlook:
    """The forecasts of one moment.

    Args:
        last_time: Time of the newest row that they are based on, in nanoseconds since the epoch.
        forecasts: By series, then by horizon.
        omitted: The model's series that cannot be forecast from these rows.
        warnings: What limits the forecasts.
    """

    last_time: int
    forecasts: tuple[Forecast, ...]
    omitted: tuple[Omitted, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What the predictors say of one moment.

    Args:
        newest: The window that they start from.
        quantiles: The global model's, in real units, NaN where it cannot forecast, shape [h, k, 3].
        baselines: The baselines' forecasts [h, k] by name, likewise; without a measurement there are none.
        seen: The newest rows of the model's series as they were measured, shape [window, k].
    """

    newest: LatestWindow
    quantiles: Values
    baselines: Mapping[str, Values]
    seen: Values


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


def state(artifact: Artifact, said: Said, measured: Measured | None) -> Outlook:
    """Choose for each series and horizon what is served, and put interval, candidates and errors beside it.

    Args:
        artifact: The global model.
        said: What it and the baselines say.
        measured: How good they are on this node, if that is known; without it the global model's median is served.

    Raises:
        NotReady: no series can be forecast.
    """
    forecasts: list[Forecast] = []
    omitted: list[Omitted] = []
    warnings: list[str] = []
    for column, series in enumerate(artifact.schema.series):
        reason = _why_not(artifact, said, column)
        if reason:
            omitted.append(Omitted(series.name, reason))
            continue
        scores = [
            measured.evaluation.scores.of(series.name, steps) if measured else None for steps in artifact.horizons
        ]
        found = _forecasts(artifact, said, column, scores)
        warnings += _warnings(series, found, scores if measured else [], said.seen[:, column])
        forecasts += found
    if not forecasts:
        raise NotReady("; ".join(f"{item.series}: {item.reason}" for item in omitted))
    return Outlook(said.newest.last_time, tuple(forecasts), tuple(omitted), tuple(warnings))


def _forecasts(artifact: Artifact, said: Said, column: int, scores: list[Score | None]) -> list[Forecast]:
    """The forecasts of a series, by horizon."""
    series = artifact.schema.series[column]
    limits = limits_of(series.unit, said.seen[:, column])
    ends = {name: [(value, value) for value in values[:, column].tolist()] for name, values in said.baselines.items()}
    ends[GLOBAL] = [(low, high) for low, *_, high in said.quantiles[:, column].tolist()]
    clipped = {name: np.clip(values[:, column], *limits).tolist() for name, values in said.baselines.items()}
    medians = np.clip(said.quantiles[:, column, len(QUANTILES) // 2], *limits).tolist()
    last = float(said.newest.inputs[0, -1, column])
    forecasts = []
    for row, (steps, score) in enumerate(zip(artifact.horizons, scores, strict=True)):
        candidates = {GLOBAL: medians[row], **dict.fromkeys(NAMES)}
        candidates |= {name: finite(values[row]) for name, values in clipped.items()}
        model, value = _served(candidates, score)
        told = score if score is not None and score.chosen == model else None  # an interval is one predictor's
        lower, upper = _interval(value, ends[model][row], told, limits)
        seconds = steps * artifact.period_seconds
        forecasts.append(
            Forecast(
                series=series.name,
                unit=series.unit,
                horizon_seconds=seconds,
                time=to_datetime(said.newest.last_time + round(seconds * NANOSECONDS)),
                last=last,
                model=model,
                value=value,
                lower=lower,
                upper=upper,
                candidates=candidates,
                errors=dict(score.errors) if score else {},
                skill={name: score.skill.get(name) if score else None for name in NAMES},
                coverage=told.coverage if told else None,
                width=told.width if told else None,
            )
        )
    return forecasts


def _served(candidates: Mapping[str, float | None], score: Score | None) -> tuple[str, float]:
    """The predictor that was chosen on validation; where it has nothing to say now, the best one there that has."""
    able = {name: value for name, value in candidates.items() if value is not None}
    if score is None:
        return GLOBAL, able[GLOBAL]
    if score.chosen in able:
        return score.chosen, able[score.chosen]
    return min(able.items(), key=lambda item: score.validation_rmse.get(item[0], math.inf))


def _interval(
    value: float, ends: tuple[float, float], score: Score | None, limits: tuple[float, float]
) -> tuple[float | None, float | None]:
    """The calibrated ends, around the value and within the limits; None where they were not calibrated.

    The offsets belong to ends as they were when the scores were made: not clipped. Only what comes out is.

    Args:
        value: What is served, within the limits.
        ends: What its predictor names as lower and upper end, as it says it.
        score: Of that predictor.
        limits: Of the unit.
    """
    if score is None or score.lower is None or score.upper is None:
        return None, None
    lower, upper = min(ends[0] + score.lower, value), max(ends[1] + score.upper, value)
    return max(lower, limits[0]), min(upper, limits[1])


def _warnings(series: Series, found: list[Forecast], scores: list[Score | None], seen: Values) -> list[str]:
    """What is to be said of a series' forecasts; `scores` is empty while nothing was measured on this node."""
    warnings = []
    known, unit = seen[np.isfinite(seen)], "" if series.unit == "1" else f" {series.unit}"
    if len(known) > 1 and bool(np.all(known == known[0])):
        warnings.append(
            f"{series.name} has the same value, {known[0]:g}{unit}, in all of its newest {len(known)} rows: "
            "see whether its sensor hangs"
        )
    if any(score is None or score.lower is None for score in scores):
        warnings.append(f"{series.name} has too few rows yet to be checked on this node: it has no interval")
    for forecast, score in zip(found, scores, strict=False):
        if score is not None and score.chosen != forecast.model:
            warnings.append(
                f"{series.name} in {forecast.horizon_seconds:g} s: {score.chosen} would be served, but lacks a value "
                f"now; {forecast.model} stands in, without an interval"
            )
    return warnings


def _why_not(artifact: Artifact, said: Said, column: int) -> str:
    """Why a series is not forecast; "" when it is."""
    seen = said.seen[:, column]
    if bool(said.newest.present[column]):
        if artifact.schema.names[column] not in artifact.taught:
            return "no node had it when the model was trained"
        return "" if np.isfinite(said.quantiles[:, column]).all() else "the model's forecast is not finite"
    have = int(np.isfinite(seen).sum())
    if have == 0:
        return f"this node has no value of it in the newest {len(seen)} rows"
    return f"there is a gap in it: {have} of the newest {len(seen)} rows have a value"
