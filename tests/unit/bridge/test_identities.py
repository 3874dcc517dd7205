from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from icosfl.bridge.attributes import digest
from icosfl.bridge.decode import Gathered, TimeSpan, gather
from icosfl.bridge.identities import CACHED_BYTES, CACHED_IDENTITIES, BoundedCache, Identities, Identity
from icosfl.bridge.rules import Feed, compile_rules
from support.otlp_requests import NOW, RULES, SCHEMA, field

COMPILED = compile_rules(RULES, SCHEMA)
MIB = 2**20


def pair(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


HOST = Resource(attributes=[pair("service.name", "host")])
RULE = COMPILED.rule({"service.name": "host"})
assert RULE is not None
FEED, OTHER_FEED = RULE.feeds[b"d"], RULE.feeds[b"c"]


def rest(*attributes: KeyValue, flags: int = 0) -> bytes:
    return NumberDataPoint(attributes=attributes, flags=flags).SerializeToString()


def identity(identities: Identities, feed: Feed, content: bytes) -> Identity | None:
    found = identities.stream(b"host", feed, content)
    return found.identity if found else None


def test_an_identity_says_what_the_point_feeds() -> None:
    identities = Identities(COMPILED)

    used, free = (identity(identities, FEED, rest(pair("state", state))) for state in ("used", "free"))

    assert used is not None
    assert free is not None
    assert [COMPILED.sources[target // 2].metric for target in used.targets] == ["d"]
    assert free.targets == ()
    assert used.attributes == digest({"state": "used"})


def test_one_set_of_attributes_of_two_metrics_makes_two_identities() -> None:
    identities = Identities(COMPILED)

    one, other = (identity(identities, feed, rest()) for feed in (FEED, OTHER_FEED))

    assert one is not None
    assert other is not None
    assert (one.targets, len(other.targets)) == ((), 1)


def test_an_identity_is_read_once() -> None:
    identities = Identities(COMPILED)
    content = rest(pair("state", "used"))

    assert identity(identities, FEED, content) is identity(identities, FEED, bytes(bytearray(content)))


def test_a_point_that_says_it_has_no_value_is_valueless() -> None:
    identities = Identities(COMPILED)

    found = [identity(identities, FEED, rest(flags=flags)) for flags in (0, 1, 2, 3)]

    assert [each.valueless for each in found if each] == [False, True, False, True]


@pytest.mark.parametrize(
    "content",
    [
        NumberDataPoint(time_unix_nano=1).SerializeToString(),
        b"\x19" + bytes(8),
        NumberDataPoint(as_int=0).SerializeToString(),
        NumberDataPoint(as_double=2.5).SerializeToString(),
        b"\x3a\xff",
    ],
    ids=["time", "time of 0", "int", "double", "cut"],
)
def test_bytes_with_a_time_or_a_value_or_of_no_sense_are_no_rest(content: bytes) -> None:
    assert identity(Identities(COMPILED), FEED, rest(pair("state", "used")) + content) is None


def test_bytes_that_are_no_attributes_are_refused() -> None:
    with pytest.raises(DecodeError):
        identity(Identities(COMPILED), FEED, b"\x3a\x02\x0a\x09")
    with pytest.raises(DecodeError):
        Identities(COMPILED).sender(b"\x0a\x02\x0a\x09")


def test_a_full_cache_is_emptied() -> None:
    cache: BoundedCache[str, int] = BoundedCache(entries=2, size=100)

    for number, key in enumerate("abc"):
        cache.put(key, number, size=10)

    assert [cache.get(key) for key in "abc"] == [None, None, 2]
    assert (len(cache), cache.used) == (1, 10)


def test_a_cache_holds_no_more_bytes_of_keys_than_it_may() -> None:
    cache: BoundedCache[str, int] = BoundedCache(entries=100, size=20)

    cache.put("a", 1, size=15)
    cache.put("a", 1, size=15)
    assert cache.used == 15
    cache.put("b", 2, size=6)
    cache.put("c", 3, size=21)

    assert [cache.get(key) for key in "abc"] == [None, 2, None]
    assert cache.used == 6


@pytest.mark.parametrize(("count", "size"), [(CACHED_IDENTITIES + 5_000, 20), (3_000, 6_000)], ids=["many", "long"])
def test_a_sender_with_endless_names_does_not_fill_the_memory(count: int, size: int) -> None:
    identities = Identities(COMPILED)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            name = f"{number}".ljust(size, "x")
            identity(identities, FEED, field(7, pair("state", name).SerializeToString()))
            identities.sender(field(1, pair("host.name", name).SerializeToString()))
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    held = 2 * (CACHED_BYTES + 500 * CACHED_IDENTITIES)
    assert after - before < held
    assert peak - before < held + 2 * MIB


def request(number: int) -> bytes:
    """Points of four identities, in a request of its own."""
    points = [
        NumberDataPoint(
            time_unix_nano=NOW - n, as_double=number, attributes=[pair("state", "used"), pair("n", str(n % 4))]
        )
        for n in range(40)
    ]
    group = ResourceMetrics(
        resource=Resource(attributes=[*HOST.attributes, pair("host.name", str(number))]),
        scope_metrics=[ScopeMetrics(metrics=[Metric(name="d", gauge=Gauge(data_points=points))])],
    )
    return field(1, group.SerializeToString())


def facts(decoded: Gathered) -> tuple[object, ...]:
    points = decoded.points
    streams = [points.streams[kind] for kind in points.kinds]
    return points.times.tolist(), points.values.tolist(), streams, decoded.dropped


def test_threads_that_share_a_cache_that_overflows_read_what_one_reads_alone() -> None:
    requests = [request(number) for number in range(6)] * 30
    span = TimeSpan(0, NOW)
    shared = Identities(COMPILED, entries=5)

    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda body: facts(gather(body, shared).check(span)), requests))

    assert together == [facts(gather(body, Identities(COMPILED)).check(span)) for body in requests]
