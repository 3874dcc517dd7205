"""Requests that a sender repeats with other times and values, which is what senders do: read without parsing.

The points' times and values have eight bytes each in every encoding. So a request that differs from an earlier one in
these bytes only has the same points of the same streams, and its times and values lie where they lay. Where they lie
is found once, and tried: the parser must see other times and values there when they are changed, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from icosfl.bridge.columns import DOUBLE, Layout, Points
from icosfl.bridge.decode import Gathered, gather, parts_of
from icosfl.bridge.identities import Identities
from icosfl.bridge.rows import Plan

# How many templates there are at most, how large they are together, and how many there are of one length.
_TEMPLATES = 256
_BYTES = 16 << 20
_OF_A_LENGTH = 4

# What a template keeps of a point (its places, its plan), and of a stream; about, and rather too much.
_POINT_BYTES = 120
_STREAM_BYTES = 250

# Requests of one length that are parsed before one is learned; twice as many each time that the last was of no use.
_PATIENCE = 3
_LENGTHS = 10_000

_Bytes = NDArray[np.uint8]
_Places = NDArray[np.intp]
_EIGHT = np.arange(8)


@dataclass(frozen=True, slots=True)
class _Fields:
    """Where the eight bytes of the times and of the values of points lie, and which values are doubles, not ints."""

    times: _Places
    values: _Places
    doubles: NDArray[np.bool_]

    def read(self, body: bytes) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        """The times and values in a request."""
        words = np.ndarray(len(body) - 7, "<u8", body, strides=(1,))  # of every eight bytes, wherever they begin
        times, bits = words[self.times], words[self.values]
        if self.doubles.all():
            return times, bits.view(np.float64)
        return times, np.where(self.doubles, bits.view(np.float64), bits.view(np.int64))


class Template:
    """One such request.

    Attributes:
        content: The bytes of the one that was learned.
        plan: How its last points made rows, for the next that come at the same distances in time.
        was_used: Whether it was of use.
    """

    def __init__(self, body: bytes, wanted: _Fields, others: _Fields, gathered: Gathered) -> None:
        self.content = np.frombuffer(body, np.uint8)
        self._fixed = np.ones(len(body), np.bool_)
        for places in (wanted.times, wanted.values, others.times, others.values):
            self._fixed[(places[:, np.newaxis] + _EIGHT).ravel()] = False
        self._wanted = wanted
        self._gathered = gathered
        points, streams = len(gathered.points), len(gathered.points.streams)
        self.size = 2 * len(body) + _POINT_BYTES * points + _STREAM_BYTES * streams
        self.plan: Plan | None = None
        self.was_used = False

    def fits(self, content: _Bytes) -> bool:
        """Whether a request of the same length differs in times and values only."""
        return not ((content != self.content) & self._fixed).any()

    def gather(self, body: bytes) -> Gathered:
        """The points of a request that fits."""
        times, values = self._wanted.read(body)
        known = self._gathered
        return Gathered(Points(times, values, known.points.kinds, known.points.streams), known.dropped, known.strangers)


class Templates:
    """The requests that were repeated. Several threads may use it at once.

    Args:
        identities: Knows senders and points by their bytes.
    """

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self._found: dict[int, tuple[Template, ...]] = {}
        self._missed: dict[int, int] = {}
        self._size = 0
        self._count = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """How many bytes the templates take, about."""
        return self._size

    def gather(self, body: bytes) -> tuple[Gathered, Template | None]:
        """The points of a request, and the template that it fits.

        Raises:
            DecodeError: the bytes are no request.
        """
        if candidates := self._found.get(len(body)):
            content = np.frombuffer(body, np.uint8)
            for template in candidates:
                if template.fits(content):
                    template.was_used = True
                    return template.gather(body), template
        gathered = gather(body, self._identities)
        if len(gathered.points) and self._is_time_to_learn(len(body)):
            learned = learn(body, gathered, self._identities)
            if learned is not None:
                self._keep(len(body), learned)
        return gathered, None

    def _is_time_to_learn(self, length: int) -> bool:
        with self._lock:
            if len(self._missed) >= _LENGTHS:
                self._missed.clear()
            missed = self._missed[length] = self._missed.get(length, 0) + 1
        times, rest = divmod(missed, _PATIENCE)
        return rest == 0 and times & (times - 1) == 0

    def _keep(self, length: int, template: Template) -> None:
        if template.size > _BYTES:
            return
        with self._lock:
            others = self._found.get(length, ())
            if any(other.fits(template.content) for other in others):
                return  # another thread was faster
            if all(other.was_used for other in others):
                self._missed.pop(length, None)
            if self._count >= _TEMPLATES or self._size + template.size > _BYTES:
                self._found.clear()
                self._count = self._size = 0
            kept = (template, *self._found.get(length, ()))
            gone = kept[_OF_A_LENGTH:]
            self._found[length] = kept[:_OF_A_LENGTH]
            self._count += 1 - len(gone)
            self._size += template.size - sum(each.size for each in gone)


def learn(body: bytes, gathered: Gathered, identities: Identities) -> Template | None:
    """The template of a request, None for one whose times and values cannot be told from its other bytes.

    Args:
        body: The request.
        gathered: Its points.
        identities: Knows senders and points by their bytes.
    """
    wanted, others = _fields(_places(body, identities, wanted=True)), _fields(_places(body, identities, wanted=False))
    if wanted is None or others is None or len(wanted.times) != len(gathered.points):
        return None
    template = Template(body, wanted, others, gathered)
    right = _is_same(gathered, template.gather(body)) and _is_right(body, template, wanted, others, identities)
    return template if right else None


def _places(body: bytes, identities: Identities, *, wanted: bool) -> Iterator[tuple[int, int, bool] | None]:
    """Where points have their time and value, and whether that is a double; None for a wanted one that is unusual."""
    place = 0
    for points, feed in parts_of(body, identities):
        for point in points:
            place = _find(body, point, place)
            if (feed is not None) is wanted:
                layout = Layout.of(point)
                if layout is not None:
                    value = layout.fields["value"]
                    yield place + layout.fields["time"] + 1, place + value + 1, point[value] == DOUBLE
                elif wanted:
                    yield None
            place += len(point)


def _find(body: bytes, point: bytes, start: int) -> int:
    """Where a point stands: after the byte that says what it is, and its length."""
    length, head = len(point), b"\x0a"
    while length > 127:
        head += bytes([length & 127 | 128])
        length >>= 7
    head += bytes([length])
    return body.index(head + point, start) + len(head)


def _fields(places: Iterator[tuple[int, int, bool] | None]) -> _Fields | None:
    found = list(places)
    if None in found:
        return None
    table = np.array(found, np.intp).reshape(len(found), 3)
    return _Fields(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].astype(np.bool_))


def _is_right(body: bytes, template: Template, wanted: _Fields, others: _Fields, identities: Identities) -> bool:
    """Whether the parser, too, sees what the template sees, with other times and values in the request."""
    changed = np.frombuffer(body, np.uint8).copy()
    for fields in (wanted, others):
        number = np.arange(1, len(fields.times) + 1)
        bits = np.where(fields.doubles, (number + 0.5).view(np.uint64), number.astype(np.uint64))
        for places, words in ((fields.times, number.astype(np.uint64)), (fields.values, bits)):
            changed[places[:, np.newaxis] + _EIGHT] = words.astype("<u8").view(np.uint8).reshape(-1, 8)
    other = changed.tobytes()
    try:
        return _is_same(gather(other, identities), template.gather(other))
    except DecodeError:
        return False


def _is_same(one: Gathered, other: Gathered) -> bool:
    return bool(
        np.array_equal(one.points.times, other.points.times)
        and np.array_equal(one.points.values, other.points.values, equal_nan=True)
        and np.array_equal(one.points.kinds, other.points.kinds)
        and list(one.points.streams) == list(other.points.streams)
        and one.dropped == other.dropped
        and one.strangers == other.strangers
    )
