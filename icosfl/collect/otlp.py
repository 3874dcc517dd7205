"""The way to the bridge: batches as OTLP/gRPC requests, with the OpenTelemetry exporter's encoder and stub.

The SDK's `OTLPMetricExporter` itself is not used: it folds "the bridge is away" and "the bridge refuses this" into one
FAILURE, so that a sender either loses what it could resend or resends for ever what nobody takes; it does not report
what a partial success rejected; and it takes endpoints, headers and proxies from the environment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from icosfl.collect.points import STORED_POINTS, Batch, Kind, Point
from icosfl.config import Endpoint

# What the OTLP specification calls retryable; RESOURCE_EXHAUSTED only if the answer says when (else: too large).
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_CHANNEL_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    # A bridge that comes back is found within two seconds, however long it was away.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
_SCOPE = InstrumentationScope("icosfl.collect")


class Verdict(StrEnum):
    """What became of a request."""

    STORED = "stored"
    AWAY = "away"
    """Not taken now; the same request may be taken later."""
    REFUSED = "refused"
    """Never taken: sending it again changes nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The bridge's answer.

    Args:
        verdict: What became of the request.
        rejected: How many points of a stored request were not taken.
        reason: In the bridge's words, empty when all is well.
        retry_seconds: When to send again, if the bridge says so.
        stored: How many points of a stored request stand in rows, if the bridge says so (ours does). Fewer than were
            sent without any `rejected`: no rule asks for the others, or later points of the same row replaced them.
    """

    verdict: Verdict
    rejected: int = 0
    reason: str = ""
    retry_seconds: float | None = None
    stored: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sends: the resource attributes host.name and service.name, by which the bridge chooses its rule."""

    host: str
    service_name: str


def encode(batches: Sequence[Batch], origin: Origin) -> ExportMetricsServiceRequest:
    """One request with all points of `batches`, one metric a name, unit and kind, its points in the order of time."""
    points = itertools.chain.from_iterable(batch.points for batch in batches)
    by_metric: dict[tuple[str, str, Kind], list[Point]] = {}
    for point in points:
        by_metric.setdefault((point.name, point.unit, point.kind), []).append(point)
    metrics = [_metric(name, unit, kind, members) for (name, unit, kind), members in by_metric.items()]
    resource = Resource({"host.name": origin.host, "service.name": origin.service_name})
    scope = ScopeMetrics(_SCOPE, metrics, schema_url="")
    return encode_metrics(MetricsData([ResourceMetrics(resource, [scope], schema_url="")]))


def _metric(name: str, unit: str, kind: Kind, points: Iterable[Point]) -> Metric:
    data_points = [
        NumberDataPoint(
            attributes=dict(point.attributes),
            start_time_unix_nano=point.start_ns,
            time_unix_nano=point.time_ns,
            value=point.value,
        )
        for point in points
    ]
    data = (
        Gauge(data_points)
        if kind is Kind.GAUGE
        else Sum(data_points, AggregationTemporality.CUMULATIVE, is_monotonic=kind is Kind.COUNTER)
    )
    return Metric(name, "", unit, data)


class Sender:
    """A connection to one bridge.

    Args:
        endpoint: Where the bridge listens.
        origin: Who sends.
        timeout_seconds: How long one request may take.
    """

    def __init__(self, endpoint: Endpoint, origin: Origin, timeout_seconds: float) -> None:
        self.endpoint = endpoint
        self._origin = origin
        self._timeout = timeout_seconds
        self._channel = grpc.insecure_channel(str(endpoint), options=_CHANNEL_OPTIONS)
        self._stub = MetricsServiceStub(self._channel)  # type: ignore[no-untyped-call]  # generated code

    def send(self, batches: Sequence[Batch]) -> Answer:
        """Send `batches` as one request and wait for the answer, at most the timeout."""
        request = encode(batches, self._origin)
        try:
            response, call = self._stub.Export.with_call(request, timeout=self._timeout)
        except grpc.RpcError as error:
            return _failure(error)
        except ValueError:  # gRPC's word for a channel that `close` closed meanwhile
            return Answer(Verdict.AWAY, reason="the connection was closed")
        partial = response.partial_success
        return Answer(Verdict.STORED, partial.rejected_data_points, partial.error_message, stored=_stored_points(call))

    def close(self) -> None:
        """Close the connection; a request under way ends at once."""
        self._channel.close()


def _failure(error: grpc.RpcError) -> Answer:
    if not isinstance(error, grpc.Call):  # what a stub raises is one, only its type does not say so
        return Answer(Verdict.REFUSED, reason=str(error))
    code, retry = error.code(), _retry_seconds(error)
    away = code in _RETRYABLE or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry is not None)
    reason = f"{code.name}: {error.details()}"
    return Answer(Verdict.AWAY if away else Verdict.REFUSED, reason=reason, retry_seconds=retry)


def _stored_points(call: grpc.Call) -> int | None:
    """How many points are stored, by the trailing metadata in which our bridge says it."""
    said = [value for key, value in call.trailing_metadata() or () if key == STORED_POINTS]
    return int(said[0]) if said and str(said[0]).isdecimal() else None


def _retry_seconds(error: grpc.Call) -> float | None:
    """When the bridge wants the request again: RetryInfo among the status details, as OTLP asks."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            try:
                details = Status.FromString(value).details
            except DecodeError:
                return None
            for detail in details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return info.retry_delay.ToNanoseconds() / 1e9
    return None
