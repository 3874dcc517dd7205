"""How good a model is, series by series and horizon by horizon, in real units and beside the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from icosfl.errors import SchemaMismatch
from icosfl.process.clean import NANOSECONDS
from icosfl.process.scale import Scaler
from icosfl.process.windows import Windows
from icosfl.schema import Schema, Series, Values
from icosfl.train.baselines import Baselines
from icosfl.train.loop import predict
from icosfl.train.model import Forecaster

# The interval leaves out one part in ten of the errors at either end.
TAIL_PARTS = 10
INTERVAL = 1 - 2 / TAIL_PARTS

MODEL = "model"


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean absolute and root mean squared error, in the series' unit."""

    mae: float
    rmse: float


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one series at one horizon.

    Model and baselines are measured on the same `count` points. Where there is none, all numbers are None.

    Args:
        series: Its name.
        unit: Of all errors and of the interval.
        horizon_steps: How far ahead, in rows.
        horizon_seconds: The same in seconds.
        count: Points measured on.
        model: Errors of the model.
        baselines: Errors of each baseline by its name.
        skill: By baseline, 1 - RMSE of the model / RMSE of the baseline: above 0 the model is better, 1 is perfect.
            None where the baseline made no error at all.
        lower: To be added to a forecast for the lower end of its interval: a quantile of target - forecast.
        upper: The same for the upper end.
        coverage: Share of the newer half of the points that lie within the interval made from the older half alone:
            what the interval really held on data that it had not seen. None with too few points.
    """

    series: str
    unit: str
    horizon_steps: int
    horizon_seconds: float
    count: int
    model: Errors | None
    baselines: Mapping[str, Errors]
    skill: Mapping[str, float | None]
    lower: float | None
    upper: float | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of a model on one node's validation windows.

    The interval (`Score.lower`, `Score.upper`) is nominally 80 %: its ends are order statistics of the errors on the
    validation windows, widened for their number as in split conformal prediction. It promises what errors were, not
    what they will be: neighbouring errors are alike, and a change of load is no part of it. `Score.coverage` says
    what it held.

    Args:
        train_windows: On which the baselines were fitted.
        validation_windows: On which all was measured.
        scores: Series by series in the schema's order, horizons ascending.
    """

    train_windows: int
    validation_windows: int
    scores: tuple[Score, ...]

    def of(self, series: str, horizon_steps: int) -> Score | None:
        """The score of a series at a horizon, or None when there is none."""
        found = (score for score in self.scores if score.series == series and score.horizon_steps == horizon_steps)
        return next(found, None)

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what `to_dict` wrote, also after a way through JSON.

        Raises:
            SchemaMismatch: it is something else.
        """
        try:
            fields = dict(data)  # type: ignore[call-overload]
            scores = tuple(_score_from(dict(item)) for item in fields.pop("scores"))
            return cls(scores=scores, **fields)
        except (TypeError, ValueError, KeyError) as error:
            raise SchemaMismatch("these are no scores") from error


def evaluate(model: Forecaster, scaler: Scaler, schema: Schema, train: Windows, validation: Windows) -> Scores:
    """Measure a model on validation windows, beside the baselines fitted on the training windows.

    A point counts for all of them or for none: its target was measured, and the model and each baseline forecast it.

    Raises:
        SchemaMismatch: model, scaler, schema and windows are of different shapes.
    """
    if not len(schema) == train.width == validation.width or train.horizons != validation.horizons:
        raise SchemaMismatch("schema, training and validation windows must share their series and horizons")
    forecasts = {MODEL: predict(model, scaler, validation.inputs)}
    if forecasts[MODEL].shape != validation.targets.shape:
        raise SchemaMismatch(
            f"a model of {model.shape.horizons} horizons cannot be measured at {len(validation.horizons)}"
        )
    forecasts |= Baselines.fit(train).predict(validation.inputs)
    residuals = {name: validation.targets - values for name, values in forecasts.items()}
    usable = np.logical_and.reduce([np.isfinite(values) for values in residuals.values()])
    scores = tuple(
        _score(
            series,
            (steps, steps * validation.period_ns / NANOSECONDS),
            {name: values[usable[:, row, column], row, column] for name, values in residuals.items()},
        )
        for column, series in enumerate(schema.series)
        for row, steps in enumerate(validation.horizons)
    )
    return Scores(len(train), len(validation), scores)


def interval(residuals: Values) -> tuple[float, float]:
    """Ends of an interval that holds at least 80 % of exchangeable errors like these, shape [n], n at least 1.

    They are the order statistics of rank floor((n + 1) / 10) from either side, and the smallest and largest error
    where n < 9 is too few for the 80 %.
    """
    ordered = np.sort(residuals)
    rank = max((len(ordered) + 1) // TAIL_PARTS, 1)
    return float(ordered[rank - 1]), float(ordered[-rank])


def _score(series: Series, horizon: tuple[int, float], residuals: dict[str, Values]) -> Score:
    count = len(residuals[MODEL])
    errors = {name: _errors(values) for name, values in residuals.items()} if count else {}
    model = errors.pop(MODEL, None)
    lower, upper = interval(residuals[MODEL]) if count else (None, None)
    return Score(
        series=series.name,
        unit=series.unit,
        horizon_steps=horizon[0],
        horizon_seconds=horizon[1],
        count=count,
        model=model,
        baselines=errors,
        skill={name: _skill(model, baseline) for name, baseline in errors.items()} if model else {},
        lower=lower,
        upper=upper,
        coverage=_coverage(residuals[MODEL]),
    )


def _errors(residuals: Values) -> Errors:
    return Errors(float(np.abs(residuals).mean()), float(np.sqrt((residuals**2).mean())))


def _skill(model: Errors, baseline: Errors) -> float | None:
    return 1 - model.rmse / baseline.rmse if baseline.rmse > 0 else None


def _coverage(residuals: Values) -> float | None:
    """Share of the newer half within the interval of the older half; None where this is too small for an interval."""
    half = len(residuals) // 2
    if half < TAIL_PARTS - 1:
        return None
    lower, upper = interval(residuals[:half])
    newer = residuals[half:]
    return float(((newer >= lower) & (newer <= upper)).mean())


def _score_from(fields: dict[str, Any]) -> Score:
    model = fields.pop("model")
    return Score(
        model=None if model is None else Errors(**model),
        baselines={name: Errors(**errors) for name, errors in dict(fields.pop("baselines")).items()},
        **fields,
    )
