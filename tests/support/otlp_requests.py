"""OTLP requests for tests of the bridge: any that is valid, any order of fields, and rules that some of them meet."""

from __future__ import annotations

import random
from collections.abc import Callable

from google.protobuf.message import Message
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    SummaryDataPoint,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from icosfl.config import RuleConfig, SourceConfig
from icosfl.schema import Schema, Series

SCHEMA = Schema((Series("cpu", "%"), Series("memory", "By"), Series("load", "1")))
RULES = (
    RuleConfig(
        name="host",
        match={"service.name": "host"},
        sources=(
            SourceConfig(series="cpu", metric="d", scale=1e3, attributes={"state": "used"}),
            SourceConfig(series="memory", metric="a", minus="b", scale=-0.5),
            SourceConfig(series="load", metric="c"),
        ),
    ),
    RuleConfig(
        name="other",
        match={"zone": "1"},
        sources=(SourceConfig(series="load", metric="b"), SourceConfig(series="cpu", metric="b", minus="c")),
    ),
)
NOW = 1_000
FUTURE = 50

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
another = st.just([KeyValue(key="service.name", value=AnyValue(string_value="host")), KeyValue(key="n")])
elsewhere = st.just([KeyValue(key="zone", value=AnyValue(string_value="1"))])
used = st.just([KeyValue(key="state", value=AnyValue(string_value="used"))])
soon = st.integers(990, 1_040)
times = st.one_of(soon, soon, soon, st.sampled_from([0, 1, NOW + 51, 2**63 - 1, 2**63, 2**64 - 1]))
amounts = st.one_of(
    st.builds(lambda number: {"as_double": number}, st.floats(-1e6, 1e6)),
    st.builds(lambda number: {"as_double": number}, st.floats()),
    st.builds(lambda number: {"as_int": number}, st.integers(-(2**63), 2**63 - 1)),
    st.just({}),
)
exemplars = st.sampled_from([[]] * 5 + [[Exemplar(time_unix_nano=7, as_double=1.5)]])
numbers = st.builds(
    lambda amount, when, start, flags, items, seen: NumberDataPoint(
        time_unix_nano=when, start_time_unix_nano=start, flags=flags, attributes=items, exemplars=seen, **amount
    ),
    amounts,
    times,
    st.sampled_from([0, 5]),
    st.sampled_from([0] * 9 + [1]),
    st.one_of(st.just([]), used, used, attributes),
    exemplars,
)
# Many points of one stream, as a backlog has them: the bridge reads such together.
backlogs = st.builds(
    lambda whens, amounts, start, items: [
        NumberDataPoint(time_unix_nano=when, start_time_unix_nano=start, attributes=items, **amount)
        for when, amount in zip(whens, amounts, strict=False)
    ],
    st.lists(times, min_size=8, max_size=20),
    st.lists(amounts, min_size=8, max_size=20),
    st.sampled_from([0, 5]),
    st.one_of(st.just([]), used),
)
series = st.one_of(st.lists(numbers, max_size=4), backlogs)


@st.composite
def metrics(draw: st.DrawFn) -> Metric:
    metric = Metric(name=draw(st.sampled_from(["a", "a", "b", "b", "c", "c", "d", ""])))
    kinds = [*["gauge"] * 6, *["sum"] * 6, "histogram", "exponential", "summary", "none"]
    match draw(st.sampled_from(kinds)):
        case "gauge":
            metric.gauge.data_points.extend(draw(series))
        case "sum":
            metric.sum.aggregation_temporality = draw(st.sampled_from([2] * 6 + [1, 0]))
            metric.sum.data_points.extend(draw(series))
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
            st.one_of(known, known, known, another, elsewhere, attributes),
            st.lists(st.builds(lambda found: ScopeMetrics(metrics=found), st.lists(metrics(), max_size=5)), max_size=2),
        ),
        max_size=3,
    ),
)

Order = Callable[[Message, list[bytes]], list[bytes]]

# In which order senders write the fields of a point: its number, value, time, start, attributes, the rest.
COLLECTOR = (8, 5, 4, 6, 3, 2, 7)
VALUE_LAST = (2, 3, 5, 7, 8, 4, 6)


def encode(message: Message, order: Order) -> bytes:
    """The bytes of a message whose fields stand in another order; what is repeated stays in its own."""
    fields = []
    for kind, value in message.ListFields():
        for item in value if kind.is_repeated else [value]:
            if isinstance(item, Message):
                fields.append(field(kind.number, encode(item, order)))
            else:
                one = type(message)()
                if kind.is_repeated:
                    getattr(one, kind.name).append(item)
                else:
                    setattr(one, kind.name, item)
                fields.append(one.SerializeToString())
    return b"".join(order(message, fields))


def field(number: int, content: bytes) -> bytes:
    """A field as protobuf writes it, of bytes, text or a message; the number is less than 16."""
    size, head = len(content), b""
    while size > 127:
        head += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + head + bytes([size]) + content


def of_points(numbers: tuple[int, ...]) -> Order:
    """Points in the order of these fields."""
    return lambda message, fields: (
        sorted(fields, key=lambda field: numbers.index(field[0] >> 3))
        if isinstance(message, NumberDataPoint)
        else fields
    )


def shuffled(chance: random.Random) -> Order:
    """Any order, and before what a point says now and then something that does not count: the last one does."""

    def order(message: Message, fields: list[bytes]) -> list[bytes]:
        places = sorted(range(len(fields)), key=lambda _: chance.random())
        again = {number: iter([field for field in fields if field[0] == number]) for number in {f[0] for f in fields}}
        mixed = [next(again[fields[place][0]]) for place in places]
        if isinstance(message, NumberDataPoint) and chance.random() < 0.2:
            overruled = [field[:1] + bytes(8) for field in mixed if field[0] in (0x11, 0x19)]
            overruled += [chance.choice((b"\x21", b"\x31")) + bytes(8) for field in mixed if field[0] in (0x21, 0x31)]
            mixed = chance.sample(overruled, chance.randint(0, len(overruled))) + mixed
        return mixed

    return order


bodies = st.one_of(
    st.builds(lambda request: request.SerializeToString(), requests),
    st.builds(lambda request: encode(request, of_points(COLLECTOR)), requests),
    st.builds(lambda request: encode(request, of_points(VALUE_LAST)), requests),
    st.builds(lambda request, chance: encode(request, shuffled(chance)), requests, st.randoms(use_true_random=False)),
)
