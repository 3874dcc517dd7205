"""A collector on another host: it sends one point to a bridge, with or without something that proves it."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource


def proof(folder: Path) -> grpc.ChannelCredentials:
    """A client's certificate and whom it trusts."""
    authority, key, certificate = ((folder / name).read_bytes() for name in ("ca.crt", "gateway.key", "gateway.crt"))
    return grpc.ssl_channel_credentials(authority, key, certificate)


def send(address: str, credentials: grpc.ChannelCredentials | None) -> None:
    """Send one point that the replay rule takes; None: without TLS.

    Raises:
        grpc.RpcError: the bridge does not acknowledge it.
    """
    point = NumberDataPoint(time_unix_nano=time.time_ns(), as_double=1.0)
    service = KeyValue(key="service.name", value=AnyValue(string_value="icosfl-replay"))
    request = ExportMetricsServiceRequest(
        resource_metrics=[
            ResourceMetrics(
                resource=Resource(attributes=[service]),
                scope_metrics=[ScopeMetrics(metrics=[Metric(name="cpu_usage", gauge=Gauge(data_points=[point]))])],
            )
        ]
    )
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        answer = MetricsServiceStub(channel).Export(request, timeout=10)
    assert not answer.partial_success.rejected_data_points
