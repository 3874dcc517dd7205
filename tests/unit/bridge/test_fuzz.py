from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from icosfl.bridge.reasons import Reason
from support.otlp_fuzz import check, is_official, new_reader
from support.otlp_requests import NOW, bodies, field

# A hang is a failure: each of these takes seconds at most.
pytestmark = pytest.mark.timeout(100)

READER = new_reader()
HOST = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="host"))])


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A valid request with bits that are flipped, parts that are missing, and parts of another one."""
    body = bytearray(draw(bodies))
    for _ in range(draw(st.integers(1, 4))):
        begin, end = sorted(draw(st.tuples(st.integers(0, len(body)), st.integers(0, len(body)))))
        match draw(st.sampled_from(["flip", "flip", "cut", "end", "splice", "double"])):
            case "flip" if begin < len(body):
                body[begin] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del body[begin:end]
            case "end":
                del body[end:]
            case "splice":
                other = draw(bodies)
                body[begin:end] = other[draw(st.integers(0, len(other))) :]
            case "double":
                body[begin:begin] = body[begin:end]
    return bytes(body)


@settings(max_examples=400)
@given(body=spoilt())
def test_a_spoilt_request_is_refused_or_every_point_of_it_is_accounted_for(body: bytes) -> None:
    taken = check(READER, body)

    event(f"taken: {taken is not None}, officially valid: {is_official(body)}")


@settings(max_examples=300)
@given(body=st.binary(max_size=200))
def test_random_bytes_are_refused_or_accounted_for(body: bytes) -> None:
    check(READER, body)


def request(metric: Metric, resource: Resource = HOST) -> bytes:
    group = ResourceMetrics(resource=resource, scope_metrics=[ScopeMetrics(metrics=[metric])])
    return field(1, group.SerializeToString())


def gauge(points: bytes) -> bytes:
    """A request with these data points of a metric that is wanted."""
    metric = field(1, b"c") + field(5, points)
    return field(1, field(1, HOST.SerializeToString()) + field(2, field(2, metric)))


@pytest.mark.parametrize("depth", [10, 40, 90, 95, 100, 200, 5_000])
def test_values_in_values_without_end_are_refused_or_read(depth: int) -> None:
    value = AnyValue(string_value="x").SerializeToString()
    for _ in range(depth):
        value = field(5, field(1, value))
    attribute = field(1, b"k") + field(2, value)
    point = NumberDataPoint(time_unix_nano=NOW, as_double=1).SerializeToString() + field(7, attribute)

    for points in (field(1, point), field(1, point) * 20):
        check(new_reader(), gauge(points))
    stranger = Resource(attributes=[KeyValue(key="k", value=AnyValue(array_value=ArrayValue()))]).SerializeToString()
    check(new_reader(), field(1, field(1, stranger + field(1, attribute)) + field(2, field(2, b""))))


@pytest.mark.parametrize("point", [b"", NumberDataPoint(time_unix_nano=NOW).SerializeToString()], ids=["empty", "time"])
def test_very_many_points_without_a_value_are_counted(point: bytes) -> None:
    batch = new_reader().read(gauge(field(1, point) * 500_000), NOW)

    assert batch.dropped == {Reason.NO_VALUE: 500_000}


def test_points_of_as_many_lengths_as_fit_in_a_message_are_read() -> None:
    """The worst for a reader that takes points of one length together, with many more beside them."""
    lengths = b"".join(
        field(1, NumberDataPoint(time_unix_nano=NOW, as_double=1).SerializeToString() + field(5, bytes(2 * size))) * 8
        for size in range(350)
    )
    short = field(1, NumberDataPoint(time_unix_nano=NOW).SerializeToString()) * 100_000

    batch = new_reader().read(gauge(lengths + short), NOW)

    assert batch.points == 350 * 8 + 100_000
    assert batch.dropped[Reason.NO_VALUE] == 100_000


def test_a_row_for_each_of_many_points_is_made() -> None:
    points = [NumberDataPoint(time_unix_nano=n, as_double=n) for n in range(1, 10**6, 10)]

    reader = new_reader()
    batch = reader.read(request(Metric(name="c", gauge=Gauge(data_points=points))), now=10**6)

    assert (len(batch.rows), batch.stored) == (10**5, 10**5)


def test_the_fuzzer_is_no_part_of_what_hosts_get() -> None:
    lock = Path(__file__).parents[3] / "requirements.lock"

    assert "atheris" not in lock.read_text(encoding="utf-8")
