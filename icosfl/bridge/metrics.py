"""What the bridge says about itself, as Prometheus metrics in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from icosfl.bridge.batch import Batch
from icosfl.bridge.reasons import Reason
from icosfl.bridge.spool import Spool
from icosfl.schema import Rows

_LATENCIES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class BridgeMetrics:
    """The bridge's counters.

    Points of every request that was read add up: points = stored + dropped + refused. A stored point is in the spool
    until the store has it for good, unless the spool's disk is damaged, which is counted too. A refused point is not in
    the spool and the sender was told so: it comes again, unless its request is larger than the whole spool.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._points = self._counter("points", "Data points received.")
        self._stored = self._counter("points_stored", "Data points acknowledged: they stand in rows of the spool.")
        self._refused = self._counter("points_refused", "Data points sent back because the spool did not take them.")
        dropped = Counter("icosfl_bridge_points_dropped", "Data points left out.", ["reason"], registry=self.registry)
        self._dropped = {reason: dropped.labels(reason.label) for reason in Reason}
        self._requests = Counter(
            "icosfl_bridge_requests", "Export requests answered.", ["code"], registry=self.registry
        )
        self._requests_by_code = {"OK": self._requests.labels("OK")}
        self._rows = self._counter("rows", "Rows acknowledged.")
        self._forwarded = self._counter("rows_forwarded", "Rows handed to the store, each time they were.")
        self._replays = self._counter(
            "replays", "Times that the store began anew and got rows again that it may have lost."
        )
        self._losses = self._counter(
            "store_losses", "Times that the store began anew and had lost rows with its checkpoints."
        )
        self._newest = Gauge(
            "icosfl_bridge_newest_row_timestamp_seconds", "Time of the newest row acknowledged.", registry=self.registry
        )
        self._newest_time = 0
        self._lock = Lock()
        self._up = Gauge("icosfl_bridge_store_up", "1 while the store answers.", registry=self.registry)
        self.spool_seconds = self._histogram("spool", "Time that the spool took for one append, failed ones too.")
        self.store_seconds = self._histogram("store", "Time that the store took for one append, failed ones too.")

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"icosfl_bridge_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"icosfl_bridge_{name}_seconds", text, registry=self.registry, buckets=_LATENCIES)

    def show(self, spool: Spool) -> None:
        """Show the state of this spool, too."""
        self.registry.register(_SpoolCollector(spool))

    def count_request(self, code: str) -> None:
        """Count one answered request by its gRPC status code."""
        counter = self._requests_by_code.get(code)
        if counter is None:
            counter = self._requests_by_code[code] = self._requests.labels(code)
        counter.inc()

    def count_taken(self, batch: Batch) -> None:
        """Count the points and rows of a request that is acknowledged."""
        self._points.inc(batch.points)
        self._stored.inc(batch.stored)
        for reason, count in batch.dropped.items():
            self._dropped[reason].inc(count)
        if len(batch.rows):
            self._rows.inc(len(batch.rows))
            newest = int(batch.rows.times[-1])
            with self._lock:
                if newest > self._newest_time:
                    self._newest_time = newest
                    self._newest.set(newest / 1e9)

    def count_refused(self, batch: Batch) -> None:
        """Count the points of a request that the spool did not take."""
        self._points.inc(batch.points)
        self._refused.inc(batch.points)

    def count_forwarded(self, rows: Rows) -> None:
        """Count the rows of one call that the store took."""
        self._forwarded.inc(len(rows))

    def count_replay(self) -> None:
        """Count one time that the store got rows again that it may have lost."""
        self._replays.inc()

    def count_loss(self) -> None:
        """Count one time that the store had lost rows for good."""
        self._losses.inc()

    def set_store_up(self, up: bool) -> None:
        """Note whether the store answers."""
        self._up.set(int(up))


class _SpoolCollector(Collector):
    """The state of a spool at the time that it is asked for."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> Iterable[Metric]:
        """Ask the spool."""
        spool = self._spool
        yield _gauge("bytes", "Size of the spool's files.", spool.bytes)
        yield _gauge("records", "Acknowledged requests that the store may still lose.", spool.records)
        yield _gauge("up", "1 while the spool takes rows.", int(not spool.trouble))
        yield _gauge("readable", "1 while the spool's records can be read for the store.", int(not spool.read_trouble))
        damaged = CounterMetricFamily(
            "icosfl_bridge_spool_damaged",
            "Damaged stretches found when the spool was opened, and records that could not be read since.",
        )
        damaged.add_metric([], spool.damaged)
        yield damaged
        oldest = spool.oldest_time
        if oldest is not None:
            yield _gauge("oldest_timestamp_seconds", "Time of the oldest row of the oldest such request.", oldest / 1e9)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"icosfl_bridge_spool_{name}", text, value)
