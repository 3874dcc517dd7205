from __future__ import annotations

import numpy as np
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from icosfl.bridge.batch import Batch, Reader, explain
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rules import compile_rules
from support.otlp_reference import read_plainly
from support.otlp_requests import FUTURE, NOW, RULES, SCHEMA, bodies, requests

COMPILED = compile_rules(RULES, SCHEMA)
EXPERIENCED = {tolerance: Reader(COMPILED, len(SCHEMA), tolerance, FUTURE) for tolerance in (0, 5, 20)}


def read(request: ExportMetricsServiceRequest, tolerance: int = 5) -> Batch:
    return Reader(COMPILED, len(SCHEMA), tolerance, FUTURE).read(request.SerializeToString(), NOW)


@given(body=bodies, tolerance=st.sampled_from([0, 5, 20]), earliest=st.sampled_from([0, 0, 995]))
def test_a_request_reads_as_it_would_point_by_point_and_so_it_does_again(
    body: bytes, tolerance: int, earliest: int
) -> None:
    plain = read_plainly(body, RULES, SCHEMA, tolerance, NOW + FUTURE, earliest)

    fresh = Reader(COMPILED, len(SCHEMA), tolerance, FUTURE)
    for reader in (*[fresh] * 5, EXPERIENCED[tolerance]):
        batch = reader.read(body, NOW, earliest)

        np.testing.assert_array_equal(batch.rows.times, plain.times)
        np.testing.assert_array_equal(batch.rows.values, np.reshape(plain.values, (-1, len(SCHEMA))))
        assert (batch.stored, batch.dropped) == (plain.stored, plain.dropped)
        assert list(batch.strangers) == plain.strangers


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
    assert ((rows.times > 0) & (rows.times <= NOW + FUTURE)).all()


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
    assert read(load("host", 1, NOW + FUTURE)).stored == 1
    assert read(load("host", 1, NOW + FUTURE + 1)).dropped == {Reason.IN_FUTURE: 1}


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
