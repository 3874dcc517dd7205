"""The spool's bytes, without files."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from icosfl.bridge import spool_format
from icosfl.bridge.spool_format import header_of, payload_of, read_header, record_of, rows_at, scan, seed_of
from icosfl.schema import Schema, Series
from support.store_contract import NAN, SCHEMA, rows

SEED = seed_of(SCHEMA)
RECORDS = [record_of(number, payload_of(rows(number, number + 1)), SEED) for number in (1, 2, 3)]
DATA = b"".join(RECORDS)
SIZE = len(RECORDS[0])


def numbers(found: spool_format.Scan) -> list[int]:
    return [record.number for record in found.found]


def test_a_header_is_read_as_it_was_written() -> None:
    schema = Schema((Series("temperatur-küche", "°C"), Series("x", "")))
    header = read_header(header_of(schema) + DATA)

    assert header is not None
    assert (header.schema, header.size) == (schema, len(header_of(schema)))


@given(st.integers(0, len(header_of(SCHEMA)) - 1), st.integers(1, 255))
def test_any_changed_byte_of_a_header_is_noticed(place, change) -> None:
    data = bytearray(header_of(SCHEMA))
    data[place] ^= change

    assert read_header(bytes(data)) is None


def test_no_front_of_a_header_is_one() -> None:
    header = header_of(SCHEMA)
    assert all(read_header(header[:size]) is None for size in range(len(header)))


def test_rows_are_read_as_they_were_written() -> None:
    given_rows = rows(-5, 2**62, values=[[NAN, -0.0], [1e-320, float("inf")]])
    data = b"front" + record_of(2**63, payload_of(given_rows), SEED)

    (found,) = scan(data, 5, SEED, 2).found

    assert (found.number, found.rows, found.time, found.end) == (2**63, 2, -5, len(data))
    assert_array_equal(rows_at(data, found, 2).times, given_rows.times)
    assert_array_equal(rows_at(data, found, 2).values, given_rows.values)


@given(st.integers(0, len(DATA) - 1))
def test_whole_records_before_any_cut_are_found_and_no_other(cut) -> None:
    found = scan(DATA[:cut], 0, SEED, 2)

    assert numbers(found) == [1, 2, 3][: cut // SIZE]
    assert found.damaged == ()
    assert found.end == cut // SIZE * SIZE


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_of_any_changed_byte_only_its_record_is_lost(place, change) -> None:
    data = bytearray(DATA)
    data[place] ^= change
    found = scan(bytes(data), 0, SEED, 2)

    hurt = place // SIZE
    assert numbers(found) == [number for number in (1, 2, 3) if number != hurt + 1]
    assert found.damaged == ((hurt * SIZE, (hurt + 1) * SIZE),)
    assert found.end == len(DATA)


@given(st.integers(1, 9000))
def test_zeros_at_the_end_are_what_a_power_cut_leaves_and_no_damage(count) -> None:
    found = scan(DATA + bytes(count), 0, SEED, 2)

    assert (numbers(found), found.damaged, found.end) == ([1, 2, 3], (), len(DATA))


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_whatever_bytes_there_are_records_between_them_are_found(before, after) -> None:
    found = scan(before + DATA + after, 0, SEED, 2)

    assert numbers(found) == [1, 2, 3]


@given(st.binary(max_size=300))
def test_no_bytes_make_records_by_chance(data) -> None:
    assert scan(spool_format.MARKER + data, 0, SEED, 2).found == ()


def test_a_record_of_other_series_is_none_of_ours() -> None:
    other = seed_of(Schema((Series("power", "W"), Series("cpu_usage", "%"))))

    assert scan(DATA, 0, other, 2).found == ()
