"""From the bytes of points to arrays of times and values. Pure.

Time and value have 9 bytes each, and senders put them before the attributes (all but the order of the fields is one)
or a value behind them. Points of one length of a request are taken for such if their bytes say so in the same places;
what else is valid is read one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from icosfl.bridge.identities import Identities, Stream
from icosfl.bridge.rules import Feed
from icosfl.bridge.wire import view_point

NO_VALUE = -1
_UNREAD = -2

DOUBLE = 0x21
_START, _TIME, _INT = 0x11, 0x19, 0x31
_FIELDS = {_START: "start", _TIME: "time", DOUBLE: "value", _INT: "value"}
_FIELD_BYTES = 9

_Flags = NDArray[np.bool_]

# Arrays cost as much as this many points read one by one.
_FEW = 8


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points in the order of the request.

    Args:
        times: Nanoseconds since the epoch.
        values: How much was measured.
        kinds: The number of each point's stream, `NO_VALUE` for a point without a value.
        streams: The streams.
    """

    times: NDArray[np.uint64]
    values: NDArray[np.float64]
    kinds: NDArray[np.intp]
    streams: Sequence[Stream]

    def __len__(self) -> int:
        return len(self.times)

    def only(self, chosen: _Flags) -> Points:
        """The chosen ones of the points."""
        if chosen.all():
            return self
        return Points(self.times[chosen], self.values[chosen], self.kinds[chosen], self.streams)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where points of one length have their fixed fields, and from where to where they have the rest.

    A field is a byte that says which it is, `DOUBLE` for a value that is one, and eight bytes.
    """

    length: int
    fields: Mapping[str, int]
    start: int
    end: int

    @classmethod
    def of(cls, point: bytes) -> Layout | None:
        """The layout of a point, None for one that does not look as if it had one."""
        fields: dict[str, int] = {}
        start, end = 0, len(point)
        while start + _FIELD_BYTES <= end and (name := _FIELDS.get(point[start])) and name not in fields:
            fields[name] = start
            start += _FIELD_BYTES
        last = end - _FIELD_BYTES
        if "value" not in fields and last >= start and _FIELDS.get(point[last]) == "value":
            fields["value"] = end = last
        return cls(len(point), fields, start, end) if "time" in fields and "value" in fields else None

    def read(self, points: Sequence[bytes]) -> tuple[_Flags, NDArray[np.uint64], NDArray[np.float64]]:
        """Which of the points have this layout, and their times and values; those of the others mean nothing."""
        table = np.frombuffer(b"".join(points), _shape(self.length, tuple(self.fields.items())))
        double = table["value"] == DOUBLE
        fit = double | (table["value"] == _INT)
        fit &= table["time"] == _TIME
        if "start" in self.fields:
            fit &= table["start"] == _START
        return fit, table["time_is"], np.where(double, table["double_is"], table["int_is"])


@lru_cache(maxsize=256)  # making one takes longer than to read a few points
def _shape(length: int, fields: tuple[tuple[str, int], ...]) -> np.dtype[np.void]:
    """Points of one length as rows of an array: the bytes before their fields, and the fields."""
    places = dict(fields)
    time, value = places["time"] + 1, places["value"] + 1
    offsets = {**places, "time_is": time, "double_is": value, "int_is": value}
    kinds = [*["u1"] * len(places), "<u8", "<f8", "<i8"]
    return np.dtype({"names": [*offsets], "formats": kinds, "offsets": [*offsets.values()], "itemsize": length})


class _Kinds(dict[bytes, int]):
    """The numbers of the streams of one metric, by the bytes of a point without its time and value."""

    def __init__(self, streams: list[Stream], resource: bytes, feed: Feed, identities: Identities) -> None:
        super().__init__()
        self._streams = streams
        self._resource = resource
        self._feed = feed
        self._identities = identities

    def __missing__(self, rest: bytes) -> int:
        stream = self._identities.stream(self._resource, self._feed, rest)
        if stream is None:
            kind = _UNREAD
        elif stream.identity.valueless:
            kind = NO_VALUE
        else:
            kind = len(self._streams)
            self._streams.append(stream)
        self[rest] = kind
        return kind


class Gatherer:
    """Takes the points of the metrics of one request, and then reads them all.

    Args:
        identities: Knows them by their bytes.
    """

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._points: list[bytes] = []
        self._owners: list[_Kinds] = []
        self._kinds: dict[tuple[bytes, Feed], _Kinds] = {}
        self._streams: list[Stream] = []

    def add(self, resource: bytes, feed: Feed, points: Sequence[bytes]) -> None:
        """Take the points of a metric of the resource with this digest."""
        kinds = self._kinds.get((resource, feed))
        if kinds is None:
            kinds = self._kinds[resource, feed] = _Kinds(self._streams, resource, feed, self._identities)
        self._points.extend(points)
        self._owners.extend([kinds] * len(points))

    def read(self) -> Points:
        """Read all points.

        Raises:
            DecodeError: one of them is none.
        """
        count = len(self._points)
        times = np.zeros(count, np.uint64)
        values = np.zeros(count, np.float64)
        lengths = np.fromiter(map(len, self._points), np.intp, count)
        kinds = np.where(lengths < _FIELD_BYTES, NO_VALUE, _UNREAD)  # too short for a value, or still to be read
        for places in _equal(lengths):
            chosen = places.tolist()
            points = [self._points[place] for place in chosen]
            layout = Layout.of(points[0])
            if layout is not None:
                fit, times[places], values[places] = layout.read(points)
                start, end = layout.start, layout.end
                kinds[places] = [
                    self._owners[place][point[start:end]] if fits else _UNREAD  # what others have there means nothing
                    for place, point, fits in zip(chosen, points, fit.tolist(), strict=True)
                ]
        for place in np.flatnonzero(kinds == _UNREAD).tolist():
            times[place], values[place], kinds[place] = self._read_one(place)
        return Points(times, values, kinds, self._streams)

    def _read_one(self, place: int) -> tuple[int, float, int]:
        view = view_point(self._points[place])
        kind = view.WhichOneof("value")
        time, value = view.time, 0.0
        if kind is not None:
            value = float(getattr(view, kind))
            view.ClearField(kind)
        view.ClearField("time")
        view.DiscardUnknownFields()
        stream = self._owners[place][view.SerializeToString()]
        return time, value, NO_VALUE if kind is None else stream


def _equal(lengths: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """The places of each length that is not rare."""
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    ends = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    for begin, end in pairwise((0, *ends.tolist(), len(order))):
        if end - begin >= _FEW:
            yield order[begin:end]
