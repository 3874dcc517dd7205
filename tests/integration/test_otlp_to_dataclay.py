"""From the official OpenTelemetry SDK through the bridge service into dataClay, by the fleet's own rules."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from icosfl.config import StoreConfig
from icosfl.store import SeriesStore, open_store
from support.bridge_service import SCHEMA, bridge_of, exporting, running_bridge, wait_for_health
from support.dataclay_stack import DataclayStack, SupervisedProcess
from support.rows import rows_once

SECOND = 10**9


@pytest.fixture
def store_config(dataclay_stack: DataclayStack, request: pytest.FixtureRequest) -> StoreConfig:
    return dataclay_stack.store_config(f"otlp-{request.node.name}", deadline_seconds=5)


@pytest.fixture
def store(store_config: StoreConfig) -> Iterator[SeriesStore]:
    with open_store(store_config, SCHEMA) as opened:
        yield opened


def load(value: float, when: int) -> MetricsData:
    metric = Metric("system.cpu.load_average.1m", "", "1", Gauge([NumberDataPoint({}, 0, when, value)]))
    scope = ScopeMetrics(InstrumentationScope("tests"), [metric], "")
    resource = Resource({"service.name": "icosfl-host-metrics", "host.name": "edge-01"})
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def test_what_the_sdk_observes_is_read_back_from_dataclay(
    tmp_path: Path, store_config: StoreConfig, store: SeriesStore
) -> None:
    cpu = iter([0.125, 0.25, 0.5])
    memory = iter([512, 768, 1024])

    def observe_cpu(_: CallbackOptions) -> list[Observation]:
        return [Observation(next(cpu))]

    def observe_memory(_: CallbackOptions) -> list[Observation]:
        return [
            Observation(next(memory) * 2**20, {"system.memory.state": "used"}),
            Observation(2**30, {"system.memory.state": "free"}),
        ]

    with running_bridge(tmp_path, store_config) as listen, exporting(listen) as exporter:
        wait_for_health(listen, HealthCheckResponse.SERVING)
        reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
        resource = Resource.create({"service.name": "icosfl-host-metrics"})
        provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = provider.get_meter("tests")
        meter.create_observable_gauge("system.cpu.utilization", [observe_cpu], unit="1")
        meter.create_observable_up_down_counter("system.memory.usage", [observe_memory], unit="By")
        moments = [time.time_ns()]
        for _ in range(3):
            assert provider.force_flush()
            moments.append(time.time_ns())

    rows = rows_once(store, 3)
    table = dict(zip(SCHEMA.names, rows.values.T, strict=True))
    assert table["cpu_usage"].tolist() == [12.5, 25.0, 50.0]
    assert table["memory_usage"].tolist() == [512.0, 768.0, 1024.0]
    assert np.isnan(table["power"]).all()
    assert [np.searchsorted(moments, when) for when in rows.times] == [1, 2, 3]


def test_what_is_acknowledged_while_dataclay_is_down_is_there_when_it_is_back(
    tmp_path: Path, dataclay_stack: DataclayStack, store_config: StoreConfig, store: SeriesStore
) -> None:
    first = time.time_ns() - 60 * SECOND
    with running_bridge(tmp_path, store_config) as listen, exporting(listen) as exporter:
        wait_for_health(listen, HealthCheckResponse.SERVING)
        assert exporter.export(load(0.0, first)) is MetricExportResult.SUCCESS
        rows_once(store, 1)
        dataclay_stack.kill("backend")
        try:
            for second in range(1, 4):
                assert exporter.export(load(second, first + second * SECOND)) is MetricExportResult.SUCCESS
        finally:
            dataclay_stack.start_again("backend")

        rows = rows_once(store, 4)
    assert rows.times.tolist() == [first + second * SECOND for second in range(4)]
    assert rows.values[:, SCHEMA.index("load_1m")].tolist() == [0.0, 1.0, 2.0, 3.0]


def test_what_a_bridge_acknowledged_before_it_was_killed_reaches_dataclay_after_its_restart(
    tmp_path: Path, dataclay_stack: DataclayStack, store_config: StoreConfig, store: SeriesStore
) -> None:
    first = time.time_ns() - 60 * SECOND
    listen, command = bridge_of(tmp_path, store_config)
    bridge = SupervisedProcess("bridge", command, tmp_path / "bridge.log", listen)
    dataclay_stack.kill("backend")
    try:
        bridge.start()
        with exporting(listen) as exporter:
            wait_for_health(listen, HealthCheckResponse.SERVING)
            for second in range(3):
                assert exporter.export(load(second, first + second * SECOND)) is MetricExportResult.SUCCESS
        bridge.end(signal.SIGKILL)
    finally:
        dataclay_stack.start_again("backend")
    bridge.start()
    try:
        rows = rows_once(store, 3)
    finally:
        bridge.end(signal.SIGKILL)

    assert rows.values[:, SCHEMA.index("load_1m")].tolist() == [0.0, 1.0, 2.0]
