from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import NumberDataPoint

from icosfl.bridge import templates
from icosfl.bridge.batch import Batch, Reader
from icosfl.bridge.decode import gather
from icosfl.bridge.identities import Identities
from icosfl.bridge.rules import compile_rules
from icosfl.bridge.templates import Templates, learn
from support.otlp_requests import FUTURE, NOW, RULES, SCHEMA, amounts, field, requests, times

COMPILED = compile_rules(RULES, SCHEMA)
TOLERANCE = 5


def new_reader() -> Reader:
    return Reader(COMPILED, len(SCHEMA), TOLERANCE, FUTURE)


def taught(*bodies: bytes) -> Reader:
    """A reader that has read these requests often."""
    reader = new_reader()
    for body in bodies:
        for _ in range(3):
            reader.read(body, NOW)
    return reader


def read(reader: Reader, body: bytes) -> Batch | None:
    try:
        return reader.read(body, NOW)
    except DecodeError:
        return None


def assert_same(one: Batch | None, other: Batch | None) -> None:
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        np.testing.assert_array_equal(one.rows.times, other.rows.times)
        np.testing.assert_array_equal(one.rows.values, other.rows.values)
        assert (one.stored, one.dropped, one.strangers) == (other.stored, other.dropped, other.strangers)


def points_of(request: ExportMetricsServiceRequest) -> list[NumberDataPoint]:
    return [
        point
        for group in request.resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        for data in (metric.gauge, metric.sum)
        for point in data.data_points
    ]


def load(value: float, when: int = NOW, *, state: str = "used") -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.add(key="service.name").value.string_value = "host"
    metrics = group.scope_metrics.add().metrics
    for name in ("c", "d", "unwanted"):
        point = metrics.add(name=name).gauge.data_points.add(time_unix_nano=when, as_double=value)
        point.attributes.add(key="state").value.string_value = state
    return request


@given(request=requests, data=st.data())
def test_a_request_that_is_repeated_with_other_times_and_values_reads_as_if_it_were_the_first(
    request: ExportMetricsServiceRequest, data: st.DataObject
) -> None:
    reader = taught(request.SerializeToString())
    shift = data.draw(st.integers(-20, 20))

    for _ in range(2):
        for point in points_of(request):
            kind = point.WhichOneof("value")
            if kind == "as_double":
                point.as_double = data.draw(st.floats(-1e6, 1e6)) or 1.0
            elif kind == "as_int":
                point.as_int = data.draw(st.integers(1, 1000))
            if point.time_unix_nano and data.draw(st.booleans()):
                point.time_unix_nano = max(point.time_unix_nano + shift, 1) % 2**64 or 1
        body = request.SerializeToString()
        assert_same(read(reader, body), read(new_reader(), body))


@given(request=requests, chance=st.randoms(use_true_random=False), count=st.integers(1, 3))
def test_a_request_that_is_repeated_with_any_bytes_changed_reads_as_if_it_were_the_first(
    request: ExportMetricsServiceRequest, chance: random.Random, count: int
) -> None:
    body = request.SerializeToString()
    assume(points_of(request))
    reader = taught(body)

    for _ in range(8):
        spoilt = bytearray(body)
        for _ in range(count):
            spoilt[chance.randrange(len(spoilt))] = chance.choice(
                (0, 1, 8, 0x19, 0x21, 0x31, 0xFF, chance.randrange(256))
            )
        assert_same(read(reader, bytes(spoilt)), read(new_reader(), bytes(spoilt)))


@given(amount=amounts, other=amounts, when=times, later=times)
def test_what_cannot_be_stored_is_seen_in_a_repeated_request_too(
    amount: dict[str, float], other: dict[str, float], when: int, later: int
) -> None:
    first, second = load(1.0), load(1.0)
    for request, value, time in ((first, amount, when), (second, other, later)):
        point = points_of(request)[0]
        point.time_unix_nano = time
        point.ClearField("as_double")
        for kind, number in value.items():
            setattr(point, kind, number)
    reader = taught(first.SerializeToString())

    assert_same(read(reader, second.SerializeToString()), read(new_reader(), second.SerializeToString()))


def test_a_request_that_is_repeated_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = taught(load(1.0).SerializeToString())
    monkeypatch.setattr(templates, "gather", None)

    for value in (2.0, -3.5):
        batch = reader.read(load(value, NOW + int(value)).SerializeToString(), NOW)

        assert batch.rows.times.tolist() == [NOW + int(value)]
        assert batch.rows.values.tolist()[0][::2] == [1e3 * value, value]
        assert (batch.stored, batch.points) == (2, 3)
    with pytest.raises(TypeError):
        reader.read(load(2.0, state="free").SerializeToString(), NOW)  # as long, but of other streams


def changed(request: ExportMetricsServiceRequest, place: int, **fields: float) -> ExportMetricsServiceRequest:
    """The request with these fields of the point at this place of its order."""
    other = ExportMetricsServiceRequest()
    other.CopyFrom(request)
    for name, value in fields.items():
        setattr(points_of(other)[place], name, value)
    return other


def backlog(*times: int) -> ExportMetricsServiceRequest:
    """Points of one stream."""
    request = load(0.0)
    data = request.resource_metrics[0].scope_metrics[0].metrics[0].gauge
    del data.data_points[:]
    data.data_points.extend(NumberDataPoint(time_unix_nano=time, as_double=n) for n, time in enumerate(times, 1))
    return request


@pytest.mark.parametrize(
    ("first", "next_ones"),
    [
        pytest.param(load(1.0), [changed(load(1.0), 1, as_double=1e306), load(2.0)], id="infinite in the series' unit"),
        pytest.param(changed(load(1.0), 1, as_double=1e306), [load(2.0)], id="infinite at first"),
        pytest.param(load(1.0), [changed(load(1.0), 0, as_double=float("nan")), load(2.0)], id="not a number"),
        pytest.param(changed(load(1.0), 0, as_int=7), [changed(load(1.0), 0, as_int=-(2**62))], id="ints"),
        pytest.param(backlog(900, 950, 990), [backlog(900, 902, 990), backlog(990, 950, 900)], id="other rows"),
        pytest.param(backlog(900, 950), [backlog(NOW + 51, NOW + 52), backlog(901, 951)], id="all in the future"),
    ],
)
def test_a_template_gives_way_where_it_does_not_hold(
    first: ExportMetricsServiceRequest, next_ones: list[ExportMetricsServiceRequest]
) -> None:
    body = first.SerializeToString()
    reader = taught(body)
    assert_same(read(reader, body), read(new_reader(), body))  # by the template, which has a plan from now on

    for request in next_ones:
        assert len(request.SerializeToString()) == len(body)
        for _ in range(2):
            assert_same(read(reader, request.SerializeToString()), read(new_reader(), request.SerializeToString()))


def test_senders_of_requests_of_one_length_are_all_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    states = ["used", "free", "idle"]
    reader = new_reader()
    for _ in range(24):
        for state in states:
            reader.read(load(1.0, state=state).SerializeToString(), NOW)
    monkeypatch.setattr(templates, "gather", None)

    found = [reader.read(load(2.0, state=state).SerializeToString(), NOW).stored for state in states]

    assert found == [2, 1, 1]


def test_a_sender_that_starts_again_and_again_is_soon_known_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = new_reader()
    for start in range(1, 12):
        request = load(1.0)
        for point in points_of(request):
            point.start_time_unix_nano = start
        for _ in range(4):
            reader.read(request.SerializeToString(), NOW)
    monkeypatch.setattr(templates, "gather", None)

    assert reader.read(request.SerializeToString(), NOW).stored == 2


def test_a_sender_that_never_sends_the_same_is_learned_more_and_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []
    monkeypatch.setattr(templates, "learn", lambda *found: learned.append(learn(*found)) or learned[-1])
    reader = new_reader()

    for number in range(100):
        request = load(1.0)
        points_of(request)[0].start_time_unix_nano = number
        reader.read(request.SerializeToString(), NOW)

    assert 2 <= len(learned) <= 8


def test_templates_take_a_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_BYTES", 20_000)
    known = Templates(Identities(COMPILED))
    largest = 0
    for number in range(300):
        body = load(1.0, state="x" * number).SerializeToString()
        for _ in range(3):
            known.gather(body)
        largest = max(largest, known.size)

    assert 10_000 < largest <= 20_000


def test_threads_that_read_the_same_requests_at_once_read_what_one_reads() -> None:
    bodies = [
        load(float(number), NOW - number, state=state).SerializeToString() for number in range(30) for state in "abc"
    ]
    shared = Reader(COMPILED, len(SCHEMA), TOLERANCE, FUTURE)

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda body: shared.read(body, NOW), bodies * 3))

    for batch, body in zip(found, bodies * 3, strict=True):
        assert_same(batch, read(new_reader(), body))


def test_a_point_that_says_its_time_twice_is_read_by_the_parser_each_time() -> None:
    point = b"\x19" + bytes(8) + b"\x21" + np.float64(1.5).tobytes() + b"\x19" + NOW.to_bytes(8, "little")
    metric = field(1, b"c") + field(5, field(1, point))
    resource = load(1.0).resource_metrics[0].resource.SerializeToString()
    body = field(1, field(1, resource) + field(2, field(2, metric)))
    identities = Identities(COMPILED)

    gathered = gather(body, identities)

    assert gathered.points.times.tolist() == [NOW]
    assert templates.learn(body, gathered, identities) is None
