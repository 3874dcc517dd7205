"""The whole way on one node: from the official OpenTelemetry SDK through bridge and dataClay to the forecasts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from grpc_health.v1.health_pb2 import HealthCheckResponse
from numpy.typing import NDArray
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from icosfl.schema import Rows
from icosfl.serve.client import read_forecast, read_readiness
from icosfl.serve.values import ForecastPage, to_datetime
from icosfl.store import SeriesStore, open_store
from support.bridge_service import SCHEMA, SERIES, exporting, running_bridge, wait_for_health
from support.dataclay_stack import DataclayStack
from support.forecast_service import HORIZONS, PERIOD_SECONDS, running_forecast, taught
from support.rows import rows_once

UNITS = {"cpu_usage": "%", "memory_usage": "MiBy", "load_1m": "1", "power": "W"}
PERIOD = int(PERIOD_SECONDS * 10**9)
FIRST, LATER = 60, 3


@dataclass(frozen=True)
class Measurements:
    """What a host measured at `times` (ns), in OpenTelemetry's units: doubles, and integers for memory and power."""

    times: NDArray[np.int64]
    cpu_ratio: NDArray[np.float64]
    memory_bytes: NDArray[np.int64]
    load: NDArray[np.float64]
    watts: NDArray[np.int64]

    @classmethod
    def until(cls, newest: int, count: int) -> Measurements:
        """Any measurements, one each period, the last one at `newest`."""
        rng = np.random.default_rng(count)
        return cls(
            times=newest - np.arange(count - 1, -1, -1) * PERIOD,
            cpu_ratio=rng.random(count),
            memory_bytes=rng.integers(2**28, 2**36, count),
            load=rng.uniform(0, 8, count),
            watts=rng.integers(5, 200, count),
        )

    @property
    def in_fleet_units(self) -> NDArray[np.float64]:
        """What the fleet keeps of them: %, MiB, 1 and W, shape [n, 4]."""
        return np.column_stack([self.cpu_ratio * 100, self.memory_bytes / 2**20, self.load, self.watts])

    def as_otlp(self) -> MetricsData:
        """The same as the SDK would collect it."""
        memory = self._points(self.memory_bytes, {"system.memory.state": "used"})
        metrics = [
            Metric("system.cpu.utilization", "", "1", Gauge(self._points(self.cpu_ratio))),
            Metric("system.memory.usage", "", "By", Sum(memory, AggregationTemporality.CUMULATIVE, is_monotonic=False)),
            Metric("system.cpu.load_average.1m", "", "1", Gauge(self._points(self.load))),
            Metric("hw.host.power", "", "W", Gauge(self._points(self.watts))),
        ]
        resource = Resource({"service.name": "icosfl-host-metrics", "host.name": "edge-01"})
        return MetricsData([ResourceMetrics(resource, [ScopeMetrics(InstrumentationScope("tests"), metrics, "")], "")])

    def _points(self, values: NDArray[np.generic], attributes: dict[str, str] | None = None) -> list[NumberDataPoint]:
        pairs = zip(self.times.tolist(), values.tolist(), strict=True)
        return [NumberDataPoint(attributes, 0, when, value) for when, value in pairs]


def test_what_the_sdk_sends_is_what_dataclay_holds_and_what_forecasts_start_from(
    dataclay_stack: DataclayStack, tmp_path: Path
) -> None:
    config = dataclay_stack.store_config("otlp_to_forecast", capacity=600)
    now = time.time_ns()
    first = Measurements.until(now - LATER * PERIOD, FIRST)
    later = Measurements.until(now, LATER)
    with (
        running_bridge(tmp_path, config) as bridge,
        running_forecast(tmp_path, config, SERIES) as service,
        open_store(config, SCHEMA) as store,
        exporting(bridge) as exporter,
    ):
        wait_for_health(bridge, HealthCheckResponse.SERVING)
        assert exporter.export(first.as_otlp()) is MetricExportResult.SUCCESS
        assert_holds(store, first)
        model = taught(Rows(first.times, first.in_fleet_units), SCHEMA, service.models_dir, epochs=1)
        page = service.until(read_forecast, lambda page: page.ready)
        assert_starts_from(page, first)

        assert exporter.export(later.as_otlp()) is MetricExportResult.SUCCESS
        assert_holds(store, first, later)
        page = service.until(read_forecast, lambda page: page.based_on == to_datetime(now))
        assert_starts_from(page, later)

        readiness = service.until(
            read_readiness, lambda answer: answer.store is not None and answer.store.newest == to_datetime(now)
        )
        assert readiness.ready
        assert readiness.store is not None
        assert readiness.store.rows == FIRST + LATER
        assert readiness.model is not None
        assert readiness.model.digest == model.digest
        assert service.stop() == 0


def assert_holds(store: SeriesStore, *sent: Measurements) -> None:
    rows = rows_once(store, sum(len(part.times) for part in sent))
    np.testing.assert_array_equal(rows.times, np.concatenate([part.times for part in sent]))
    np.testing.assert_array_equal(rows.values, np.concatenate([part.in_fleet_units for part in sent]))


def assert_starts_from(page: ForecastPage, sent: Measurements) -> None:
    """Each forecast's last value is the last one sent, bit by bit, in its unit, at its time."""
    last = dict(zip(UNITS, sent.in_fleet_units[-1].tolist(), strict=True))
    assert page.based_on == to_datetime(int(sent.times[-1]))
    assert page.omitted == ()
    assert [(item.series, item.unit, item.horizon_seconds, item.last) for item in page.forecasts] == [
        (name, unit, steps * PERIOD_SECONDS, last[name]) for name, unit in UNITS.items() for steps in HORIZONS
    ]
