"""Who sends, and whether it sends more than it may."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any
from urllib.parse import unquote

import grpc

from icosfl.bridge.limits import SenderBook
from icosfl.config import SenderLimits

_MAX_NAMED = 100

logger = logging.getLogger(__name__)


def sender_of(context: grpc.ServicerContext) -> str:
    """The common name of the sender's certificate; of a sender without one, its address without the port."""
    identity: Mapping[str, Any] = context.auth_context() or {}  # lists of bytes, other than gRPC's types say
    names = identity.get("x509_common_name")
    return str(names[0], "utf-8", "replace") if names else address_of(context.peer())


def address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, such as `ipv4:192.0.2.1:4711` or `ipv6:%5B::1%5D:4711`."""
    kind, _, rest = peer.partition(":")
    return unquote(rest.rpartition(":")[0]).strip("[]") if kind in {"ipv4", "ipv6"} else peer


class Senders:
    """Keeps account of the senders; for any number of threads.

    Args:
        limits: How much a sender may send, and how many senders are remembered.
        clock: The time, in seconds, of a clock that is never set back.
    """

    def __init__(self, limits: SenderLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._book = SenderBook(limits)
        self._lock = Lock()
        self._named = FirstTimes(_MAX_NAMED)

    def admit(self, sender: str) -> float:
        """Seconds until this sender may send a request: 0.0 when it may, and then this one counts."""
        with self._lock:
            seconds = self._book.admit(sender, self._clock())
        if seconds and self._named.is_new(sender):
            logger.warning("%.80r sends %s: it is told to come again later", sender, self.excess)
        return seconds

    def charge(self, sender: str, points: int) -> None:
        """Count the points of a request of this sender."""
        with self._lock:
            self._book.charge(sender, points, self._clock())

    @property
    def excess(self) -> str:
        """What a sender does that is not admitted, in words."""
        limits = self._limits
        return f"more than {limits.requests_per_second:g} requests or {limits.points_per_second:g} points a second"


class FirstTimes:
    """Says of a name whether it comes for the first time, so that a log says a thing once; knows so many names."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._names: set[str] = set()

    def is_new(self, name: str) -> bool:
        """Whether the name is new, and there was room to remember it."""
        new = name not in self._names and len(self._names) < self._count
        if new:
            self._names.add(name)
        return new
