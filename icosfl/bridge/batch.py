"""From an OTLP request to the rows that the store gets, with an account of every point. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icosfl.bridge.attributes import Attributes
from icosfl.bridge.columns import Points
from icosfl.bridge.decode import TimeSpan
from icosfl.bridge.identities import Identities
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rows import Joined, Plan, join
from icosfl.bridge.rules import Rules
from icosfl.bridge.templates import Template, Templates
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


class Reader:
    """How requests are read. Several threads may read at once; they share what is known of senders and their requests.

    Args:
        rules: Which points are kept.
        width: How many series the store has.
        row_tolerance: How far apart, in ns, the points of one row may lie.
        future_tolerance: How far ahead of the clock, in ns, a point may lie. One row that is years ahead would stay
            the newest for ever, and hide that no others come.
    """

    def __init__(self, rules: Rules, width: int, row_tolerance: int, future_tolerance: int) -> None:
        self._sources = rules.table
        self._templates = Templates(Identities(rules))
        self._width = width
        self._row_tolerance = row_tolerance
        self._future_tolerance = future_tolerance

    def read(self, body: bytes, now: int, earliest: int = 0) -> Batch:
        """Decode a request, apply the rules and join the points to rows.

        Args:
            body: The bytes of an `ExportMetricsServiceRequest`.
            now: The time now, in ns since the epoch.
            earliest: The time, in ns since the epoch, before which the store keeps no rows.

        Raises:
            DecodeError: the bytes are no such request, as far as they were read: points that no rule asks for are
                counted without a look at them.
        """
        gathered, template = self._templates.gather(body)
        checked = gathered.check(TimeSpan(earliest, now + self._future_tolerance))
        joined = self._join(checked.points, template if checked is gathered else None)
        stored = joined.stored
        dropped = checked.dropped if stored == len(checked.points) else checked.dropped + joined.left_out
        return Batch(joined.rows, stored, dropped, checked.strangers)

    def _join(self, points: Points, template: Template | None) -> Joined:
        """Join points to rows; those of a template by its plan, if that holds for them."""
        if template is None:
            return join(points, self._sources, self._width, self._row_tolerance)
        plan = template.plan
        joined = plan.join(points) if plan is not None else None
        if joined is None:
            joined = join(points, self._sources, self._width, self._row_tolerance)
            template.plan = Plan.of(points, joined)
        return joined


def explain(batch: Batch) -> str:
    """Say which points are rejected and why, in one line for the sender; empty when there are none."""
    told = [f"{count} x {reason.label}: {reason.text}" for reason, count in batch.told.items()]
    names = sorted({stranger.get("service.name", "without service.name") for stranger in batch.strangers})
    return "; ".join(told) + (f" (service.name: {', '.join(names[:5])})" if names else "")
