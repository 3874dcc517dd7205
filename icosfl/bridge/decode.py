"""From an OTLP request to the points that rules want. Pure: no clock, no store.

Gauges and cumulative sums carry the quantity itself in every point and are kept as they are. A delta sum carries only
the change since the point before it: to make a quantity of it the bridge would have to remember a total, and one lost
or repeated request would falsify every value after it. Delta sums are therefore left out, with a reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from icosfl.bridge.attributes import Attributes
from icosfl.bridge.columns import NO_VALUE, Gatherer, Points
from icosfl.bridge.identities import Identities, resource_attributes
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rules import Feed, Rule
from icosfl.bridge.wire import DataView, Kind, ResourceView, view_request

LAST_TIME = 2**63 - 1
MOST_PARTS = 10_000

_CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
_UNSUPPORTED: Mapping[Kind, Reason] = {
    "histogram": Reason.HISTOGRAM,
    "exponential_histogram": Reason.EXPONENTIAL_HISTOGRAM,
    "summary": Reason.SUMMARY,
}


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """The times, in ns since the epoch, that a point may have: from `earliest` to `latest`."""

    earliest: int
    latest: int


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """What a request holds: the points that are wanted, the number left out by reason, the resources nobody knows.

    Whether the points can be stored is not seen to yet.
    """

    points: Points
    dropped: Counter[Reason]
    strangers: tuple[Attributes, ...]

    def check(self, span: TimeSpan) -> Gathered:
        """The same with the points that can be stored; the others are left out by the first reason against them.

        Args:
            span: The times that a point may have.
        """
        valid, dropped = _check(self.points, TimeSpan(span.earliest, min(span.latest, LAST_TIME)))
        return Gathered(self.points.only(valid), self.dropped + dropped, self.strangers) if dropped else self


def gather(body: bytes, identities: Identities) -> Gathered:
    """Read the points of a request.

    A point that nobody wants is counted without being read: a sender like Scaphandre ships hundreds of points a scrape
    for the few that are kept.

    Args:
        body: The bytes of an `ExportMetricsServiceRequest`.
        identities: Knows senders and points by their bytes.

    Raises:
        DecodeError: the bytes are no request, or one of more than `MOST_PARTS` resources or scopes.
    """
    gatherer = Gatherer(identities)
    dropped: Counter[Reason] = Counter()
    strangers: list[Attributes] = []
    for group in _resources(body):
        resource = b"".join(group.resource)
        sender = identities.sender(resource)
        if sender.rule is not None:
            _gather(group, sender.digest, sender.rule, gatherer, dropped)
        elif count := sum(len(data.data_points) for _, _, data in _metrics(group)):
            dropped[Reason.UNKNOWN_RESOURCE] += count
            strangers.append(resource_attributes(resource))
    return Gathered(gatherer.read(), dropped, tuple(strangers))


def parts_of(body: bytes, identities: Identities) -> Iterator[tuple[Sequence[bytes], Feed | None]]:
    """The points of a request in their order, as they stand in its bytes, and what they are for; None: for nothing.

    Raises:
        DecodeError: the bytes are no request, or one of more than `MOST_PARTS` resources or scopes.
    """
    for group in _resources(body):
        rule = identities.sender(b"".join(group.resource)).rule
        for name, kind, data in _metrics(group):
            use = None if rule is None else _use(rule, name, kind, data)
            yield data.data_points, use if isinstance(use, Feed) else None


def _resources(body: bytes) -> Sequence[ResourceView]:
    """The resources of a request, unless there are so many, empty ones maybe, that going through them takes seconds."""
    groups = view_request(body).resource_metrics
    if len(groups) > MOST_PARTS or sum(len(group.scope_metrics) for group in groups) > MOST_PARTS:
        raise DecodeError(f"it has more than {MOST_PARTS} resources, or scopes")
    return groups


def _metrics(group: ResourceView) -> Iterator[tuple[bytes, Kind, DataView]]:
    """The metrics of a resource that have data: name, kind, data."""
    for scope in group.scope_metrics:
        for metric in scope.metrics:
            kind = metric.WhichOneof("data")
            if kind is not None:
                yield metric.name, kind, getattr(metric, kind)


def _gather(group: ResourceView, resource: bytes, rule: Rule, gatherer: Gatherer, dropped: Counter[Reason]) -> None:
    """Give the points that the rule wants to the gatherer, and count the others."""
    for name, kind, data in _metrics(group):
        use = _use(rule, name, kind, data)
        if isinstance(use, Feed):
            gatherer.add(resource, use, data.data_points)
        elif count := len(data.data_points):
            dropped[use] += count


def _use(rule: Rule, name: bytes, kind: Kind, data: DataView) -> Feed | Reason:
    """What a metric is for, or why it is for nothing."""
    if kind in _UNSUPPORTED:
        return _UNSUPPORTED[kind]
    feed = rule.feeds.get(name)
    if feed is None:
        return Reason.UNKNOWN_METRIC
    if kind == "sum" and data.aggregation_temporality != _CUMULATIVE:
        return Reason.NOT_CUMULATIVE
    return feed


def _check(points: Points, span: TimeSpan) -> tuple[NDArray[np.bool_], Counter[Reason]]:
    """Which points can be stored; the others are counted by the first reason against them."""
    dropped: Counter[Reason] = Counter()
    problems = (
        (points.kinds == NO_VALUE, Reason.NO_VALUE),
        (~np.isfinite(points.values), Reason.NOT_FINITE),
        (points.times == np.uint64(0), Reason.NO_TIME),
        (points.times > np.uint64(span.latest), Reason.IN_FUTURE),
        (points.times < np.uint64(span.earliest), Reason.TOO_OLD),
    )
    invalid = np.zeros(len(points), np.bool_)
    for wrong, reason in problems:
        if count := int(np.count_nonzero(wrong & ~invalid)):
            dropped[reason] += count
            invalid |= wrong
    return ~invalid, dropped
