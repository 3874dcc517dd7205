"""The bridge's way from a request to rows once more: point by point with the official classes, slow and plain."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, NumberDataPoint

from icosfl.bridge.reasons import Reason
from icosfl.config import RuleConfig, SourceConfig
from icosfl.schema import Schema

KINDS = {
    "histogram": Reason.HISTOGRAM,
    "exponential_histogram": Reason.EXPONENTIAL_HISTOGRAM,
    "summary": Reason.SUMMARY,
}


@dataclass
class Measured:
    number: int
    resource: dict[str, str]
    rule: RuleConfig
    metric: str
    attributes: dict[str, str]
    time: int
    value: float
    said: list[Reason] = field(default_factory=lambda: [Reason.OTHER_ATTRIBUTES])
    stored: bool = False

    @property
    def age(self) -> tuple[int, int]:
        return self.time, self.number


@dataclass
class Plain:
    times: list[int]
    values: list[list[float]]
    stored: int
    dropped: Counter[Reason]
    strangers: list[dict[str, str]]


def read_plainly(
    body: bytes, rules: Sequence[RuleConfig], schema: Schema, tolerance: int, latest: int, earliest: int = 0
) -> Plain:
    dropped: Counter[Reason] = Counter()
    strangers: list[dict[str, str]] = []
    points: list[Measured] = []
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        resource = texts(group.resource.attributes)
        rule = next((rule for rule in rules if rule.match.items() <= resource.items()), None)
        metrics = [metric for scope in group.scope_metrics for metric in scope.metrics]
        if rule is None and any(map(count_points, metrics)):
            strangers.append(resource)
        for metric in metrics:
            why = problem_of_metric(metric, rule)
            if why or rule is None:
                dropped[why or Reason.UNKNOWN_RESOURCE] += count_points(metric)
                continue
            for point in getattr(metric, metric.WhichOneof("data") or "gauge").data_points:
                if why := problem_of_point(point, min(latest, 2**63 - 1), earliest):
                    dropped[why] += 1
                else:
                    attributes, value = texts(point.attributes), float(getattr(point, point.WhichOneof("value")))
                    points.append(
                        Measured(len(points), resource, rule, metric.name, attributes, point.time_unix_nano, value)
                    )
    rows = join_plainly(points, schema, tolerance)
    dropped.update(point.said[-1] for point in points if not point.stored)
    stored = sum(point.stored for point in points)
    return Plain([time for time, _ in rows], [row for _, row in rows], stored, +dropped, strangers)


def count_points(metric: Metric) -> int:
    kind = metric.WhichOneof("data")
    return len(getattr(metric, kind).data_points) if kind else 0


def texts(items: Iterable[KeyValue]) -> dict[str, str]:
    return {item.key: text(item.value) for item in items}


def text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    if kind is None:
        return ""
    content = getattr(value, kind)
    if kind == "bool_value":
        return str(content).lower()
    plain = kind.startswith(("string", "int", "double"))
    return str(content) if plain else value.SerializeToString(deterministic=True).hex()


def problem_of_metric(metric: Metric, rule: RuleConfig | None) -> Reason | None:
    kind = metric.WhichOneof("data")
    if rule is None:
        return Reason.UNKNOWN_RESOURCE
    if kind in KINDS:
        return KINDS[kind]
    if metric.name not in {name for source in rule.sources for name in (source.metric, source.minus) if name}:
        return Reason.UNKNOWN_METRIC
    return Reason.NOT_CUMULATIVE if kind == "sum" and metric.sum.aggregation_temporality != 2 else None


def problem_of_point(point: NumberDataPoint, latest: int, earliest: int) -> Reason | None:
    kind = point.WhichOneof("value")
    if kind is None or point.flags & 1:
        return Reason.NO_VALUE
    if not math.isfinite(getattr(point, kind)):
        return Reason.NOT_FINITE
    if point.time_unix_nano == 0:
        return Reason.NO_TIME
    if point.time_unix_nano > latest:
        return Reason.IN_FUTURE
    return Reason.TOO_OLD if point.time_unix_nano < earliest else None


def taken(source: SourceConfig, point: Measured) -> bool:
    return point.metric in (source.metric, source.minus) and source.attributes.items() <= point.attributes.items()


def join_plainly(points: list[Measured], schema: Schema, tolerance: int) -> list[tuple[int, list[float]]]:
    fed = [point for point in points if any(taken(source, point) for source in point.rule.sources)]
    groups: list[list[Measured]] = []
    for point in sorted(fed, key=lambda point: point.age):
        if not groups or point.time - groups[-1][0].time > tolerance:
            groups.append([])
        groups[-1].append(point)
    rows = []
    for group in groups:
        cells = cells_of(group, schema)
        if cells:
            rows.append((group[0].time, [cells.get(name, math.nan) for name in schema.names]))
    return rows


def cells_of(group: list[Measured], schema: Schema) -> dict[str, float]:
    made: dict[str, list[tuple[tuple[int, int], float, list[Measured]]]] = defaultdict(list)
    rules = {point.rule.name: point.rule for point in group}.values()
    for name in schema.names:
        for rule in rules:
            for source in rule.sources:
                found = [point for point in group if point.rule is rule and taken(source, point)]
                if source.series == name and found:
                    newest = {point.metric: point for point in found}
                    value = value_of(source, found, newest)
                    for point in found:
                        if isinstance(value, Reason):
                            point.said.append(value)
                        elif newest[point.metric] is not point:
                            point.said.append(Reason.SUPERSEDED)
                    if not isinstance(value, Reason):
                        age = max(point.age for point in newest.values())
                        made[name].append((age, value, list(newest.values())))
    cells = {}
    for name, found in made.items():
        *lost, (_, cells[name], parts) = sorted(found, key=lambda cell: cell[0])
        for point in parts:
            point.stored = True
        for _, _, parts in lost:
            for point in parts:
                point.said.append(Reason.SUPERSEDED)
    return cells


def value_of(source: SourceConfig, found: list[Measured], newest: dict[str, Measured]) -> float | Reason:
    streams = {(point.metric, tuple(sorted(point.attributes.items()))) for point in found}
    senders = {tuple(sorted(point.resource.items())) for point in found}
    if len(streams) > len(newest) or len(senders) > 1:
        return Reason.AMBIGUOUS
    if source.metric not in newest or (source.minus and source.minus not in newest):
        return Reason.INCOMPLETE
    value = newest[source.metric].value
    if source.minus:
        value -= newest[source.minus].value
    value *= source.scale
    return value if math.isfinite(value) else Reason.NOT_FINITE
