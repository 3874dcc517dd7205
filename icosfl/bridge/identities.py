"""Who sent a point and of what: read once of the bytes, then looked up by them. Safe to use from several threads.

Reading attributes is nine tenths of the work on a point, and a sender writes those of a series in the same way each
time. So the bytes are the key of a cache. What it remembers is the same for another order of attributes.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import DataPointFlags
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from icosfl.bridge.attributes import Attributes, digest, read_attributes
from icosfl.bridge.rules import Feed, Rule, Rules
from icosfl.bridge.wire import PointView, view_point

# What is remembered at most: a sender with endless names must not fill the memory.
CACHED_IDENTITIES = 20_000
CACHED_BYTES = 8 * 1024 * 1024

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Sender:
    """A resource: its rule, None for one that nobody knows, and the digest of its attributes."""

    rule: Rule | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class Identity:
    """What a point is but for its time and value: the digest of its attributes, and the targets that it feeds.

    Args:
        attributes: The digest of the attributes.
        targets: What it feeds, as in `Feed.targets`.
        valueless: Whether it says that there is no value, whatever value stands in it.
    """

    attributes: bytes
    targets: tuple[int, ...]
    valueless: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """What points have in common: the digest of their resource, and their identity."""

    resource: bytes
    identity: Identity


class BoundedCache(Generic[_Key, _Value]):
    """A mapping that is emptied when it is full: simpler than to find the oldest, and as good where few are new.

    Args:
        entries: How many values it holds at most.
        size: How large, in bytes, the keys are together at most.
    """

    def __init__(self, entries: int, size: int) -> None:
        self._entries = entries
        self._size = size
        self._used = 0
        self._values: dict[_Key, _Value] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def used(self) -> int:
        """How large, in bytes, the keys are together."""
        return self._used

    def get(self, key: _Key) -> _Value | None:
        """The value of a key, None for one that is not remembered."""
        return self._values.get(key)

    def put(self, key: _Key, value: _Value, size: int) -> None:
        """Remember a value for a key of `size` bytes; one that is larger than all may be together is not."""
        if size > self._size:
            return
        with self._lock:
            if key in self._values:
                return
            if len(self._values) >= self._entries or self._used + size > self._size:
                self._values.clear()
                self._used = 0
            self._values[key] = value
            self._used += size


class Identities:
    """The senders and identities that were seen.

    Args:
        rules: Which points are kept.
        entries: How many of each are remembered at most.
        size: How large, in bytes, those of a kind were on the wire together at most.
    """

    def __init__(self, rules: Rules, entries: int = CACHED_IDENTITIES, size: int = CACHED_BYTES) -> None:
        self._rules = rules
        self._senders: BoundedCache[bytes, Sender] = BoundedCache(entries, size)
        self._streams: BoundedCache[tuple[bytes, Feed, bytes], Stream] = BoundedCache(entries, size)

    def sender(self, resource: bytes) -> Sender:
        """Whom the bytes of a resource name.

        Raises:
            DecodeError: they are none.
        """
        found = self._senders.get(resource)
        if found is None:
            attributes = resource_attributes(resource)
            found = Sender(self._rules.rule(attributes), digest(attributes))
            self._senders.put(resource, found, len(resource))
        return found

    def stream(self, resource: bytes, feed: Feed, rest: bytes) -> Stream | None:
        """What the bytes of a point name that are left without its time and value.

        None if they are no such bytes: they make no sense of their own, or hold a time or a value after all. Then
        the point has to be read as a whole.

        Raises:
            DecodeError: the attributes are none.
        """
        key = (resource, feed, rest)
        found = self._streams.get(key)
        if found is None:
            view = _view_of_rest(rest)
            if view is None:
                return None
            attributes = read_attributes(map(KeyValue.FromString, view.attributes))
            valueless = bool(view.flags & DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK)
            found = Stream(resource, Identity(digest(attributes), feed.targets(attributes), valueless))
            self._streams.put(key, found, len(rest))
        return found


def resource_attributes(resource: bytes) -> Attributes:
    """The attributes of a resource.

    Raises:
        DecodeError: the bytes are none.
    """
    return read_attributes(Resource.FromString(resource).attributes)


def _view_of_rest(rest: bytes) -> PointView | None:
    try:
        view = view_point(rest)
    except DecodeError:
        return None
    return None if view.HasField("time") or view.WhichOneof("value") else view
