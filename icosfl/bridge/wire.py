"""What the bridge reads of an OTLP request: a view that parses as little as possible.

The official classes parse every attribute of every point. This view describes the same bytes to upb with other types:
what is not needed yet (a resource, a point, an attribute) stays `bytes`, which costs a tenth. A field that the view
does not name is skipped. Numbers of fields and the rules of merging are those of opentelemetry-proto; a resource is
repeated here because a parser merges it if a sender repeats it, which is to join its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Kind = Literal["gauge", "sum", "histogram", "exponential_histogram", "summary"]


class DataView(Protocol):
    """The points of a metric, not parsed; of sums how they add up."""

    data_points: Sequence[bytes]
    aggregation_temporality: int


class MetricView(Protocol):
    """A metric: its name, and its data under the name of its kind."""

    name: bytes

    def WhichOneof(self, oneof_group: Literal["data"]) -> Kind | None:  # noqa: N802
        """The kind of its data, None for a metric without."""


class ScopeView(Protocol):
    """The metrics of one instrumentation scope."""

    metrics: Sequence[MetricView]


class ResourceView(Protocol):
    """What one resource sent: its description, not parsed, and its metrics."""

    resource: Sequence[bytes]
    scope_metrics: Sequence[ScopeView]


class RequestView(Protocol):
    """A whole request."""

    resource_metrics: Sequence[ResourceView]


class PointView(Protocol):
    """A point of a gauge or sum, its attributes not parsed."""

    time: int
    as_double: float
    as_int: int
    attributes: Sequence[bytes]
    flags: int

    def WhichOneof(self, oneof_group: Literal["value"]) -> Literal["as_double", "as_int"] | None:  # noqa: N802
        """The kind of its value, None for a point without."""

    def HasField(self, field_name: Literal["time"]) -> bool:  # noqa: N802
        """Whether the field stands in the bytes, be it 0."""

    def ClearField(self, field_name: str) -> None:  # noqa: N802
        """Take a field out."""

    def DiscardUnknownFields(self) -> None:  # noqa: N802
        """Take out all that the view does not name."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        """The bytes of what is left."""


_Field = tuple[str, int, str, str]
_REPEATED = "*"

# message -> its fields: name, number, type or message, and * for repeated ones or the name of their oneof.
_MESSAGES: Mapping[str, Sequence[_Field]] = {
    "Request": [("resource_metrics", 1, "ResourceMetrics", "*")],
    "ResourceMetrics": [("resource", 1, "bytes", "*"), ("scope_metrics", 2, "ScopeMetrics", "*")],
    "ScopeMetrics": [("metrics", 2, "Metric", "*")],
    "Metric": [
        ("name", 1, "bytes", ""),
        ("gauge", 5, "Data", "data"),
        ("sum", 7, "Data", "data"),
        ("histogram", 9, "Data", "data"),
        ("exponential_histogram", 10, "Data", "data"),
        ("summary", 11, "Data", "data"),
    ],
    "Data": [("data_points", 1, "bytes", "*"), ("aggregation_temporality", 2, "int32", "")],
    "Point": [
        ("time", 3, "fixed64", ""),
        ("as_double", 4, "double", "value"),
        ("as_int", 6, "sfixed64", "value"),
        ("attributes", 7, "bytes", "*"),
        ("flags", 8, "uint32", ""),
    ],
}


def _pool() -> DescriptorPool:
    file = FileDescriptorProto(name="icosfl/bridge/wire.proto", package="icosfl.wire", syntax="proto2")
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        oneofs = sorted({rule for *_, rule in fields} - {"", _REPEATED})
        for oneof in oneofs:
            described.oneof_decl.add(name=oneof)
        for name, number, kind, rule in fields:
            field = described.field.add(name=name, number=number)
            field.label = field.LABEL_REPEATED if rule == _REPEATED else field.LABEL_OPTIONAL
            field.type = _type(kind)
            if kind in _MESSAGES:
                field.type_name = f".icosfl.wire.{kind}"
            if rule in oneofs:
                field.oneof_index = oneofs.index(rule)
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def _type(kind: str) -> FieldDescriptorProto.Type.ValueType:
    return FieldDescriptorProto.Type.Value("TYPE_MESSAGE" if kind in _MESSAGES else f"TYPE_{kind.upper()}")


_POOL = _pool()
_REQUEST = GetMessageClass(_POOL.FindMessageTypeByName("icosfl.wire.Request"))
_POINT = GetMessageClass(_POOL.FindMessageTypeByName("icosfl.wire.Point"))


def view_request(body: bytes) -> RequestView:
    """The view of an `ExportMetricsServiceRequest`.

    Raises:
        DecodeError: the bytes are no request.
    """
    return cast(RequestView, _REQUEST.FromString(body))


def view_point(content: bytes) -> PointView:
    """The view of a `NumberDataPoint`, or of a part of one.

    Raises:
        DecodeError: the bytes are no point.
    """
    return cast(PointView, _POINT.FromString(content))
