"""What senders and operators are told of a bridge whose spool cannot take, or cannot read, what it should."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event

import grpc
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from icosfl.bridge import spool
from icosfl.bridge.server import Bridge
from icosfl.bridge.spool_format import header_of
from icosfl.config import schema_of
from icosfl.schema import Rows
from support.spools import disk_of, files_in, opened

T0 = 1_700_000_000_000_000_000


def request(count: int) -> ExportMetricsServiceRequest:
    """So many points of one series, a second apart."""
    points = [NumberDataPoint(time_unix_nano=T0 + n * 10**9, as_double=n) for n in range(count)]
    sender = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="host"))])
    scope = ScopeMetrics(metrics=[Metric(name="system.load", gauge=Gauge(data_points=points))])
    return ExportMetricsServiceRequest(resource_metrics=[ResourceMetrics(resource=sender, scope_metrics=[scope])])


def get(bridge: Bridge, path: str) -> str:
    with urllib.request.urlopen(f"http://{bridge.pages_listen}{path}", timeout=5) as answer:
        return answer.read().decode()


def until(bridge: Bridge, path: str, condition: Callable[[str], bool]) -> str:
    """The page as soon as it is so."""
    pause, end = Event(), time.monotonic() + 20
    while not condition(page := get(bridge, path)):
        assert time.monotonic() < end, page
        pause.wait(0.02)
    return page


def test_a_request_larger_than_the_whole_spool_is_refused_for_good(bridge) -> None:
    with grpc.insecure_channel(str(bridge.listens)) as channel, pytest.raises(grpc.RpcError) as caught:
        MetricsServiceStub(channel).Export(request(2**20 // 40), timeout=20)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "send smaller batches, or raise max_bytes of icosfl_spool" in caught.value.details()
    assert "grpc-status-details-bin" not in dict(caught.value.trailing_metadata())
    assert '"ready": true' in get(bridge, "/readyz")
    assert f"icosfl_bridge_points_refused_total {float(2**20 // 40)}" in get(bridge, "/metrics")


def test_a_disk_that_does_not_read_is_told_and_nothing_is_lost_once_it_does(bridge, store, monkeypatch) -> None:
    monkeypatch.setattr(spool, "_TRIES", 10**9)
    until(bridge, "/readyz", lambda page: '"store": "answers"' in page)
    assert "icosfl_bridge_spool_readable 1.0" in get(bridge, "/metrics")
    with disk_of(monkeypatch) as disk, grpc.insecure_channel(str(bridge.listens)) as channel:
        disk.broken = {"pread"}
        MetricsServiceStub(channel).Export(request(1), timeout=20)

        page = until(bridge, "/readyz", lambda page: "Input/output error" in page)

        assert '"ready": true' in page
        assert "icosfl_bridge_spool_readable 0.0" in get(bridge, "/metrics")

    assert_array_equal(store.until(1).times, [T0])
    until(bridge, "/readyz", lambda page: '"store": "answers"' in page)


def test_what_a_disk_never_reads_again_does_not_stop_what_comes_after_it(bridge, store, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk, grpc.insecure_channel(str(bridge.listens)) as channel:
        disk.broken = {"pread"}
        MetricsServiceStub(channel).Export(request(1), timeout=20)
        until(bridge, "/metrics", lambda page: "icosfl_bridge_spool_damaged_total 1.0" in page)
        disk.broken = set()

        MetricsServiceStub(channel).Export(request(2), timeout=20)

        assert_array_equal(store.until(2).times, [T0, T0 + 10**9])


def test_a_bridge_ends_at_once_although_the_newest_record_was_lost_to_damage(config, store) -> None:
    schema = schema_of(config.series)
    limits = spool.SpoolLimits(config.spool.max_bytes, "always", 1.0)
    before = opened(config.spool.directory, schema, limits)
    before.append(Rows(np.array([T0]), np.ones((1, len(schema)))))
    before.append(Rows(np.array([T0 + 1]), np.ones((1, len(schema)))))
    before.close()
    (path,) = files_in(config.spool.directory)
    path.with_name(f"{3:020d}.spool").write_bytes(header_of(schema))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    bridge = Bridge(replace(config, drain_seconds=30), lambda: store)
    bridge.start()
    store.until(1)

    with ThreadPoolExecutor(1) as stopper:
        stopper.submit(bridge.stop).result(timeout=15)
