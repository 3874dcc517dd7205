"""The bytes of the spool's files: a header that names the series, then records. Pure.

A file is the header (`MAGIC`, length of the description, description, CRC-32) and any number of records. A record is
`MARKER`, length of the payload, number, CRC-32 of all its other bytes, and the payload: how many rows, their times
(int64), their values (float64, row by row). All numbers are little-endian. The CRC of a record begins with that of the
description of its series, so that it can be told to belong to them even where the header is lost.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from icosfl.schema import Rows, Schema, Series

MAGIC = b"icosfl-spool-1\n"
MARKER = b"\xabRow"

_HEADER = struct.Struct("<15sI")
_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<4sIQI")
_COUNT = struct.Struct("<I")
_TIME = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class Header:
    """A file's header: of which series its records are, and how many bytes it takes."""

    schema: Schema
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """A whole record in a file's bytes: from `start` to `end` (exclusive), with the time of its first row in ns."""

    number: int
    start: int
    end: int
    rows: int
    time: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What lies in a file's bytes.

    Args:
        found: The whole records.
        damaged: From where to where nothing could be read, although something whole comes after it or was to be there.
        end: Where a record that was only half written begins, else the end of the bytes.
    """

    found: tuple[Found, ...]
    damaged: tuple[tuple[int, int], ...]
    end: int


def header_of(schema: Schema) -> bytes:
    """The header of a file for records of these series."""
    description = _describe(schema)
    front = _HEADER.pack(MAGIC, len(description)) + description
    return front + _CRC.pack(zlib.crc32(front))


def read_header(data: bytes) -> Header | None:
    """The header at the begin of a file's bytes; None when it is not whole."""
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        return None
    end = _HEADER.size + _HEADER.unpack_from(data)[1]
    if len(data) < end + _CRC.size or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        return None
    series = json.loads(data[_HEADER.size : end])
    return Header(Schema(tuple(Series(name, unit) for name, unit in series)), end + _CRC.size)


def seed_of(schema: Schema) -> int:
    """What the CRC of every record of these series begins with."""
    return zlib.crc32(_describe(schema))


def _describe(schema: Schema) -> bytes:
    return json.dumps([[series.name, series.unit] for series in schema.series]).encode()


def payload_of(rows: Rows) -> bytes:
    """The rows as a record's payload."""
    times = rows.times.astype("<i8", copy=False).tobytes()
    return _COUNT.pack(len(rows)) + times + rows.values.astype("<f8", copy=False).tobytes()


def record_of(number: int, payload: bytes, seed: int) -> bytes:
    """A whole record."""
    return _HEAD.pack(MARKER, len(payload), number, _crc(len(payload), number, payload, seed)) + payload


def size_of(payload: bytes) -> int:
    """How many bytes the record of this payload takes."""
    return _HEAD.size + len(payload)


def scan(data: bytes, start: int, seed: int, width: int) -> Scan:
    """Look through a file's bytes for records of `width` columns, from `start` on."""
    found: list[Found] = []
    damaged: list[tuple[int, int]] = []
    place = start
    while place < len(data):
        record = _record_at(data, place, seed, width)
        if record is None:
            after = _next(data, place + 1, seed, width)
            if after is None:
                if _is_half(data, place, width):
                    return Scan(tuple(found), tuple(damaged), place)
                damaged.append((place, len(data)))
                break
            damaged.append((place, after.start))
            record = after
        found.append(record)
        place = record.end
    return Scan(tuple(found), tuple(damaged), len(data))


def rows_at(data: bytes, record: Found, width: int) -> Rows:
    """The rows of a record that `scan` found in these bytes."""
    times_at = record.start + _HEAD.size + _COUNT.size
    times = np.frombuffer(data, "<i8", record.rows, times_at)
    values = np.frombuffer(data, "<f8", record.rows * width, times_at + times.nbytes)
    return Rows(times.astype(np.int64), values.astype(np.float64).reshape(record.rows, width))


def placed(rows: Rows, old: Schema, new: Schema) -> Rows:
    """Rows of one schema as rows of another: series are found by name and unit, missing ones are NaN.

    A row that keeps no value is left out.
    """
    if old == new:
        return rows
    values = np.full((len(rows), len(new)), np.nan)
    for column, series in enumerate(old.series):
        if series in new.series:
            values[:, new.series.index(series)] = rows.values[:, column]
    kept = ~np.isnan(values).all(axis=1)
    return Rows(rows.times[kept], values[kept])


def _record_at(data: bytes, start: int, seed: int, width: int) -> Found | None:
    """The record that begins at `start`; None when there is no whole one."""
    payload = start + _HEAD.size
    if len(data) < payload + _COUNT.size + _TIME.size:
        return None
    marker, length, number, crc = _HEAD.unpack_from(data, start)
    end = payload + length
    if marker != MARKER or end > len(data):
        return None
    rows = _COUNT.unpack_from(data, payload)[0]
    if not _fits(length, rows, width) or crc != _crc(length, number, data[payload:end], seed):
        return None
    return Found(number, start, end, rows, _TIME.unpack_from(data, payload + _COUNT.size)[0])


def _next(data: bytes, start: int, seed: int, width: int) -> Found | None:
    place = data.find(MARKER, start)
    while place >= 0:
        record = _record_at(data, place, seed, width)
        if record is not None:
            return record
        place = data.find(MARKER, place + 1)
    return None


def _fits(length: int, rows: int, width: int) -> bool:
    """Whether a payload of this length is one of so many rows."""
    return rows > 0 and length == _COUNT.size + rows * 8 * (1 + width)


def _is_half(data: bytes, start: int, width: int) -> bool:
    """Whether what begins here is the front of a record, as a write leaves it that was cut off, or nothing but zeros.

    Zeros are what a power cut leaves where the file had grown already and its content was not on the disk yet.
    """
    if not MARKER.startswith(data[start : start + len(MARKER)]):
        return data.count(0, start) == len(data) - start
    payload = start + _HEAD.size
    if len(data) < payload:
        return True
    length: int = _HEAD.unpack_from(data, start)[1]
    if len(data) >= payload + _COUNT.size and not _fits(length, _COUNT.unpack_from(data, payload)[0], width):
        return False  # it has both numbers, and one of them was changed after it was written
    return len(data) < payload + length


def _crc(length: int, number: int, payload: bytes, seed: int) -> int:
    return zlib.crc32(payload, zlib.crc32(_HEAD.pack(MARKER, length, number, 0), seed))
