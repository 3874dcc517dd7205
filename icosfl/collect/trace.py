"""Recorded traces: CSV files with a time column and one column a metric, as values that can be replayed.

The first line names the columns. One of them is the time: `time_ms` (milliseconds since the epoch) or `time`
(nanoseconds since the epoch as an integer, or ISO 8601; without an offset it is UTC). Every other column is called like
the metric that its values are sent as, `name` or `name{attribute=value,...}`: `system.cpu.utilization`,
`system.memory.usage{system.memory.state=used}`, or the name of a series for the rule `replay` (`cpu_usage`).
An empty field or NaN is no value, and a row without any is left out. Times ascend.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Protocol

import numpy as np

from icosfl.collect.points import Attributes, Batch, Kind, Point, attributes_of
from icosfl.errors import InputError
from icosfl.schema import Times, Values

_TIME_COLUMNS = ("time_ms", "time")
_NAME = re.compile(r"(?P<name>[^{}\s,]+)(\{(?P<attributes>[^{}]*)\})?")
# Integers below are seconds, milliseconds or microseconds of this age, not the nanoseconds that they ought to be.
_EARLIEST_NS = 10**17
_LATEST_NS = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is sent as."""

    name: str
    attributes: Attributes = ()


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A recorded trace.

    Args:
        columns: What each column is sent as.
        times: Nanoseconds since the epoch, strictly ascending, shape [n], n at least 1.
        values: Shape [n, k], NaN where there is no value.
    """

    columns: tuple[Column, ...]
    times: Times
    values: Values

    def __len__(self) -> int:
        return len(self.times)

    def shifted(self, shift_ns: int) -> Trace:
        """The same trace, `shift_ns` nanoseconds later."""
        return Trace(self.columns, self.times + np.int64(shift_ns), self.values)

    def batch(self, row: int) -> Batch:
        """The points of one row."""
        time_ns = int(self.times[row])
        points = tuple(
            Point(column.name, "", Kind.GAUGE, float(value), time_ns, column.attributes)
            for column, value in zip(self.columns, self.values[row], strict=True)
            if not math.isnan(value)
        )
        return Batch(time_ns, points)


def read_trace(path: Path, columns: Mapping[str, str] | None = None) -> Trace:
    """Read the whole file.

    Args:
        path: The file.
        columns: Which of its columns are sent and as what, `{"node_03": "cpu_usage"}`; None or none sends all under
            their own names.

    Raises:
        InputError: the file is no such trace; the message names the line and the column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _Reader(path).read(csv.reader(file, strict=True), columns)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", cure="name a file that exists") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason}", cure="give the trace as a CSV file") from error


class _Lines(Protocol):
    """A csv.reader, whose own type has no public name."""

    @property
    def line_num(self) -> int: ...

    def __iter__(self) -> Iterator[list[str]]: ...


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, lines: _Lines, columns: Mapping[str, str] | None) -> Trace:
        fields = self._fields(lines)
        line, header = next(fields, (0, []))
        if not header:
            raise InputError(f"{self._path}: the file is empty", cure="give a CSV file with a header line")
        time_at = self._time_column(line, header)
        wanted = self._wanted(line, header, time_at, columns)
        last: int | None = None
        times: list[int] = []
        values: list[list[float]] = []
        for line, row in fields:
            if len(row) != len(header):
                raise self._error(line, f"{len(row)} fields, but the header names {len(header)} columns")
            last = self._time(line, header[time_at], row[time_at].strip(), last)
            measured = [self._value(line, header[at], row[at].strip()) for at in wanted]
            if not all(math.isnan(value) for value in measured):
                times.append(last)
                values.append(measured)
        if not times:
            names = ", ".join(header[at] for at in wanted)
            raise InputError(f"{self._path}: no row has a value of {names}", cure="record some first")
        return Trace(tuple(wanted.values()), np.array(times, np.int64), np.array(values, np.float64))

    def _fields(self, lines: _Lines) -> Iterator[tuple[int, list[str]]]:
        try:
            for row in lines:
                if row:
                    yield lines.line_num, row
        except csv.Error as error:
            raise self._error(lines.line_num, f"not CSV: {error}") from error

    def _time_column(self, line: int, header: Sequence[str]) -> int:
        found = [at for at, name in enumerate(header) if name.strip() in _TIME_COLUMNS]
        if len(found) != 1:
            raise self._error(
                line,
                f"{'no' if not found else 'more than one'} time column; its columns are {', '.join(header)}",
                "call exactly one column time_ms (milliseconds) or time (nanoseconds or ISO 8601)",
            )
        return found[0]

    def _wanted(
        self, line: int, header: Sequence[str], time_at: int, columns: Mapping[str, str] | None
    ) -> dict[int, Column]:
        """What is sent, by the index of its column."""
        places: dict[str, int] = {}
        for at, name in enumerate(name.strip() for name in header):
            if name in places:
                raise self._error(line, f"column {name!r} stands twice", "name every column differently")
            places[name] = at
        time_name = header[time_at].strip()
        named = columns or {name: name for name in places if name != time_name}
        if not named:
            raise self._error(line, "no column beside the time", "add a column for each metric")
        unknown = [name for name in named if name not in places or name == time_name]
        if unknown:
            there = ", ".join(name for name in places if name != time_name)
            raise self._error(line, f"no column {unknown[0]!r} to send; there are {there}")
        wanted = {places[name]: self._column(line, name, target) for name, target in named.items()}
        if len(set(wanted.values())) != len(wanted):
            raise self._error(line, "two columns would be sent as the same metric", "choose one of them")
        return wanted

    def _column(self, line: int, name: str, target: str) -> Column:
        match = _NAME.fullmatch(target)
        pairs = [pair.partition("=") for pair in (match["attributes"] or "").split(",") if pair] if match else []
        if match is None or not all(key.strip() and sign for key, sign, _ in pairs):
            raise self._error(
                line,
                f"column {name!r}: {target!r} is no metric",
                "write name or name{attribute=value,...}, quoted if there is a comma in it",
            )
        return Column(match["name"], attributes_of({key.strip(): value.strip() for key, _, value in pairs}))

    def _time(self, line: int, column: str, text: str, before: int | None) -> int:
        try:
            time_ns = _milliseconds(text) if column.strip() == "time_ms" else _nanoseconds_or_iso(text)
        except (ValueError, OverflowError) as error:
            raise self._error(line, f"column {column!r}: {text!r} is no time: {error}") from error
        if not 0 <= time_ns <= _LATEST_NS:
            raise self._error(line, f"column {column!r}: {text!r} is not between 1970 and 2262")
        if before is not None and time_ns <= before:
            raise self._error(
                line, f"column {column!r}: {text!r} is not after the row before", "sort the rows, and keep one a time"
            )
        return time_ns

    def _value(self, line: int, column: str, text: str) -> float:
        if not text:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            raise self._error(line, f"column {column!r}: {text!r} is no number") from None
        if math.isinf(value):
            raise self._error(line, f"column {column!r}: {text!r} is not finite", "leave the field empty")
        return value

    def _error(self, line: int, words: str, cure: str = "correct the line") -> InputError:
        return InputError(f"{self._path}: line {line}: {words}", cure=cure)


def _milliseconds(text: str) -> int:
    try:
        return round(Decimal(text) * 10**6)
    except InvalidOperation:
        raise ValueError("not a number of milliseconds") from None


def _nanoseconds_or_iso(text: str) -> int:
    try:
        time_ns = int(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
    if time_ns < _EARLIEST_NS:
        raise ValueError("too small for nanoseconds since the epoch; milliseconds go into a column time_ms")
    return time_ns
