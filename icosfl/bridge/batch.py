"""From an OTLP request to the rows that the store gets, with an account of every point. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from icosfl.bridge.decode import Attributes, TimeSpan, decode
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rows import join
from icosfl.bridge.rules import Rules
from icosfl.schema import Rows


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one request, and what became of its points: each is either stored or dropped for one reason."""

    rows: Rows
    stored: int
    dropped: Mapping[Reason, int]
    strangers: tuple[Attributes, ...]

    @property
    def points(self) -> int:
        """How many points the request had."""
        return self.stored + sum(self.dropped.values())

    @property
    def rejected(self) -> int:
        """How many of the dropped points the sender is told about."""
        return sum(self.told.values())

    @property
    def told(self) -> Mapping[Reason, int]:
        """The dropped points that the sender is told about: all of them when nothing of the request is kept."""
        return {reason: count for reason, count in self.dropped.items() if reason.rejected or not self.stored}


@dataclass(frozen=True, slots=True)
class Reader:
    """How requests are read.

    Args:
        rules: Which points are kept.
        width: How many series the store has.
        row_tolerance: How far apart, in ns, the points of one row may lie.
        future_tolerance: How far ahead of the clock, in ns, a point may lie. One row that is years ahead would stay
            the newest for ever, and hide that no others come.
    """

    rules: Rules
    width: int
    row_tolerance: int
    future_tolerance: int

    def read(self, request: ExportMetricsServiceRequest, now: int, earliest: int = 0) -> Batch:
        """Decode a request, apply the rules and join the points to rows.

        Args:
            request: Any valid request.
            now: The time now, in ns since the epoch.
            earliest: The time, in ns since the epoch, before which the store keeps no rows.
        """
        decoded = decode(request, self.rules.wanted, TimeSpan(earliest, now + self.future_tolerance))
        joined = join(decoded.points, self.rules.match(decoded.points), self.width, self.row_tolerance)
        dropped = Counter(decoded.dropped)
        for index in range(len(decoded.points)):
            if index not in joined.kept:
                dropped[joined.left_out.get(index, Reason.OTHER_ATTRIBUTES)] += 1
        return Batch(joined.rows, len(joined.kept), dropped, decoded.strangers)


def explain(batch: Batch) -> str:
    """Say which points are rejected and why, in one line for the sender; empty when there are none."""
    told = [f"{count} x {reason.label}: {reason.text}" for reason, count in batch.told.items()]
    names = sorted({stranger.get("service.name", "without service.name") for stranger in batch.strangers})
    return "; ".join(told) + (f" (service.name: {', '.join(names[:5])})" if names else "")
