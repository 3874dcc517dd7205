"""How good the predictors are on one node, series by series and horizon by horizon, in real units; and on all nodes.

The rows after the cutoff, none of which a predictor was taught, are cut in two by the time of the targets. On the
older half (**validation**) the predictor that is to serve is chosen and its interval calibrated. On the newer half
(**test**), which has no part in that, all is measured that is told. Importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

from icosfl.errors import SchemaMismatch
from icosfl.process.clean import LARGEST_VALUE, NANOSECONDS
from icosfl.process.windows import Windows
from icosfl.schema import Schema, Series, Times, Values
from icosfl.train.baselines import GLOBAL, NAMES, Baselines
from icosfl.train.linear import Linear
from icosfl.train.shape import QUANTILES

if TYPE_CHECKING:
    from icosfl.train.model import Forecaster

# The interval leaves out one part in ten of the outcomes at either end.
TAIL_PARTS = 10
INTERVAL = 1 - 2 / TAIL_PARTS

# With fewer validation points than this no interval can be calibrated, and no predictor be chosen.
FEWEST_POINTS = TAIL_PARTS - 1

# An error below this share of the value is one of rounding: no predictor is better than another for it.
ROUNDING = 1e-9

# Among the predictors of a summary: whichever was chosen on each node.
SERVED = "served"

# No error is larger, as no value and no forecast that counts is larger than `LARGEST_VALUE`. What another node claims
# beyond it would overflow in a mean over the nodes.
LARGEST_ERROR = 10 * LARGEST_VALUE

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

_Baseline = Annotated[str, Field(pattern=f"^({'|'.join(NAMES)})$")]
_Predictor = Annotated[str, Field(pattern=f"^({'|'.join((GLOBAL, *NAMES))})$")]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Distance = Annotated[float, Field(ge=0, le=LARGEST_ERROR)]
_Offset = Annotated[float, Field(ge=-LARGEST_ERROR, le=LARGEST_ERROR)]
_Percent = Annotated[float, Field(ge=0, le=200)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Skill = Annotated[float, Field(ge=-LARGEST_ERROR, le=1)]


@checked(frozen=True, slots=True, config=_STRICT)
class Errors:
    """How far forecasts were off.

    Args:
        mae: Mean absolute error, in the series' unit.
        rmse: Root mean squared error, in the series' unit.
        smape: Mean of 200 |y - f| / (|y| + |f|) for outcome y and forecast f, in percent from 0 to 200; 0 where both
            are 0 (Makridakis 1993).
        mase: Mean absolute error / mean absolute step between two rows of the training part: below 1 is better than
            persistence was there at one step (Hyndman and Koehler 2006). None where the training part never moved.
    """

    mae: _Distance
    rmse: _Distance
    smape: _Percent
    mase: _Distance | None


@checked(frozen=True, slots=True, config=_STRICT)
class Score:
    """How good the predictors are at one series and one horizon.

    All predictors are measured on the same points: those whose target was measured and that the global model
    forecasts. A baseline that lacks a forecast at one of them is left out.

    Args:
        series: Its name.
        unit: Of the errors, the interval and its width.
        horizon_steps: How far ahead, in rows.
        horizon_seconds: The same in seconds.
        chosen: The predictor to serve: the least RMSE on validation. The global model on a tie, or with fewer than
            `FEWEST_POINTS` validation points.
        validation_count: Points of validation.
        count: Points of test.
        errors: On test, by predictor; empty without a point.
        validation_rmse: On validation, by predictor; empty without a point.
        skill: By baseline, 1 - RMSE of the global model / RMSE of the baseline on test: above 0 the global model is
            better, 1 is perfect. None where the baseline made no error to speak of.
        lower: To be added to the lower end that the chosen predictor names: P10 of the global model, the forecast of a
            baseline. In the series' unit, from validation alone; None with fewer than `FEWEST_POINTS` points.
        upper: The same for the upper end: P90, or the forecast.
        coverage: Share of the test points that the interval held: what it is worth on points that it has not seen.
        width: Mean width of the interval on the test points.
    """

    series: str
    unit: str
    horizon_steps: Annotated[int, Field(ge=1, le=2**53)]
    horizon_seconds: Annotated[float, Field(gt=0)]
    chosen: _Predictor
    validation_count: _Count
    count: _Count
    errors: Mapping[_Predictor, Errors]
    validation_rmse: Mapping[_Predictor, _Distance]
    skill: Mapping[_Baseline, _Skill | None]
    lower: _Offset | None
    upper: _Offset | None
    coverage: _Share | None
    width: _Distance | None

    def __post_init__(self) -> None:
        if self.errors and not {GLOBAL, self.chosen} <= set(self.errors):
            raise ValueError(f"{self.series}: no errors of the global model, or of {self.chosen}, which serves")


@checked(frozen=True, slots=True, config=_STRICT)
class Scores:
    """All scores on one node's held-out windows.

    The interval is nominally 80 %. Its ends are moved by order statistics of what lay beyond them on validation, each
    end for itself, widened for the number of points: split conformal prediction, of the global model's quantiles as in
    Romano et al. (2019). It promises what errors were, not what they will be: neighbouring errors are alike, and a
    change of load is no part of it. `Score.coverage` says what it held.

    Forecasts and intervals are measured as the predictors say them. What is served is clipped to the limits of the
    series' unit, after the interval is calibrated: no possible outcome lies beyond these, so that clipping can only
    bring a forecast nearer to it, and takes none out of an interval.

    Args:
        train_windows: On which all that is fitted on the node was fitted.
        held_out_windows: On which all was measured, validation and test together.
        scores: Series by series in the schema's order, horizons ascending.
    """

    train_windows: _Count
    held_out_windows: _Count
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
            return cls(**dict(data))  # type: ignore[call-overload]
        except (TypeError, ValueError) as error:
            raise SchemaMismatch("these are no scores") from error


@checked(frozen=True, slots=True, config=_STRICT)
class Mean:
    """Mean errors of one predictor over the nodes on which it was measured.

    Args:
        nodes: How many these are.
        mae: Mean of the nodes' MAE, in the series' unit.
        rmse: Mean of the nodes' RMSE, in the series' unit.
        smape: Mean of the nodes' sMAPE, in percent.
        mase: Mean of the nodes' MASE, over those that have one; None if none has.
    """

    nodes: int
    mae: float
    rmse: float
    smape: float
    mase: float | None


@checked(frozen=True, slots=True, config=_STRICT)
class Summary:
    """How good the predictors are at one series and one horizon over all nodes with a test point of it.

    Args:
        series: Its name.
        unit: Of errors and width.
        horizon_steps: How far ahead, in rows.
        horizon_seconds: The same in seconds.
        nodes: How many there are.
        means: Mean errors of the global model, of what is served, and of each baseline.
        beats: By baseline, the share of the nodes with it on which the global model's RMSE is less.
        served_beats: The same of what is served; where that is the baseline itself, it does not beat it.
        chosen: On how many nodes each predictor serves.
        coverage: Mean share that the served intervals held, over the nodes that have one.
        width: Mean width of these.
    """

    series: str
    unit: str
    horizon_steps: int
    horizon_seconds: float
    nodes: int
    means: Mapping[str, Mean]
    beats: Mapping[str, float]
    served_beats: Mapping[str, float]
    chosen: Mapping[str, int]
    coverage: float | None
    width: float | None

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON."""
        return asdict(self)


def evaluate(  # noqa: PLR0913, PLR0917 (what is measured, and on what)
    model: Forecaster, linear: Linear, baselines: Baselines, schema: Schema, train: Windows, held_out: Windows
) -> Scores:
    """Measure a model on held-out windows, with the linear part and beside the baselines fitted to the training ones.

    Raises:
        SchemaMismatch: model, linear part, schema and windows are of different shapes.
    """
    from icosfl.train.loop import predict

    quantiles = predict(model, linear, held_out.inputs, held_out.last_times)
    return score(schema, train, held_out, quantiles, baselines.predict(held_out.inputs, held_out.seasonal))


def score(
    schema: Schema, train: Windows, held_out: Windows, quantiles: Values, predictions: Mapping[str, Values]
) -> Scores:
    """Measure forecasts of held-out windows.

    Args:
        schema: Of the windows' series.
        train: What the baselines and the linear part were fitted to.
        held_out: Windows whose targets lie after the training part's.
        quantiles: The global model's, ascending, in real units, shape [n, h, k, 3].
        predictions: The baselines' forecasts by name, shape [n, h, k].

    Raises:
        SchemaMismatch: the parts are of different shapes.
    """
    _check(schema, train, held_out, quantiles, predictions)
    older = older_half(held_out.last_times)
    steps = mean_steps(train)
    scores = []
    for column, series in enumerate(schema.series):
        for row, horizon in enumerate(held_out.horizons):
            at = (slice(None), row, column)
            simple = {name: values[at] for name, values in predictions.items()}
            points = _points(held_out.targets[at], older, quantiles[at], simple)
            seconds = horizon * held_out.period_ns / NANOSECONDS
            scores.append(_score(series, (horizon, seconds), points, float(steps[column])))
    return Scores(len(train), len(held_out), tuple(scores))


def summary(all_scores: Mapping[str, Scores]) -> tuple[Summary, ...]:
    """Summarise the scores of many nodes, by series and horizon in the order in which they come.

    A node without a test point of a series has no part in it. Equal names in different units are different series.
    """
    groups: dict[tuple[str, str, int, float], list[Score]] = {}
    for scores in all_scores.values():
        for item in scores.scores:
            if GLOBAL in item.errors:
                place = (item.series, item.unit, item.horizon_steps, item.horizon_seconds)
                groups.setdefault(place, []).append(item)
    return tuple(_summary(found) for found in groups.values())


def mean_steps(train: Windows) -> Values:
    """Mean absolute difference of two neighbouring rows of the training part, shape [k], in the series' units.

    Each pair counts once, in however many windows it is. NaN for a series without a pair.
    """
    means = np.full(train.width, np.nan)
    for series in range(train.width):
        whole = np.flatnonzero(~np.isnan(train.inputs[:, -1, series]))
        if len(whole) == 0:
            continue
        since = np.diff(train.last_times[whole]) // train.period_ns
        follows = np.concatenate([[False], since == 1])
        within = _first_seen(train.inputs[whole[~follows], :, series], np.append(train.window, since[since != 1]))
        ends = train.inputs[whole, -1, series]
        differences = np.abs(np.concatenate([within, np.diff(ends)[follows[1:]]]))
        if len(differences):
            means[series] = differences.mean()
    return means


def errors_of(targets: Values, forecasts: Values, step: float) -> Errors:
    """How far forecasts [n] were off targets [n], n at least 1, both in real units.

    Args:
        targets: What was measured.
        forecasts: What had been said of it.
        step: Mean absolute step of the training part (`mean_steps`): the unit of MASE.
    """
    residuals = distances(targets, forecasts)
    sizes = np.abs(targets) + np.abs(forecasts)
    smape = 200 * float((residuals / np.where(sizes > 0, sizes, 1.0)).mean())
    mae = float(residuals.mean())
    return Errors(mae, root_mean_square(residuals), min(smape, 200.0), _ratio(mae, step))


def offsets(below: Values, above: Values) -> tuple[float, float] | None:
    """How far to move the ends of an interval so that each leaves out one outcome in ten.

    Args:
        below: Outcomes less the lower end, shape [n].
        above: Outcomes less the upper end, shape [n].

    Returns:
        The order statistics of rank floor((n + 1) / 10) from below and from above: a new outcome, exchangeable with
        these, lies beyond either with a probability of at most 1 in 10. None where n is less than `FEWEST_POINTS`.
    """
    rank = (len(below) + 1) // TAIL_PARTS
    if rank == 0:
        return None
    return float(np.sort(below)[rank - 1]), float(np.sort(above)[-rank])


def older_half(last_times: Times) -> NDArray[np.bool_]:
    """Which windows are validation, shape [n]; at any one horizon, they are those whose targets are older."""
    if len(last_times) == 0:
        return np.zeros(0, np.bool_)
    return np.asarray(last_times < np.sort(last_times)[len(last_times) // 2], np.bool_)


def sound(values: Values) -> NDArray[np.bool_]:
    """Which values are there, and none that only overflows."""
    return np.asarray(np.abs(values) <= LARGEST_VALUE, np.bool_)


def distances(targets: Values, forecasts: Values) -> Values:
    """Absolute errors; those that are no larger than rounding count as none."""
    residuals = np.abs(targets - forecasts)
    return np.asarray(np.where(residuals <= ROUNDING * np.abs(targets), 0.0, residuals))


def root_mean_square(residuals: Values) -> float:
    """Of residuals [n], n at least 1."""
    return float(np.sqrt((residuals**2).mean()))


@dataclass(frozen=True, slots=True, eq=False)
class _Points:
    """What was to be forecast at one series and horizon, and what was: only where the global model forecast.

    Args:
        targets: Shape [n].
        older: Which points are validation, shape [n].
        quantiles: Shape [n, 3].
        forecasts: By predictor, shape [n]: the global model's, and those of the baselines that forecast all points.
    """

    targets: Values
    older: NDArray[np.bool_]
    quantiles: Values
    forecasts: Mapping[str, Values]

    def ends(self, predictor: str) -> tuple[Values, Values]:
        """Lower and upper end that a predictor names, before they are calibrated."""
        if predictor == GLOBAL:
            return self.quantiles[:, 0], self.quantiles[:, -1]
        return self.forecasts[predictor], self.forecasts[predictor]


def _check(
    schema: Schema, train: Windows, held_out: Windows, quantiles: Values, predictions: Mapping[str, Values]
) -> None:
    if not len(schema) == train.width == held_out.width or train.horizons != held_out.horizons:
        raise SchemaMismatch("schema, training and held-out windows must share their series and horizons")
    shape = held_out.targets.shape
    if quantiles.shape != (*shape, len(QUANTILES)):
        raise SchemaMismatch(f"quantiles of shape {quantiles.shape} are not of targets of shape {shape}")
    for name, values in predictions.items():
        if values.shape != shape:
            raise SchemaMismatch(f"{name} forecasts of shape {values.shape} are not of targets of shape {shape}")


def _points(targets: Values, older: NDArray[np.bool_], quantiles: Values, predictions: Mapping[str, Values]) -> _Points:
    usable = sound(targets) & sound(quantiles).all(axis=1)
    told = quantiles[usable]
    simple = {name: values[usable] for name, values in predictions.items()}
    able = {name: values for name, values in simple.items() if bool(sound(values).all())}
    return _Points(targets[usable], older[usable], told, {GLOBAL: told[:, len(QUANTILES) // 2], **able})


def _first_seen(inputs: Values, since: NDArray[np.int64]) -> Values:
    """Differences within windows [m, window] that no window before had, each `since` [m] steps after the last one."""
    differences = np.diff(inputs, axis=1)
    from_end = np.arange(differences.shape[1], 0, -1)
    return np.asarray(differences[from_end <= since[:, None]])


def _score(series: Series, horizon: tuple[int, float], points: _Points, step: float) -> Score:
    older, newer = points.older, ~points.older
    validation_count, count = int(older.sum()), int(newer.sum())
    residuals = {name: distances(points.targets, values) for name, values in points.forecasts.items()}
    validation = {name: root_mean_square(values[older]) for name, values in residuals.items() if validation_count}
    chosen = min(validation, key=validation.__getitem__) if validation_count >= FEWEST_POINTS else GLOBAL
    lower, upper = points.ends(chosen)
    moved = offsets((points.targets - lower)[older], (points.targets - upper)[older])
    errors = {
        name: errors_of(points.targets[newer], values[newer], step)
        for name, values in points.forecasts.items()
        if count
    }
    coverage, width = _held(points, chosen, moved) if moved and count else (None, None)
    return Score(
        series=series.name,
        unit=series.unit,
        horizon_steps=horizon[0],
        horizon_seconds=horizon[1],
        chosen=chosen,
        validation_count=validation_count,
        count=count,
        errors=errors,
        validation_rmse=validation,
        skill={name: _skill(errors[GLOBAL], theirs) for name, theirs in errors.items() if name != GLOBAL},
        lower=moved[0] if moved else None,
        upper=moved[1] if moved else None,
        coverage=coverage,
        width=width,
    )


def _held(points: _Points, chosen: str, moved: tuple[float, float]) -> tuple[float, float]:
    """Share of the test points that the calibrated interval holds, and its mean width; it always holds the forecast."""
    newer = ~points.older
    targets, forecasts = points.targets[newer], points.forecasts[chosen][newer]
    below, above = (ends[newer] for ends in points.ends(chosen))
    lower, upper = np.minimum(below + moved[0], forecasts), np.maximum(above + moved[1], forecasts)
    return float(((targets >= lower) & (targets <= upper)).mean()), float((upper - lower).mean())


def _skill(model: Errors, baseline: Errors) -> float | None:
    share = _ratio(model.rmse, baseline.rmse)
    return None if share is None else 1 - share


def _ratio(error: float, unit: float) -> float | None:
    """An error in units of another; None where that is 0, or so near to it that the ratio says nothing."""
    return error / unit if unit * LARGEST_ERROR > error else None


def _summary(scores: Sequence[Score]) -> Summary:
    first = scores[0]
    names = tuple(dict.fromkeys(name for item in scores for name in item.errors))
    measured = {name: [item.errors[name] for item in scores if name in item.errors] for name in names}
    ours = [item.errors[GLOBAL] for item in scores]
    served = [item.errors[item.chosen] for item in scores]
    simple = [name for name in names if name != GLOBAL]
    return Summary(
        series=first.series,
        unit=first.unit,
        horizon_steps=first.horizon_steps,
        horizon_seconds=first.horizon_seconds,
        nodes=len(scores),
        means={name: _mean(found) for name, found in {**measured, SERVED: served}.items()},
        beats={name: _share(ours, [item.errors.get(name) for item in scores]) for name in simple},
        served_beats={name: _share(served, [item.errors.get(name) for item in scores]) for name in simple},
        chosen={name: sum(item.chosen == name for item in scores) for name in names},
        coverage=_mean_of([item.coverage for item in scores]),
        width=_mean_of([item.width for item in scores]),
    )


def _mean(found: Sequence[Errors]) -> Mean:
    mae, rmse, smape = (
        float(np.mean([getattr(errors, name) for errors in found])) for name in ("mae", "rmse", "smape")
    )
    return Mean(len(found), mae, rmse, smape, _mean_of([errors.mase for errors in found]))


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _share(ours: Sequence[Errors], theirs: Sequence[Errors | None]) -> float:
    """Share of the nodes that have theirs on which our RMSE is less."""
    return float(np.mean([one.rmse < other.rmse for one, other in zip(ours, theirs, strict=True) if other is not None]))
