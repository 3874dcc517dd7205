from __future__ import annotations

import numpy as np
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    SummaryDataPoint,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from icosfl.bridge.batch import Batch, Reader, explain
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rules import compile_rules
from icosfl.config import RuleConfig, SourceConfig
from icosfl.schema import Schema, Series

SCHEMA = Schema((Series("cpu", "%"), Series("memory", "By"), Series("load", "1")))
RULES = compile_rules(
    [
        RuleConfig(
            name="host",
            match={"service.name": "host"},
            sources=(
                SourceConfig(series="cpu", metric="d", scale=1e3, attributes={"state": "used"}),
                SourceConfig(series="memory", metric="a", minus="b", scale=-0.5),
                SourceConfig(series="load", metric="c"),
            ),
        ),
        RuleConfig(name="other", match={"zone": "1"}, sources=(SourceConfig(series="load", metric="b"),)),
    ],
    SCHEMA,
)
NOW = 1_000


def read(request: ExportMetricsServiceRequest, tolerance: int = 5, future: int = 50) -> Batch:
    return Reader(RULES, len(SCHEMA), tolerance, future).read(request, NOW)


texts = st.sampled_from(["host", "used", "free", "1", "", "ü"])
scalars = st.one_of(
    st.builds(lambda text: AnyValue(string_value=text), texts),
    st.builds(lambda number: AnyValue(int_value=number), st.sampled_from([0, 1, -(2**63)])),
    st.builds(lambda flag: AnyValue(bool_value=flag), st.booleans()),
    st.builds(lambda number: AnyValue(double_value=number), st.floats()),
    st.builds(lambda content: AnyValue(bytes_value=content), st.binary(max_size=3)),
    st.just(AnyValue()),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(
            lambda items: AnyValue(array_value=ArrayValue(values=items)),
            st.lists(inner, max_size=2),
        ),
        st.builds(
            lambda item: AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k", value=item)])),
            inner,
        ),
    ),
    max_leaves=3,
)
attributes = st.lists(
    st.builds(KeyValue, key=st.sampled_from(["service.name", "state", "zone"]), value=values), max_size=2
)
known = st.just([KeyValue(key="service.name", value=AnyValue(string_value="host"))])
used = st.just([KeyValue(key="state", value=AnyValue(string_value="used"))])
soon = st.integers(990, 1_040)
times = st.one_of(soon, soon, soon, st.sampled_from([0, 1, NOW + 51, 2**63 - 1, 2**63, 2**64 - 1]))
amounts = st.one_of(
    st.builds(lambda number: {"as_double": number}, st.floats(-1e6, 1e6)),
    st.builds(lambda number: {"as_double": number}, st.floats()),
    st.builds(lambda number: {"as_int": number}, st.integers(-(2**63), 2**63 - 1)),
    st.just({}),
)
numbers = st.builds(
    lambda amount, when, flags, items: NumberDataPoint(time_unix_nano=when, flags=flags, attributes=items, **amount),
    amounts,
    times,
    st.sampled_from([0] * 9 + [1]),
    st.one_of(st.just([]), used, used, attributes),
)


@st.composite
def metrics(draw: st.DrawFn) -> Metric:
    metric = Metric(name=draw(st.sampled_from(["a", "a", "b", "b", "c", "c", "d", ""])))
    kinds = [*["gauge"] * 6, *["sum"] * 6, "histogram", "exponential", "summary", "none"]
    match draw(st.sampled_from(kinds)):
        case "gauge":
            metric.gauge.data_points.extend(draw(st.lists(numbers, max_size=4)))
        case "sum":
            metric.sum.aggregation_temporality = draw(st.sampled_from([2] * 6 + [1, 0]))
            metric.sum.data_points.extend(draw(st.lists(numbers, max_size=4)))
        case "histogram":
            metric.histogram.data_points.extend([HistogramDataPoint()] * draw(st.integers(0, 2)))
        case "exponential":
            points = [ExponentialHistogramDataPoint()] * draw(st.integers(0, 2))
            metric.exponential_histogram.data_points.extend(points)
        case "summary":
            metric.summary.data_points.extend([SummaryDataPoint()] * draw(st.integers(0, 2)))
    return metric


requests = st.builds(
    lambda groups: ExportMetricsServiceRequest(resource_metrics=groups),
    st.lists(
        st.builds(
            lambda items, scopes: ResourceMetrics(resource=Resource(attributes=items), scope_metrics=scopes),
            st.one_of(known, known, known, attributes),
            st.lists(st.builds(lambda found: ScopeMetrics(metrics=found), st.lists(metrics(), max_size=5)), max_size=2),
        ),
        max_size=3,
    ),
)


def count_points(request: ExportMetricsServiceRequest) -> int:
    return sum(
        len(getattr(metric, kind).data_points)
        for group in request.resource_metrics
        for scope in group.scope_metrics
        for metric in scope.metrics
        if (kind := metric.WhichOneof("data"))
    )


@given(request=requests, tolerance=st.integers(0, 20))
def test_every_point_of_any_request_is_stored_or_dropped_for_a_reason(
    request: ExportMetricsServiceRequest, tolerance: int
) -> None:
    batch = read(request, tolerance)

    assert batch.stored + sum(batch.dropped.values()) == count_points(request)
    assert all(count > 0 for count in batch.dropped.values())
    assert bool(explain(batch)) == (batch.rejected > 0)


@given(request=requests, tolerance=st.integers(0, 20))
def test_every_row_of_any_request_can_be_stored(request: ExportMetricsServiceRequest, tolerance: int) -> None:
    rows = read(request, tolerance).rows

    assert rows.width == len(SCHEMA)
    assert not np.isinf(rows.values).any()
    assert (~np.isnan(rows.values)).any(axis=1).all(), "a row without a value"
    assert (np.diff(rows.times) > tolerance).all()
    assert ((rows.times > 0) & (rows.times <= NOW + 50)).all()


@given(request=requests)
def test_reading_a_request_twice_gives_the_same_rows(request: ExportMetricsServiceRequest) -> None:
    again = ExportMetricsServiceRequest.FromString(request.SerializeToString())

    one, other = read(request), read(again)

    np.testing.assert_array_equal(one.rows.times, other.rows.times)
    np.testing.assert_array_equal(one.rows.values, other.rows.values)
    assert one.dropped == other.dropped


def load(service: str, value: float | str, when: int) -> ExportMetricsServiceRequest:
    point = {"asDouble": value, "timeUnixNano": when}
    metric = {"name": "c", "gauge": {"dataPoints": [point]}}
    attributes = [{"key": "service.name", "value": {"stringValue": service}}]
    content = [{"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": [metric]}]}]
    return ParseDict({"resourceMetrics": content}, ExportMetricsServiceRequest())


def test_a_stored_point_needs_no_explanation() -> None:
    batch = read(load("host", 1.5, NOW))

    assert (batch.points, batch.stored, batch.rejected, explain(batch)) == (1, 1, 0, "")


def test_a_point_up_to_the_future_tolerance_is_stored_and_one_beyond_is_not() -> None:
    assert read(load("host", 1, NOW + 50)).stored == 1
    assert read(load("host", 1, NOW + 51)).dropped == {Reason.IN_FUTURE: 1}


def test_dropped_points_that_no_rule_asks_for_are_told_only_when_nothing_is_kept() -> None:
    nothing, something = load("host", 1, NOW), load("host", 1, NOW)
    nothing.resource_metrics[0].scope_metrics[0].metrics[0].name = "unknown"
    something.resource_metrics[0].scope_metrics[0].metrics.append(
        nothing.resource_metrics[0].scope_metrics[0].metrics[0]
    )

    assert read(nothing).told == {Reason.UNKNOWN_METRIC: 1}
    assert explain(read(nothing)) == "1 x unknown_metric: no rule asks for the metric"
    assert read(something).dropped == {Reason.UNKNOWN_METRIC: 1}
    assert read(something).rejected == 0


def test_an_explanation_counts_names_and_cures() -> None:
    assert explain(read(load("host", "NaN", NOW))).startswith("1 x not_finite: ")
    assert "service.name: stranger" in explain(read(load("stranger", 1, NOW)))
