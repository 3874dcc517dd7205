"""What a node's forecast service answers, as values; their JSON, and back.

Numbers in JSON are finite or null, never NaN or Infinity; times are ISO 8601 in UTC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import pydantic
from pydantic import TypeAdapter

from icosfl.errors import DataError
from icosfl.train.scores import Errors, Scores

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which global model answers: its digest, the run and round that made it, the nodes that taught it, and when."""

    digest: str
    run: str
    round: int
    nodes: tuple[str, ...]
    created: datetime


@dataclass(frozen=True, slots=True)
class StoreState:
    """What the node's store held when it last answered, and how old its newest row is now."""

    rows: int
    capacity: int
    newest: datetime | None
    age_seconds: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the predictors were last checked on this node: on rows after `cutoff`, none of which they were taught.

    These rows are cut in two. On the older half (validation) the predictor that is served was chosen and its interval
    calibrated; on the newer half (test), which had no part in that, all errors, skill, coverage and width are told.

    Args:
        cutoff: Rows up to here are the training part, to which the node's own linear part and the baselines are fitted.
        until: The newest row that was measured on.
        evaluated: When it was measured.
        scores: How many windows there were on either side of the cutoff, and all that was measured, also of series
            that cannot be forecast now.
    """

    cutoff: datetime
    until: datetime
    evaluated: datetime
    scores: Scores


@dataclass(frozen=True, slots=True)
class Forecast:
    """One series at one horizon, in the series' own unit.

    Args:
        series: The series' name.
        unit: Its unit.
        horizon_seconds: How far ahead of the row that the page is based on; rows of single series may be newer.
        time: Which moment is forecast.
        last: The value measured there.
        model: Which predictor is served: "global", or the baseline that was better on this node's validation part.
        value: Its forecast; of the global model the median.
        lower: The lower end of the interval around it; None until it has been checked on this node.
        upper: The interval's upper end; None likewise.
        candidates: What the global model and each baseline say of the same moment; None where one cannot say anything.
        errors: Of each predictor on this node's test part.
        skill: 1 - RMSE of the global model / RMSE of the baseline there, by baseline; None without either.
        coverage: Share of the moments of the test part that such an interval held.
        width: Its mean width there, in the series' unit.
    """

    series: str
    unit: str
    horizon_seconds: float
    time: datetime
    last: float
    model: str
    value: float
    lower: float | None
    upper: float | None
    candidates: dict[str, float | None]
    errors: dict[str, Errors]
    skill: dict[str, float | None]
    coverage: float | None
    width: float | None


@dataclass(frozen=True, slots=True)
class Omitted:
    """A series of the model that is not forecast, and why."""

    series: str
    reason: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a node can forecast now, and if not, why: the answer of `/readyz`."""

    ready: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    host: str
    store: StoreState | None
    model: ModelInfo | None


@dataclass(frozen=True, slots=True)
class ForecastPage:
    """All forecasts of a node: the answer of `/v1/forecast`.

    Args:
        ready: Whether there are forecasts.
        reasons: Why there are none.
        warnings: What limits them.
        host: The node's name.
        generated: When the forecasts were made.
        based_on: The time of the newest row that they are based on.
        model: The global model in service; each forecast says whether it is served or a baseline that is better here.
        interval: The share of moments that lower and upper are meant to enclose; None until they were checked here.
        forecasts: By series, then by horizon.
        omitted: The model's series that this node cannot forecast.
        evaluation: How the predictors were checked on this node; None until then.
    """

    ready: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    host: str
    generated: datetime | None
    based_on: datetime | None
    model: ModelInfo | None
    interval: float | None
    forecasts: tuple[Forecast, ...]
    omitted: tuple[Omitted, ...]
    evaluation: Evaluation | None


def to_json(value: Readiness | ForecastPage) -> bytes:
    """Return the value as JSON text; a number that is not finite becomes null."""
    return _adapter(type(value)).dump_json(value)


def from_json(text: bytes, kind: type[T]) -> T:
    """Return the value of `kind` that the JSON `text` holds.

    Raises:
        DataError: the text is not JSON, or lacks what `kind` needs.
    """
    try:
        value: T = _adapter(kind).validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the answer"
        raise DataError(
            f"not what a forecast service of this release answers: {place}: {first['msg']}",
            cure="bring the node to this release: run site.yml",
        ) from error
    return value


def finite(value: float) -> float | None:
    """Return the number, or None if it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None


def to_datetime(time_ns: int) -> datetime:
    """Return the moment `time_ns` nanoseconds after the epoch, in UTC, to the microsecond."""
    return EPOCH + timedelta(microseconds=time_ns // 1_000)


def _adapter(kind: Any) -> TypeAdapter[Any]:
    return _cached_adapter(kind)


@cache
def _cached_adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)  # takes some 10 ms to build
