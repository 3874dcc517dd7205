from __future__ import annotations

import math

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from icosfl.bridge.decode import Decoded, TimeSpan, decode
from icosfl.bridge.reasons import Reason

HOST = [{"key": "service.name", "value": {"stringValue": "host"}}]
LATEST = 2_000


def read(
    *metrics: dict[str, object], wanted: tuple[str, ...] | None = ("m",), latest: int = LATEST, earliest: int = 0
) -> Decoded:
    content = {"resourceMetrics": [{"resource": {"attributes": HOST}, "scopeMetrics": [{"metrics": list(metrics)}]}]}
    return decode(ParseDict(content, ExportMetricsServiceRequest()), lambda _: wanted, TimeSpan(earliest, latest))


def gauge(*points: dict[str, object], name: str = "m") -> dict[str, object]:
    return {"name": name, "gauge": {"dataPoints": list(points)}}


def total(*points: dict[str, object], temporality: int = 2) -> dict[str, object]:
    return {"name": "m", "sum": {"dataPoints": list(points), "aggregationTemporality": temporality}}


def test_decode_keeps_name_time_resource_and_attributes_of_a_point() -> None:
    attributes = [{"key": "state", "value": {"stringValue": "used"}}]

    (point,) = read(gauge({"asDouble": 1.5, "timeUnixNano": 1_000, "attributes": attributes})).points

    assert (point.metric, point.time, point.value) == ("m", 1_000, 1.5)
    assert point.resource == {"service.name": "host"}
    assert point.attributes == {"state": "used"}


def test_decode_keeps_integer_points() -> None:
    (point,) = read(gauge({"asInt": "-7", "timeUnixNano": 1})).points

    assert point.value == -7.0
    assert isinstance(point.value, float)


def test_decode_keeps_a_value_of_zero() -> None:
    assert [point.value for point in read(gauge({"asInt": "0", "timeUnixNano": 1})).points] == [0.0]


def test_decode_keeps_cumulative_sums() -> None:
    assert [point.value for point in read(total({"asDouble": 4, "timeUnixNano": 1})).points] == [4.0]


@pytest.mark.parametrize("temporality", [0, 1], ids=["unspecified", "delta"])
def test_decode_drops_sums_that_are_not_cumulative(temporality: int) -> None:
    decoded = read(total({"asDouble": 4, "timeUnixNano": 1}, temporality=temporality))

    assert decoded.points == ()
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

    assert [kept.value for kept in decoded.points] == [2.0]
    assert decoded.dropped == {reason: 1}


def test_decode_leaves_out_what_the_store_no_longer_keeps() -> None:
    points = gauge({"asDouble": 1.0, "timeUnixNano": 99}, {"asDouble": 2.0, "timeUnixNano": 100})

    decoded = read(points, earliest=100)

    assert [kept.value for kept in decoded.points] == [2.0]
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

    assert decoded.points == ()
    assert decoded.dropped == {reason: 2}


def test_decode_counts_the_points_of_a_metric_that_nobody_wants() -> None:
    decoded = read(gauge({"asInt": "1", "timeUnixNano": 1}, {"asInt": "2", "timeUnixNano": 1}, name="other"))

    assert decoded.dropped == {Reason.UNKNOWN_METRIC: 2}


def test_decode_counts_the_points_of_a_resource_that_nobody_knows_and_names_it() -> None:
    histogram = {"name": "h", "histogram": {"dataPoints": [{"timeUnixNano": 1}]}}

    decoded = read(gauge({"asInt": "1", "timeUnixNano": 1}), histogram, wanted=None)

    assert decoded.dropped == {Reason.UNKNOWN_RESOURCE: 2}
    assert decoded.strangers == ({"service.name": "host"},)


def test_decode_names_no_stranger_for_a_resource_without_points() -> None:
    assert read({"name": "empty"}, wanted=None) == Decoded((), {}, ())


def test_decode_of_metrics_without_data_is_empty() -> None:
    assert read({"name": "m"}, gauge()) == Decoded((), {}, ())


def test_decode_writes_attributes_of_any_kind_as_text() -> None:
    attributes = [
        {"key": "bool", "value": {"boolValue": True}},
        {"key": "int", "value": {"intValue": "3"}},
        {"key": "double", "value": {"doubleValue": 0.5}},
        {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        {"key": "nothing"},
    ]

    (point,) = read(gauge({"asInt": "1", "timeUnixNano": 1, "attributes": attributes})).points

    assert {name: point.attributes[name] for name in ("bool", "int", "double", "nothing")} == {
        "bool": "true",
        "int": "3",
        "double": "0.5",
        "nothing": "",
    }
    assert point.attributes["list"] not in ("", "a")


def test_decode_rounds_an_integer_beyond_double_precision_only() -> None:
    (point,) = read(gauge({"asInt": str(2**63 - 1), "timeUnixNano": 1})).points

    assert math.isclose(point.value, 2**63 - 1, rel_tol=1e-15)
