"""What senders see: the official OpenTelemetry exporter, and requests made by hand."""

from __future__ import annotations

import gzip
import itertools
import math
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from threading import Event, Semaphore

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from numpy.testing import assert_allclose, assert_array_equal
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from icosfl.bridge import Bridge
from icosfl.bridge.servicer import SERVICE
from icosfl.bridge.spool import Spool
from icosfl.collect.otlp import Origin, Sender, Verdict
from icosfl.collect.points import Batch, Kind, Point
from icosfl.config import SenderLimits
from icosfl.errors import SpoolFailed, SpoolFull
from icosfl.schema import Rows, Schema

T0 = 1_700_000_000_000_000_000
MILLI = 1_000_000


@pytest.fixture
def exporter(bridge: Bridge) -> Iterator[OTLPMetricExporter]:
    exporter = OTLPMetricExporter(endpoint=f"http://{bridge.listens}", insecure=True, timeout=20)
    yield exporter
    exporter.shutdown()


@pytest.fixture
def stub(bridge: Bridge) -> Iterator[MetricsServiceStub]:
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        yield MetricsServiceStub(channel)


@pytest.fixture
def raw(bridge: Bridge) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        yield channel.unary_unary(f"/{SERVICE}/Export")


def number(value: float, when: int = T0, **attributes: str) -> NumberDataPoint:
    return NumberDataPoint(attributes, 0, when, value)


def gauge(name: str, *points: NumberDataPoint) -> Metric:
    return Metric(name, "", "", Gauge(points))


def counter(name: str, *points: NumberDataPoint) -> Metric:
    return Metric(name, "", "", Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=False))


def resource(service: str, *metrics: Metric) -> ResourceMetrics:
    scope = ScopeMetrics(InstrumentationScope("tests"), metrics, "")
    return ResourceMetrics(Resource({"service.name": service}), [scope], "")


def request(*metrics: dict[str, object], service: str = "host") -> ExportMetricsServiceRequest:
    attributes = [{"key": "service.name", "value": {"stringValue": service}}]
    content = [{"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": list(metrics)}]}]
    return ParseDict({"resourceMetrics": content}, ExportMetricsServiceRequest())


def load(value: float = 1.5, when: int = T0) -> dict[str, object]:
    return {"name": "system.load", "gauge": {"dataPoints": [{"asDouble": value, "timeUnixNano": when}]}}


def points(count: int, first: int) -> ExportMetricsServiceRequest:
    """So many points of one series, a second apart."""
    numbers = [{"asDouble": n, "timeUnixNano": first + n * 10**9} for n in range(count)]
    return request({"name": "system.load", "gauge": {"dataPoints": numbers}})


def point(second: int) -> Point:
    """A point as our collector sends it."""
    return Point("system.load", "1", Kind.GAUGE, 1.5, T0 + second * 10**9)


def retry_delay(error: grpc.RpcError, code: grpc.StatusCode) -> float:
    """Milliseconds after which the sender shall come again."""
    details = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert details.code == code.value[0]
    delay = RetryInfo()
    assert details.details[0].Unpack(delay)
    return delay.retry_delay.ToMilliseconds()


def until(bridge: Bridge, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The page as soon as it is so."""
    pause, end = Event(), time.monotonic() + 20
    while not condition(counts := page(bridge)):
        assert time.monotonic() < end, counts
        pause.wait(0.02)
    return counts


def page(bridge: Bridge) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{bridge.pages_listen}/metrics", timeout=5) as answer:
        lines: Sequence[str] = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_integers_doubles_gauges_and_sums_of_the_sdk_become_one_row(store, exporter) -> None:
    metrics = [
        gauge("system.cpu.utilization", number(0.25, T0 + MILLI)),
        counter("system.memory.usage", number(3 * 2**20, T0, state="used"), number(5, T0, state="free")),
        gauge("system.load", number(2, T0 + 2 * MILLI)),
    ]

    assert exporter.export(MetricsData([resource("host", *metrics)])) is MetricExportResult.SUCCESS

    rows = store.until(1)
    assert_array_equal(rows.times, [T0])
    assert_array_equal(rows.values, [[25.0, 3.0, 2.0, math.nan]])


def test_several_resources_of_one_request_join_their_rows(store, exporter) -> None:
    scaphandre = [
        gauge("total", number(10 * 2**20)),
        gauge("available", number(4 * 2**20)),
        gauge("microwatts", number(12_500_000)),
    ]
    data = MetricsData([resource("host", gauge("system.load", number(1.5))), resource("scaphandre", *scaphandre)])

    assert exporter.export(data) is MetricExportResult.SUCCESS

    assert_allclose(store.until(1).values, [[math.nan, 6.0, 1.5, 12.5]])


def test_a_meter_provider_delivers_what_its_instruments_observe(bridge, store, exporter) -> None:
    def observe_load(_: CallbackOptions) -> list[Observation]:
        return [Observation(0.75)]

    def observe_memory(_: CallbackOptions) -> list[Observation]:
        return [Observation(2**20, {"state": "used"}), Observation(2**21, {"state": "free"})]

    before = time.time_ns()
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    provider = MeterProvider([reader], Resource.create({"service.name": "host"}))
    try:
        meter = provider.get_meter("tests")
        meter.create_observable_gauge("system.load", [observe_load])
        meter.create_observable_up_down_counter("system.memory.usage", [observe_memory])
        meter.create_histogram("requests.duration").record(3)

        assert provider.force_flush()
    finally:
        provider.shutdown()

    rows = store.until(1)
    assert_array_equal(rows.values[0], [math.nan, 1.0, 0.75, math.nan])
    assert before <= rows.times[0] <= time.time_ns()
    counts = page(bridge)
    assert counts['icosfl_bridge_points_dropped_total{reason="histogram"}'] >= 1
    assert counts['icosfl_bridge_points_dropped_total{reason="other_attributes"}'] >= 1


def test_a_histogram_beside_a_gauge_is_dropped_and_told(store, stub) -> None:
    histogram = {"name": "h", "histogram": {"dataPoints": [{"timeUnixNano": T0}, {"timeUnixNano": T0 + 1}]}}

    answer = stub.Export(request(load(), histogram), timeout=5)

    assert answer.partial_success.rejected_data_points == 2
    assert "histogram" in answer.partial_success.error_message
    assert len(store.until(1)) == 1


def test_the_sdks_histogram_points_are_dropped_and_the_export_succeeds(store, exporter) -> None:
    points = [HistogramDataPoint({}, 0, T0, 1, 1.0, [1], [2.0], 1.0, 1.0)]
    histogram = Metric("h", "", "", Histogram(points, AggregationTemporality.CUMULATIVE))

    assert exporter.export(MetricsData([resource("host", histogram)])) is MetricExportResult.SUCCESS

    assert store.info().rows == 0


def test_a_nan_is_told_and_leaves_the_rest_of_its_row(store, stub) -> None:
    cpu = {"name": "system.cpu.utilization", "gauge": {"dataPoints": [{"asDouble": "NaN", "timeUnixNano": T0}]}}

    answer = stub.Export(request(cpu, load()), timeout=5)

    assert answer.partial_success.rejected_data_points == 1
    assert_array_equal(store.until(1).values, [[math.nan, math.nan, 1.5, math.nan]])


def test_a_metric_that_no_rule_asks_for_is_dropped_without_a_warning(bridge, store, stub) -> None:
    other = {"name": "go_threads", "gauge": {"dataPoints": [{"asInt": 3, "timeUnixNano": T0}]}}

    answer = stub.Export(request(load(), other), timeout=5)

    assert not answer.HasField("partial_success")
    assert page(bridge)['icosfl_bridge_points_dropped_total{reason="unknown_metric"}'] == 1


def test_a_request_of_which_nothing_is_kept_is_told_so(store, stub) -> None:
    other = {"name": "go_threads", "gauge": {"dataPoints": [{"asInt": 3, "timeUnixNano": T0}]}}

    answer = stub.Export(request(other), timeout=5)

    assert answer.partial_success.rejected_data_points == 1
    assert "no rule asks for the metric" in answer.partial_success.error_message
    assert store.appends == 0


def test_an_answer_says_how_many_points_are_stored(stub) -> None:
    other = {"name": "go_threads", "gauge": {"dataPoints": [{"asInt": 3, "timeUnixNano": T0}]}}

    _, call = stub.Export.with_call(request(load(), other), timeout=5)

    assert dict(call.trailing_metadata())["icosfl-stored-points"] == "1"


def test_points_from_before_a_full_window_are_not_acknowledged_as_stored(bridge, store, stub) -> None:
    store.append(Rows(np.arange(T0, T0 + 1000, dtype=np.int64), np.ones((1000, 4))))
    until(
        bridge, lambda _: stub.Export(request(load(when=T0 - 1)), timeout=5).partial_success.rejected_data_points == 1
    )

    assert stub.Export(request(load(when=T0 + 2000)), timeout=5) == ExportMetricsServiceResponse()
    assert page(bridge)['icosfl_bridge_points_dropped_total{reason="too_old"}'] >= 1


def test_a_sender_that_no_rule_knows_is_told_its_name(store, stub) -> None:
    answer = stub.Export(request(load(), service="stranger"), timeout=5)

    assert answer.partial_success.rejected_data_points == 1
    assert "stranger" in answer.partial_success.error_message
    assert store.appends == 0


def test_a_request_without_points_is_a_success_and_stores_nothing(store, stub) -> None:
    assert stub.Export(ExportMetricsServiceRequest(), timeout=5) == ExportMetricsServiceResponse()
    assert store.appends == 0


def test_bytes_that_are_no_request_are_an_invalid_argument_and_harm_nobody(bridge, store, raw, stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\xff\xff\xff not protobuf", timeout=5)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ExportMetricsServiceRequest" in caught.value.details()
    stub.Export(request(load()), timeout=5)
    assert len(store.until(1)) == 1
    assert page(bridge)['icosfl_bridge_requests_total{code="INVALID_ARGUMENT"}'] == 1


def test_a_message_beyond_the_limit_is_refused_as_too_large(store, raw, config) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\0" * (config.max_message_bytes + 1), timeout=10)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_small_message_that_unpacks_beyond_the_limit_is_refused(raw, config) -> None:
    bomb = b"\0" * (config.max_message_bytes * 20)
    assert len(gzip.compress(bomb)) < config.max_message_bytes

    with pytest.raises(grpc.RpcError) as caught:
        raw(bomb, timeout=10, compression=grpc.Compression.Gzip)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_gzip_is_accepted(bridge, store) -> None:
    exporter = OTLPMetricExporter(
        endpoint=f"http://{bridge.listens}", insecure=True, compression=grpc.Compression.Gzip, timeout=5
    )
    try:
        result = exporter.export(MetricsData([resource("host", gauge("system.load", number(2.5)))]))
    finally:
        exporter.shutdown()

    assert result is MetricExportResult.SUCCESS
    assert_array_equal(store.until(1).values[:, 2], [2.5])


def test_a_repeated_request_changes_nothing(store, stub) -> None:
    for value in (1.5, 1.5):
        stub.Export(request(load(value)), timeout=5)
    stub.Export(request(load(2.5, T0 + 10**9)), timeout=5)

    assert_array_equal(store.until(2).values[:, 2], [1.5, 2.5])
    assert store.info().rows == 2


def test_points_that_come_late_are_put_in_their_place(store, stub) -> None:
    for when in (3, 1, 2, 0):
        stub.Export(request(load(when, T0 + when * 10**9)), timeout=5)

    assert_array_equal(store.until(4).values[:, 2], [0, 1, 2, 3])


def test_what_comes_while_the_store_is_down_is_acknowledged_and_there_when_it_is_back(bridge, store, exporter) -> None:
    store.down.set()

    for second in range(5):
        data = MetricsData([resource("host", gauge("system.load", number(second, T0 + second * 10**9)))])
        assert exporter.export(data) is MetricExportResult.SUCCESS
    counts = page(bridge)
    assert counts["icosfl_bridge_points_stored_total"] == 5
    assert counts["icosfl_bridge_spool_records"] == 5
    assert counts["icosfl_bridge_spool_oldest_timestamp_seconds"] == T0 / 1e9
    assert counts["icosfl_bridge_rows_forwarded_total"] == 0
    store.down.clear()

    assert_array_equal(store.until(5).values[:, 2], range(5))


def test_what_waited_for_a_store_that_hangs_goes_to_it_in_one_call(store, stub) -> None:
    store.open.clear()
    stub.Export(request(load(0, T0)), timeout=5)
    assert store.asked.wait(5)
    for second in range(1, 20):
        stub.Export(request(load(second, T0 + second * 10**9)), timeout=5)
    store.open.set()

    assert_array_equal(store.until(20).values[:, 2], range(20))
    assert store.appends == 2


def test_rows_that_a_killed_store_lost_are_handed_over_again(bridge, store, stub) -> None:
    store.saving.clear()
    for second in range(3):
        stub.Export(request(load(second, T0 + second * 10**9)), timeout=5)
    store.until(3)
    store.be_killed()

    assert_array_equal(store.until(3).values[:, 2], range(3))
    assert page(bridge)["icosfl_bridge_replays_total"] == 1


def test_a_store_that_comes_back_without_rows_that_the_spool_has_forgotten_is_told(bridge, store, stub, caplog) -> None:
    caplog.set_level("WARNING", "icosfl.bridge.forward")
    for second in range(3):
        stub.Export(request(load(second, T0 + second * 10**9)), timeout=5)
    store.until(3)
    until(bridge, lambda counts: counts["icosfl_bridge_spool_records"] == 0)
    assert page(bridge)["icosfl_bridge_store_losses_total"] == 0

    store.be_killed()

    until(bridge, lambda counts: counts["icosfl_bridge_store_losses_total"] == 1)
    assert [record.message for record in caplog.records] == [
        "the window lost 3 rows with its checkpoints: see the backend's log"
    ]


def test_calls_whose_message_does_not_come_keep_nobody_else_from_being_answered(bridge) -> None:
    the_end = Event()

    def never() -> Iterator[bytes]:
        the_end.wait(60)
        yield from ()

    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc.insecure_channel(str(bridge.listens), own_connection) as hanging,
        grpc.insecure_channel(str(bridge.listens), own_connection) as other,
    ):
        grpc.channel_ready_future(hanging).result(10)
        export = hanging.stream_unary(f"/{SERVICE}/Export")
        calls = [export.future(never()) for _ in range(120)]
        try:
            with pytest.raises(grpc.RpcError) as caught:
                MetricsServiceStub(hanging).Export(request(load()), timeout=1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # it waits behind them

            assert MetricsServiceStub(other).Export(request(load()), timeout=10) == ExportMetricsServiceResponse()
        finally:
            for call in calls:
                call.cancel()
            the_end.set()


def test_the_spool_forgets_what_the_store_cannot_lose(bridge, store, stub) -> None:
    store.saving.clear()
    stub.Export(request(load()), timeout=5)
    store.until(1)
    assert page(bridge)["icosfl_bridge_spool_records"] == 1
    store.saving.set()

    counts = until(bridge, lambda counts: counts["icosfl_bridge_spool_records"] == 0)

    assert "icosfl_bridge_spool_oldest_timestamp_seconds" not in counts
    assert counts["icosfl_bridge_replays_total"] == 0


def test_a_full_spool_makes_senders_come_again_until_the_store_is_back(bridge, store, stub) -> None:
    store.down.set()
    batches = (points(5000, T0 + n * 5000 * 10**9) for n in itertools.count())

    answers: list[ExportMetricsServiceResponse] = []
    with pytest.raises(grpc.RpcError) as caught:
        answers.extend(stub.Export(batch, timeout=20) for batch in batches)
    taken = len(answers)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "no room" in caught.value.details()
    assert retry_delay(caught.value, grpc.StatusCode.UNAVAILABLE) == 50
    counts = page(bridge)
    assert counts["icosfl_bridge_points_refused_total"] == 5000
    assert counts["icosfl_bridge_points_stored_total"] == 5000 * taken > 0
    assert counts['icosfl_bridge_requests_total{code="UNAVAILABLE"}'] == 1
    assert counts["icosfl_bridge_spool_up"] == 0
    store.down.clear()

    until(bridge, lambda counts: counts["icosfl_bridge_spool_up"] == 1)
    last = next(batches)
    assert stub.Export(last, timeout=20) == ExportMetricsServiceResponse()
    newest = last.resource_metrics[0].scope_metrics[0].metrics[0].gauge.data_points[-1].time_unix_nano
    until(bridge, lambda _: store.info().newest == newest)
    assert page(bridge)["icosfl_bridge_rows_forwarded_total"] == 5000 * (taken + 1)


def test_a_spool_that_is_filling_has_the_store_save_before_its_time(bridge, store, stub) -> None:
    store.saving.clear()
    row = 64  # bytes that a row of the four series takes at least
    half = 2**19 // row // 5000

    for n in range(half):
        stub.Export(points(5000, T0 + n * 5000 * 10**9), timeout=20)
    counts = until(bridge, lambda counts: counts["icosfl_bridge_rows_forwarded_total"] == 5000 * half)
    assert counts["icosfl_bridge_spool_records"] == half
    assert not store.saving.is_set()
    for n in range(half, 4 * half):  # twice as many as there is room for
        stub.Export(points(5000, T0 + n * 5000 * 10**9), timeout=20)
        until(bridge, lambda counts: counts["icosfl_bridge_spool_bytes"] < 2**19)

    assert store.saving.is_set()
    assert page(bridge)["icosfl_bridge_points_refused_total"] == 0


def test_the_sdks_exporter_delivers_once_the_spool_has_room(bridge, monkeypatch, store, exporter) -> None:
    refused = Event()
    append = Spool.append

    def have_no_room(spool, rows):
        refused.set()
        raise SpoolFull("there is no room")

    with ThreadPoolExecutor(1) as sender:
        monkeypatch.setattr(Spool, "append", have_no_room)
        export = sender.submit(exporter.export, MetricsData([resource("host", gauge("system.load", number(1.5)))]))
        assert refused.wait(5)
        monkeypatch.setattr(Spool, "append", append)

        assert export.result(timeout=20) is MetricExportResult.SUCCESS

    assert_array_equal(store.until(1).times, [T0])
    counts = page(bridge)
    assert counts["icosfl_bridge_points_stored_total"] == 1
    assert counts["icosfl_bridge_points_total"] == 1 + counts["icosfl_bridge_points_refused_total"]


def test_requests_wait_for_a_thread_while_the_disk_hangs(bridge, store, stub, monkeypatch) -> None:
    asked, disk = Event(), Event()
    append = Spool.append

    def hang(spool, rows):
        asked.set()
        assert disk.wait(30)
        return append(spool, rows)

    monkeypatch.setattr(Spool, "append", hang)
    with grpc.insecure_channel(str(bridge.listens), [("grpc.use_local_subchannel_pool", 1)]) as another:
        stubs = stub, MetricsServiceStub(another)
        calls = [stubs[n % 2].Export.future(request(load(when=T0 + n * 10**9)), timeout=20) for n in range(100)]
        assert asked.wait(5)
        assert not any(call.done() for call in calls)
        disk.set()

        assert {call.result().SerializeToString() for call in calls} == {b""}
    assert store.until(100).times.tolist() == [T0 + n * 10**9 for n in range(100)]


def test_a_store_of_other_series_is_tried_on_and_nothing_is_lost(bridge, store, stub, caplog) -> None:
    right, store.schema = store.schema, Schema(store.schema.series[:2])
    stub.Export(request(load()), timeout=5)
    for _ in range(3):
        store.asked.clear()
        assert store.asked.wait(5)
    said = [record for record in caplog.records if "do not fit the 2 series" in record.getMessage()]
    store.schema = right

    assert_array_equal(store.until(1).values[:, 2], [1.5])
    assert len(said) == 1


def test_a_spool_that_cannot_be_read_is_tried_on(store, stub, monkeypatch, caplog) -> None:
    tried = Semaphore(0)

    def fail(spool, after, max_rows):
        tried.release()
        raise SpoolFailed("the disk does not read")

    with monkeypatch.context() as broken:
        broken.setattr(Spool, "read", fail)
        stub.Export(request(load()), timeout=5)
        for _ in range(3):
            assert tried.acquire(timeout=5)

    assert_array_equal(store.until(1).values[:, 2], [1.5])
    assert caplog.text.count("nothing is handed to the store: the disk does not read") == 1


def test_an_unforeseen_error_is_counted_and_the_next_request_is_served(bridge, stub, monkeypatch) -> None:
    def fail(spool, rows):
        raise RuntimeError("a fault of the spool's own")

    with monkeypatch.context() as broken:
        broken.setattr(Spool, "append", fail)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Export(request(load()), timeout=5)

    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert page(bridge)['icosfl_bridge_requests_total{code="UNKNOWN"}'] == 1
    assert stub.Export(request(load()), timeout=5) == ExportMetricsServiceResponse()


def test_a_sender_that_sends_too_many_requests_is_told_when_to_come_again(start, config, store) -> None:
    slow = SenderLimits(requests_per_second=0.001, points_per_second=1e9, burst_seconds=3000, senders=10)
    bridge = start(replace(config, limits=slow), lambda: store)
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        stub = MetricsServiceStub(channel)
        for n in range(3):
            stub.Export(request(load(when=T0 + n * 10**9)), timeout=5)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Export(request(load()), timeout=5)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "127.0.0.1 sends more than 0.001 requests" in caught.value.details()
    assert 900_000 < retry_delay(caught.value, grpc.StatusCode.RESOURCE_EXHAUSTED) <= 1_000_000
    assert page(bridge)['icosfl_bridge_requests_total{code="RESOURCE_EXHAUSTED"}'] == 1


def test_a_sender_of_too_many_points_waits_until_they_are_made_up_for(start, config, store) -> None:
    slow = SenderLimits(requests_per_second=1e9, points_per_second=1, burst_seconds=10, senders=10)
    bridge = start(replace(config, limits=slow), lambda: store)
    with closing(Sender(bridge.listens, Origin("edge-01", "host"), 5)) as sender:
        first = sender.send([Batch(T0, tuple(point(n) for n in range(1010)))])
        second = sender.send([Batch(T0, (point(1010),))])

    assert (first.verdict, first.stored) == (Verdict.STORED, 1010)
    assert second.verdict is Verdict.AWAY  # and not refused for good: what it has it may send again
    assert second.retry_seconds == pytest.approx(1000, abs=100)
    assert len(store.until(1000)) == 1000


def test_the_page_accounts_for_every_point(bridge, stub) -> None:
    cpu = {"name": "system.cpu.utilization", "gauge": {"dataPoints": [{"asDouble": "NaN", "timeUnixNano": T0}]}}
    stub.Export(request(load(), cpu, load(2.5, T0 + 10**9)), timeout=5)
    stub.Export(request(load(), service="stranger"), timeout=5)

    counts = page(bridge)

    dropped = sum(value for name, value in counts.items() if name.startswith("icosfl_bridge_points_dropped_total"))
    assert counts["icosfl_bridge_points_total"] == 4
    assert counts["icosfl_bridge_points_stored_total"] == dropped == 2
    assert counts["icosfl_bridge_rows_total"] == 2
    assert counts["icosfl_bridge_newest_row_timestamp_seconds"] == T0 / 1e9 + 1
    assert counts["icosfl_bridge_spool_seconds_count"] == 1
    assert counts['icosfl_bridge_requests_total{code="OK"}'] == 2
