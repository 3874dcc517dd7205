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
    """How the model was last measured on this node: on rows after `cutoff` up to `until`, none of which it was taught.

    Args:
        cutoff: Rows up to here are the training part, to which AR is fitted.
        until: The newest row that was measured on.
        train_windows: How many windows AR was fitted to.
        validation_windows: How many windows were measured on.
        evaluated: When it was measured.
    """

    cutoff: datetime
    until: datetime
    train_windows: int
    validation_windows: int
    evaluated: datetime


@dataclass(frozen=True, slots=True)
class Forecast:
    """One series at one horizon, in the series' own unit.

    Args:
        series: The series' name.
        unit: Its unit.
        horizon_seconds: How far ahead of the row that the page is based on; rows of single series may be newer.
        time: Which moment is forecast.
        last: The value measured there.
        value: The model's forecast.
        lower: The interval's lower end; None until the model has been measured on this node.
        upper: The interval's upper end; None likewise.
        coverage: Share of the newer half of the validation part that an interval made from its older half enclosed.
        baselines: What the simple forecasts say of the same moment, by name; None where one cannot be made.
        skill: 1 - RMSE of the model / RMSE of the baseline on this node's validation part, by baseline.
        rmse: Root mean squared error there in the series' unit: of the model and of each baseline.
    """

    series: str
    unit: str
    horizon_seconds: float
    time: datetime
    last: float
    value: float
    lower: float | None
    upper: float | None
    coverage: float | None
    baselines: dict[str, float | None]
    skill: dict[str, float | None]
    rmse: dict[str, float | None]


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
        model: The model that made them.
        evaluation: How that model was measured on this node.
        interval: The share of moments that lower and upper are meant to enclose; None without a measurement.
        forecasts: By series, then by horizon.
        omitted: The model's series that this node cannot forecast.
    """

    ready: bool
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    host: str
    generated: datetime | None
    based_on: datetime | None
    model: ModelInfo | None
    evaluation: Evaluation | None
    interval: float | None
    forecasts: tuple[Forecast, ...]
    omitted: tuple[Omitted, ...]


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
