"""From an OTLP request to plain points. Pure: no clock, no store, no rules of its own.

Gauges and cumulative sums carry the quantity itself in every point and are kept as they are. A delta sum carries only
the change since the point before it: to make a quantity of it the bridge would have to remember a total, and one lost
or repeated request would falsify every value after it. Delta sums are therefore left out, with a reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    DataPointFlags,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
)

from icosfl.bridge.reasons import Reason

Attributes = Mapping[str, str]

LAST_TIME = 2**63 - 1

_UNSUPPORTED = {
    "histogram": Reason.HISTOGRAM,
    "exponential_histogram": Reason.EXPONENTIAL_HISTOGRAM,
    "summary": Reason.SUMMARY,
}


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """The times, in ns since the epoch, that a point may have: from `earliest` to `latest`."""

    earliest: int
    latest: int


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value: who sent it, of what, when (ns since the epoch), and how much (finite)."""

    resource: Attributes
    metric: str
    attributes: Attributes
    time: int
    value: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a request holds: the points that are wanted, the number left out by reason, the resources nobody knows."""

    points: tuple[Point, ...]
    dropped: Mapping[Reason, int]
    strangers: tuple[Attributes, ...]


def decode(
    request: ExportMetricsServiceRequest, wanted: Callable[[Attributes], Collection[str] | None], span: TimeSpan
) -> Decoded:
    """Read the points of a request.

    A point that nobody wants is counted without being read: reading attributes is most of the work, and a sender
    like Scaphandre ships hundreds of points a scrape for the few that are kept.

    Args:
        request: Any valid request.
        wanted: The names of the metrics that are wanted of a resource; None for a resource that is unknown.
        span: The times that a point may have.
    """
    points: list[Point] = []
    dropped: Counter[Reason] = Counter()
    strangers: list[Attributes] = []
    span = TimeSpan(span.earliest, min(span.latest, LAST_TIME))
    for group in request.resource_metrics:
        resource = _attributes(group.resource.attributes)
        names = wanted(resource)
        if names is not None:
            for metric in _metrics(group):
                points += _read(metric, resource, names, span, dropped)
        elif count := sum(_count(metric) for metric in _metrics(group)):
            dropped[Reason.UNKNOWN_RESOURCE] += count
            strangers.append(resource)
    return Decoded(tuple(points), dropped, tuple(strangers))


def _metrics(group: ResourceMetrics) -> Iterator[Metric]:
    return (metric for scope in group.scope_metrics for metric in scope.metrics)


def _count(metric: Metric) -> int:
    kind = metric.WhichOneof("data")
    return len(getattr(metric, kind).data_points) if kind else 0


def _read(
    metric: Metric, resource: Attributes, names: Collection[str], span: TimeSpan, dropped: Counter[Reason]
) -> Iterator[Point]:
    reason = _metric_problem(metric, names)
    if reason is not None:
        if count := _count(metric):
            dropped[reason] += count
        return
    data = metric.sum if metric.WhichOneof("data") == "sum" else metric.gauge
    for point in data.data_points:
        value = _value(point)
        problem = _point_problem(point, value, span)
        if problem is not None or value is None:
            dropped[problem or Reason.NO_VALUE] += 1
        else:
            yield Point(resource, metric.name, _attributes(point.attributes), point.time_unix_nano, value)


def _metric_problem(metric: Metric, names: Collection[str]) -> Reason | None:
    kind = metric.WhichOneof("data") or ""
    if kind in _UNSUPPORTED:
        return _UNSUPPORTED[kind]
    if metric.name not in names:
        return Reason.UNKNOWN_METRIC
    cumulative = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    if kind == "sum" and metric.sum.aggregation_temporality != cumulative:
        return Reason.NOT_CUMULATIVE
    return None


def _value(point: NumberDataPoint) -> float | None:
    if point.flags & DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK:
        return None
    match point.WhichOneof("value"):
        case "as_double":
            return point.as_double
        case "as_int":
            return float(point.as_int)
        case _:
            return None


def _point_problem(point: NumberDataPoint, value: float | None, span: TimeSpan) -> Reason | None:
    if value is None:
        return Reason.NO_VALUE
    if not math.isfinite(value):
        return Reason.NOT_FINITE
    if point.time_unix_nano == 0:
        return Reason.NO_TIME
    if point.time_unix_nano > span.latest:
        return Reason.IN_FUTURE
    if point.time_unix_nano < span.earliest:
        return Reason.TOO_OLD
    return None


def _attributes(items: Iterable[KeyValue]) -> Attributes:
    return {item.key: _text(item.value) for item in items}


def _text(value: AnyValue) -> str:
    """An attribute's value as the text that rules are written in.

    A list, map or byte string stands as its encoding: it tells streams apart, but no rule can ask for it.
    """
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return repr(value.double_value)
        case None:
            return ""
        case _:
            return value.SerializeToString(deterministic=True).hex()
