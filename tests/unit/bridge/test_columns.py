"""Points that are read together because they are of one length, and one among them that is written in another way."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from support.otlp_fuzz import check, new_reader
from support.otlp_requests import NOW, field

HOST = Resource(attributes=[KeyValue(key="service.name", value=AnyValue(string_value="host"))])
START, TIME, DOUBLE, INT, UNKNOWN = b"\x11", b"\x19", b"\x21", b"\x31", b"\x51"
STATE = field(7, KeyValue(key="state", value=AnyValue(string_value="used")).SerializeToString())


def at(time: int, tag: bytes = TIME) -> bytes:
    return tag + struct.pack("<Q", time)


def of(value: float, tag: bytes = DOUBLE) -> bytes:
    return tag + struct.pack("<d", value)


def request(points: list[bytes]) -> bytes:
    metric = field(1, b"c") + field(5, b"".join(field(1, point) for point in points))
    return field(1, field(1, HOST.SerializeToString()) + field(2, field(2, metric)))


ALIKE = [at(5, START) + at(NOW - 10 * n) + of(n) + STATE for n in range(20)]
WITH_MORE = [at(NOW - 10 * n) + of(n) + at(7, UNKNOWN) for n in range(20)]


TWO_TIMES = [at(1) + point[9:] for point in ALIKE]


def quoted(point: bytes) -> bytes:
    """A point without time and value, of the same length, whose attribute holds the other one from its 9th byte on."""
    text = point[9:]
    inner = field(1, text)
    pair = b"\x0a\x01k" + field(2, inner)
    return field(7, pair)


def test_a_quoted_point_stands_where_it_would_be_looked_for() -> None:
    point = at(5, START) + at(0x4142434445464748) + b"!" + b"12345678" + STATE

    assert len(quoted(point)) == len(point) == len(ALIKE[0])
    assert quoted(point)[9:] == point[9:]


QUOTED = quoted(at(5, START) + at(0x4142434445464748) + b"!" + b"12345678" + STATE)


@pytest.mark.parametrize(
    ("alike", "odd"),
    [
        (ALIKE, at(5, START) + at(NOW) + struct.pack("<cq", INT, -3) + STATE),
        (ALIKE, at(NOW + 3, TIME) + at(NOW) + of(1) + STATE),
        (ALIKE, at(NOW + 3, UNKNOWN) + at(NOW) + of(1) + STATE),
        (ALIKE, of(7) + at(NOW) + of(1) + STATE),
        (ALIKE, at(5, START) + at(NOW, UNKNOWN) + of(1) + STATE),
        (ALIKE, at(5, START) + at(NOW) + of(1, UNKNOWN) + STATE),
        (ALIKE, at(5, START) + of(1) + at(NOW) + STATE),
        (ALIKE, of(1) + at(NOW) + at(5, START) + STATE),
        (ALIKE, at(5, START) + at(NOW) + STATE + of(1)),
        (ALIKE, STATE + at(5, START) + at(NOW) + of(1)),
        (ALIKE, at(5, START) + at(NOW) + of(1) + STATE.replace(b"used", b"free")),
        (ALIKE, QUOTED),
        (TWO_TIMES, QUOTED),
        (WITH_MORE, at(NOW) + of(1) + at(NOW + 5)),
        (WITH_MORE, at(NOW) + of(1) + at(0)),
        (WITH_MORE, at(NOW) + of(1) + of(2)),
        (WITH_MORE, at(NOW) + of(1) + struct.pack("<cq", INT, 9)),
        (WITH_MORE, at(NOW) + at(NOW + 5) + of(1)),
        (WITH_MORE, of(2) + of(1) + at(NOW)),
        (WITH_MORE, at(NOW) + field(11, DOUBLE * 2) + b"\x40\x01" * 5 + b"\x40\x00"),
        (WITH_MORE, at(NOW) + b"\x5a\x10" + at(3, DOUBLE)[:7] + of(2)),
    ],
)
@pytest.mark.parametrize("place", [0, 7, 20])
def test_a_point_that_is_written_otherwise_is_read_as_it_is_meant(alike: list[bytes], odd: bytes, place: int) -> None:
    points = [*alike[:place], odd, *alike[place:]]

    batch = check(new_reader(), request(points))

    assert batch is not None
    assert batch.points == 21
    assert batch.stored >= 18


def test_points_of_few_bytes_have_no_value() -> None:
    batch = check(new_reader(), request([*[b""] * 20, *[b"\x40\x01"] * 3, at(NOW)]))

    assert batch is not None
    assert batch.stored == 0


def test_reading_the_same_again_leaves_nothing_behind() -> None:
    reader, body = new_reader(), request([*ALIKE, *WITH_MORE, of(1) + at(NOW)])
    tracemalloc.start()
    try:
        for _ in range(20):
            reader.read(body, NOW)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(500):
            reader.read(body, NOW)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 20_000


def test_a_point_that_begins_otherwise_is_not_cut_where_the_others_are() -> None:
    text = b":/" + b"w" * ord("/")  # an attribute would stand there, of such a length, and make no sense
    odd = at(NOW) + of(1.5) + field(7, b"\x0a\x01k" + field(2, field(1, text)))
    plain = at(5, START) + at(NOW - 10) + of(2.5)
    alike = plain + field(7, field(1, b"z" * (len(odd) - len(plain) - 4)))
    assert len(odd) == len(alike)
    assert odd[27:28] == b":"

    check(new_reader(), request([alike] * 8 + [odd]))
