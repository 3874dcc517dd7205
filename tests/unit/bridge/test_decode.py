from __future__ import annotations

import math
from dataclasses import replace

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from icosfl.bridge.attributes import digest
from icosfl.bridge.decode import MOST_PARTS, Gathered, TimeSpan, gather
from icosfl.bridge.identities import Identities
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rules import compile_rules
from icosfl.config import RuleConfig, SourceConfig
from icosfl.schema import Schema, Series

HOST = [{"key": "service.name", "value": {"stringValue": "host"}}]
RULE = RuleConfig(name="r", match={"service.name": "host"}, sources=(SourceConfig(series="s", metric="m"),))
STRANGE = replace(RULE, match={"service.name": "other"})
LATEST = 2_000


def request(*metrics: dict[str, object]) -> bytes:
    content = {"resourceMetrics": [{"resource": {"attributes": HOST}, "scopeMetrics": [{"metrics": list(metrics)}]}]}
    return ParseDict(content, ExportMetricsServiceRequest()).SerializeToString()


def identities(rule: RuleConfig) -> Identities:
    return Identities(compile_rules([rule], Schema((Series("s", "1"),))))


def read(*metrics: dict[str, object], rule: RuleConfig = RULE, latest: int = LATEST, earliest: int = 0) -> Gathered:
    return gather(request(*metrics), identities(rule)).check(TimeSpan(earliest, latest))


def gauge(*points: dict[str, object], name: str = "m") -> dict[str, object]:
    return {"name": name, "gauge": {"dataPoints": list(points)}}


def total(*points: dict[str, object], temporality: int = 2) -> dict[str, object]:
    return {"name": "m", "sum": {"dataPoints": list(points), "aggregationTemporality": temporality}}


def test_decode_keeps_time_value_resource_and_attributes_of_a_point() -> None:
    attributes = [{"key": "state", "value": {"stringValue": "used"}}]

    points = read(gauge({"asDouble": 1.5, "timeUnixNano": 1_000, "attributes": attributes})).points

    (stream,) = points.streams
    assert (points.times.tolist(), points.values.tolist(), points.kinds.tolist()) == ([1_000], [1.5], [0])
    assert stream.resource == digest({"service.name": "host"})
    assert stream.identity.attributes == digest({"state": "used"})
    assert stream.identity.targets == (0,)


def test_decode_keeps_integer_points() -> None:
    assert read(gauge({"asInt": "-7", "timeUnixNano": 1})).points.values.tolist() == [-7.0]


def test_decode_keeps_a_value_of_zero() -> None:
    assert read(gauge({"asInt": "0", "timeUnixNano": 1})).points.values.tolist() == [0.0]


def test_decode_keeps_cumulative_sums() -> None:
    assert read(total({"asDouble": 4, "timeUnixNano": 1})).points.values.tolist() == [4.0]


@pytest.mark.parametrize("temporality", [0, 1], ids=["unspecified", "delta"])
def test_decode_drops_sums_that_are_not_cumulative(temporality: int) -> None:
    decoded = read(total({"asDouble": 4, "timeUnixNano": 1}, temporality=temporality))

    assert len(decoded.points) == 0
    assert decoded.dropped == {Reason.NOT_CUMULATIVE: 1}


@pytest.mark.parametrize(
    ("point", "reason"),
    [
        ({"asDouble": "NaN", "timeUnixNano": 1}, Reason.NOT_FINITE),
        ({"asDouble": "Infinity", "timeUnixNano": 1}, Reason.NOT_FINITE),
        ({"asDouble": "-Infinity", "timeUnixNano": 1}, Reason.NOT_FINITE),
        ({"asDouble": 1.0}, Reason.NO_TIME),
        ({"timeUnixNano": 1}, Reason.NO_VALUE),
        ({"asDouble": 1.0, "timeUnixNano": 1, "flags": 1}, Reason.NO_VALUE),
        ({"asDouble": 1.0, "timeUnixNano": LATEST + 1}, Reason.IN_FUTURE),
        ({"asDouble": 1.0, "timeUnixNano": 2**64 - 1}, Reason.IN_FUTURE),
    ],
)
def test_decode_drops_a_point_that_cannot_be_stored_and_keeps_its_neighbour(
    point: dict[str, object], reason: Reason
) -> None:
    decoded = read(gauge(point, {"asDouble": 2.0, "timeUnixNano": 2}))

    assert decoded.points.values.tolist() == [2.0]
    assert decoded.dropped == {reason: 1}


def test_decode_leaves_out_what_the_store_no_longer_keeps() -> None:
    points = gauge({"asDouble": 1.0, "timeUnixNano": 99}, {"asDouble": 2.0, "timeUnixNano": 100})

    decoded = read(points, earliest=100)

    assert decoded.points.values.tolist() == [2.0]
    assert decoded.dropped == {Reason.TOO_OLD: 1}


def test_decode_never_gives_a_time_that_a_row_cannot_hold() -> None:
    decoded = read(gauge({"asDouble": 1.0, "timeUnixNano": 2**63}), latest=2**64)

    assert decoded.dropped == {Reason.IN_FUTURE: 1}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("histogram", Reason.HISTOGRAM),
        ("exponentialHistogram", Reason.EXPONENTIAL_HISTOGRAM),
        ("summary", Reason.SUMMARY),
    ],
)
@pytest.mark.parametrize("name", ["m", "other"])
def test_decode_counts_and_drops_the_points_of_other_kinds(kind: str, reason: Reason, name: str) -> None:
    decoded = read({"name": name, kind: {"dataPoints": [{"timeUnixNano": 1}, {"timeUnixNano": 2}]}})

    assert len(decoded.points) == 0
    assert decoded.dropped == {reason: 2}


def test_decode_counts_the_points_of_a_metric_that_nobody_wants() -> None:
    decoded = read(gauge({"asInt": "1", "timeUnixNano": 1}, {"asInt": "2", "timeUnixNano": 1}, name="other"))

    assert decoded.dropped == {Reason.UNKNOWN_METRIC: 2}


def test_decode_counts_the_points_of_a_resource_that_nobody_knows_and_names_it() -> None:
    histogram = {"name": "h", "histogram": {"dataPoints": [{"timeUnixNano": 1}]}}

    decoded = read(gauge({"asInt": "1", "timeUnixNano": 1}), histogram, rule=STRANGE)

    assert decoded.dropped == {Reason.UNKNOWN_RESOURCE: 2}
    assert decoded.strangers == ({"service.name": "host"},)


def test_decode_names_no_stranger_for_a_resource_without_points() -> None:
    decoded = read({"name": "empty"}, rule=STRANGE)

    assert (len(decoded.points), decoded.dropped, decoded.strangers) == (0, {}, ())


def test_decode_of_metrics_without_data_is_empty() -> None:
    decoded = read({"name": "m"}, gauge())

    assert (len(decoded.points), decoded.dropped, decoded.strangers) == (0, {}, ())


def test_decode_rounds_an_integer_beyond_double_precision_only() -> None:
    (value,) = read(gauge({"asInt": str(2**63 - 1), "timeUnixNano": 1})).points.values

    assert math.isclose(value, 2**63 - 1, rel_tol=1e-15)


@pytest.mark.parametrize("count", [1, 50], ids=["alone", "among many"])
def test_decode_gives_points_of_one_resource_and_equal_attributes_one_identity_whatever_their_order(count: int) -> None:
    one = {"key": "a", "value": {"stringValue": "b"}}
    other = {"key": "c", "value": {"intValue": "1"}}
    points = [
        {"asDouble": n, "timeUnixNano": n, "attributes": attributes}
        for attributes in ([one, other], [other, one])
        for n in range(1, count + 1)
    ]

    first, second = read(gauge(*points)).points.streams

    assert first == second


def test_decode_knows_a_point_by_its_attributes_whatever_examples_and_start_it_comes_with() -> None:
    points = [
        {"asDouble": 1, "timeUnixNano": 1, "startTimeUnixNano": n, "exemplars": [{"timeUnixNano": n}]}
        for n in (1, 2, 3)
    ]

    assert len(read(gauge(*points)).points.streams) == 1


def test_decode_tells_hosts_apart_that_send_the_same_metric() -> None:
    ours = identities(replace(RULE, match={"kind": "k"}))
    kind = {"key": "kind", "value": {"stringValue": "k"}}
    groups = [
        {
            "resource": {"attributes": [kind, {"key": "host.name", "value": {"stringValue": name}}]},
            "scopeMetrics": [{"metrics": [gauge({"asDouble": 1, "timeUnixNano": 1})]}],
        }
        for name in "ab"
    ]
    body = ParseDict({"resourceMetrics": groups}, ExportMetricsServiceRequest()).SerializeToString()

    first, second = gather(body, ours).points.streams

    assert first.resource != second.resource
    assert first.identity == second.identity


@pytest.mark.parametrize("count", [1, 50], ids=["alone", "among many"])
def test_decode_refuses_bytes_that_are_no_attributes_where_they_are_asked_for(count: int) -> None:
    used = [{"key": "state", "value": {"stringValue": "used"}}]
    points = gauge(*[{"asDouble": 1, "timeUnixNano": n, "attributes": used} for n in range(1, count + 1)])
    body = request(points).replace(b"used", b"us\xffd")

    assert gather(body, identities(STRANGE)).dropped == {Reason.UNKNOWN_RESOURCE: count}
    with pytest.raises(DecodeError):
        gather(body, identities(RULE))


@pytest.mark.parametrize("empty", [b"\x0a\x00", b"\x0a\x02\x12\x00"], ids=["resources", "scopes"])
def test_a_request_of_nothing_but_empty_parts_is_refused_before_they_are_gone_through(empty: bytes) -> None:
    assert not len(gather(empty * MOST_PARTS, identities(RULE)).points)

    with pytest.raises(DecodeError, match="more than 10000"):
        gather(empty * (MOST_PARTS + 1), identities(RULE))
