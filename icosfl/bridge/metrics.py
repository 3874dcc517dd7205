"""What the bridge says about itself, as Prometheus metrics in a registry of its own."""

from __future__ import annotations

from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from icosfl.bridge.batch import Batch
from icosfl.bridge.reasons import Reason

_LATENCIES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class BridgeMetrics:
    """The bridge's counters.

    Points of every request that was read add up: points = stored + dropped + refused. A refused point was not stored
    and the sender was told so; it comes again.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._points = self._counter("points", "Data points received.")
        self._stored = self._counter("points_stored", "Data points that stand in stored rows.")
        self._refused = self._counter("points_refused", "Data points sent back because the store did not take them.")
        self._dropped = Counter(
            "icosfl_bridge_points_dropped", "Data points left out.", ["reason"], registry=self.registry
        )
        for reason in Reason:
            self._dropped.labels(reason.label)
        self._requests = Counter(
            "icosfl_bridge_requests", "Export requests answered.", ["code"], registry=self.registry
        )
        self._requests.labels("OK")
        self._rows = self._counter("rows", "Rows that the store took.")
        self._newest = Gauge(
            "icosfl_bridge_newest_row_timestamp_seconds", "Time of the newest row stored.", registry=self.registry
        )
        self._newest_time = 0
        self._lock = Lock()
        self._up = Gauge("icosfl_bridge_store_up", "1 while the store answers.", registry=self.registry)
        self.store_seconds = Histogram(
            "icosfl_bridge_store_seconds",
            "Time that the store took for one append, failed ones too.",
            registry=self.registry,
            buckets=_LATENCIES,
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"icosfl_bridge_{name}", text, registry=self.registry)

    def count_request(self, code: str) -> None:
        """Count one answered request by its gRPC status code."""
        self._requests.labels(code).inc()

    def count_taken(self, batch: Batch) -> None:
        """Count the points and rows of a request whose rows are stored."""
        self._points.inc(batch.points)
        self._stored.inc(batch.stored)
        for reason, count in batch.dropped.items():
            self._dropped.labels(reason.label).inc(count)
        if len(batch.rows):
            self._rows.inc(len(batch.rows))
            with self._lock:
                self._newest_time = max(self._newest_time, int(batch.rows.times[-1]))
                self._newest.set(self._newest_time / 1e9)

    def count_refused(self, batch: Batch) -> None:
        """Count the points of a request that the store did not take."""
        self._points.inc(batch.points)
        self._refused.inc(batch.points)

    def set_store_up(self, up: bool) -> None:
        """Note whether the store answers."""
        self._up.set(int(up))
