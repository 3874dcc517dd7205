from __future__ import annotations

import grpc
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from icosfl.collect.otlp import Origin, Sender, Verdict, encode
from icosfl.collect.points import Batch, Kind, Point

ORIGIN = Origin("h1", "icosfl-host-metrics")
GAUGE = Point("system.cpu.utilization", "1", Kind.GAUGE, 0.25, 1000)
SUM = Point("system.memory.usage", "By", Kind.SUM, 2**40, 1000, (("system.memory.state", "used"),))
COUNTER = Point("hw.host.energy", "J", Kind.COUNTER, 12.5, 1000, start_ns=10)


def metrics_of(request) -> dict:
    return {metric.name: metric for metric in request.resource_metrics[0].scope_metrics[0].metrics}


def test_the_resource_says_host_and_service() -> None:
    request = encode([Batch(1000, (GAUGE,))], ORIGIN)

    attributes = request.resource_metrics[0].resource.attributes
    assert {pair.key: pair.value.string_value for pair in attributes} == {
        "host.name": "h1",
        "service.name": "icosfl-host-metrics",
    }


def test_a_gauge_keeps_value_unit_and_time() -> None:
    metric = metrics_of(encode([Batch(1000, (GAUGE,))], ORIGIN))["system.cpu.utilization"]

    assert metric.unit == "1"
    assert [(point.as_double, point.time_unix_nano) for point in metric.gauge.data_points] == [(0.25, 1000)]


def test_an_integer_stays_an_integer_and_keeps_its_attributes() -> None:
    metric = metrics_of(encode([Batch(1000, (SUM,))], ORIGIN))["system.memory.usage"]

    point = metric.sum.data_points[0]
    assert (point.WhichOneof("value"), point.as_int) == ("as_int", 2**40)
    assert [(pair.key, pair.value.string_value) for pair in point.attributes] == [("system.memory.state", "used")]
    assert metric.sum.is_monotonic is False


def test_a_counter_is_a_monotonic_cumulative_sum_with_its_start() -> None:
    metric = metrics_of(encode([Batch(1000, (COUNTER,))], ORIGIN))["hw.host.energy"]

    assert metric.sum.is_monotonic
    assert metric.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert metric.sum.data_points[0].start_time_unix_nano == 10


def test_several_batches_are_one_metric_each_with_points_in_order() -> None:
    batches = [Batch(time, (Point("a.b", "1", Kind.GAUGE, float(time), time),)) for time in (1, 2, 3)]

    metric = metrics_of(encode(batches, ORIGIN))["a.b"]

    assert [(point.time_unix_nano, point.as_double) for point in metric.gauge.data_points] == [(1, 1), (2, 2), (3, 3)]


@pytest.fixture
def sender(bridge):
    sender = Sender(bridge, ORIGIN, 10.0)
    yield sender
    sender.close()


def test_an_acknowledged_request_is_stored(sender, recorder) -> None:
    assert sender.send([Batch(1000, (GAUGE, SUM))]).verdict is Verdict.STORED
    assert recorder.times() == [1000, 1000]


def test_a_partial_success_tells_how_much_was_rejected_and_why(sender, recorder) -> None:
    recorder.rejected, recorder.reason = 1, "no rule"

    answer = sender.send([Batch(1000, (GAUGE,))])

    assert (answer.verdict, answer.rejected, answer.reason) == (Verdict.STORED, 1, "no rule")


@pytest.mark.parametrize("code", ["UNAVAILABLE", "ABORTED", "DATA_LOSS", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_a_retryable_status_means_away(sender, recorder, code) -> None:
    recorder.answers = [grpc.StatusCode[code]]

    answer = sender.send([Batch(1000, (GAUGE,))])

    assert answer.verdict is Verdict.AWAY
    assert answer.reason == f"{code}: as told"


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNIMPLEMENTED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"])
def test_a_status_that_a_retry_cannot_change_means_refused(sender, recorder, code) -> None:
    recorder.answers = [grpc.StatusCode[code]]

    assert sender.send([Batch(1000, (GAUGE,))]).verdict is Verdict.REFUSED


def test_an_exhausted_bridge_that_says_when_to_come_again_is_away_until_then(sender, recorder) -> None:
    recorder.answers, recorder.retry_seconds = [grpc.StatusCode.RESOURCE_EXHAUSTED], 1.5

    answer = sender.send([Batch(1000, (GAUGE,))])

    assert (answer.verdict, answer.retry_seconds) == (Verdict.AWAY, 1.5)


def test_a_port_on_which_nothing_listens_is_away(nobody) -> None:
    sender = Sender(nobody, ORIGIN, 10.0)

    answer = sender.send([Batch(1000, (GAUGE,))])

    sender.close()
    assert answer.verdict is Verdict.AWAY
    assert answer.reason.startswith("UNAVAILABLE")


def test_a_closed_sender_is_away(bridge) -> None:
    sender = Sender(bridge, ORIGIN, 10.0)
    sender.close()

    assert sender.send([Batch(1000, (GAUGE,))]).verdict is Verdict.AWAY


def test_a_proxy_in_the_environment_is_not_used(bridge, nobody, recorder, monkeypatch) -> None:
    for name in ("http_proxy", "grpc_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://{nobody}")
    for name in ("no_proxy", "no_grpc_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    sender = Sender(bridge, ORIGIN, 10.0)

    answer = sender.send([Batch(1000, (GAUGE,))])

    sender.close()
    assert answer.verdict is Verdict.STORED
