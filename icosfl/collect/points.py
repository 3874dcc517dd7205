"""The value that every source of metrics makes and every way out takes: points measured at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Attributes = tuple[tuple[str, str], ...]

STORED_POINTS = "icosfl-stored-points"
"""Trailing metadata with which our bridge says how many points of a request it stored, for OTLP has no place for it."""


class Kind(StrEnum):
    """How a point's value behaves in time, in OTLP's words."""

    GAUGE = "gauge"
    """A value that stands for its moment."""

    SUM = "sum"
    """A sum that may also fall (OTLP: Sum, not monotonic), such as bytes in use."""

    COUNTER = "counter"
    """A sum that only rises since `start_ns` (OTLP: Sum, monotonic, cumulative), such as joules."""


@dataclass(frozen=True, slots=True)
class Point:
    """One measured value.

    Args:
        name: The metric's name, of OpenTelemetry (`system.cpu.utilization`) or of Prometheus (`node_load1`).
        unit: UCUM as in OpenTelemetry (`By`, `W`, `1`), empty when the source does not say.
        kind: How the value behaves in time.
        value: The value in `unit`, finite; an int stays an int on the wire.
        time_ns: When it was measured, nanoseconds since the epoch.
        attributes: Name and value pairs in the order of names.
        start_ns: Since when a counter counts, 0 when unknown or no counter.
    """

    name: str
    unit: str
    kind: Kind
    value: float
    time_ns: int
    attributes: Attributes = ()
    start_ns: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """The points of one sample: all carry its time, nanoseconds since the epoch."""

    time_ns: int
    points: tuple[Point, ...]


def attributes_of(pairs: Mapping[str, str]) -> Attributes:
    """The pairs in the order in which points keep them."""
    return tuple(sorted(pairs.items()))
