"""How much each sender may send: token buckets over a clock that the caller reads. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from icosfl.config import SenderLimits


@dataclass(slots=True)
class Bucket:
    """So many tokens at most, which come back at a rate. It may be overdrawn: then none is there until that is made up.

    Args:
        rate: How many tokens come back in a second.
        size: How many it holds.
        level: How many it holds now.
        time: When that was, in seconds.
    """

    rate: float
    size: float
    level: float
    time: float

    def wait(self, now: float) -> float:
        """Seconds until there is a token: 0.0 when there is one."""
        if now > self.time:
            self.level = min(self.size, self.level + (now - self.time) * self.rate)
            self.time = now
        return 0.0 if self.level >= 1.0 else (1.0 - self.level) / self.rate

    def take(self, count: float) -> None:
        """Take tokens, more than there are if need be."""
        self.level -= count


class SenderBook:
    """The buckets of the senders that were heard last. Not thread-safe.

    How many points a request has is only known once it is decoded, and then it is taken: its points count against the
    sender's next request. A sender that is forgotten for others begins anew.

    Args:
        limits: How much a sender may send, and how many senders are remembered.
    """

    def __init__(self, limits: SenderLimits) -> None:
        self._limits = limits
        self._senders: OrderedDict[str, tuple[Bucket, Bucket]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._senders)

    def admit(self, sender: str, now: float) -> float:
        """Seconds until this sender may send a request: 0.0 when it may, and then this one counts.

        Args:
            sender: Who it is.
            now: The time, in seconds, of a clock that is never set back.
        """
        requests, points = self._buckets(sender, now)
        seconds = max(requests.wait(now), points.wait(now))
        if not seconds:
            requests.take(1.0)
        return seconds

    def charge(self, sender: str, points: int, now: float) -> None:
        """Count the points of a request of this sender."""
        self._buckets(sender, now)[1].take(points)

    def _buckets(self, sender: str, now: float) -> tuple[Bucket, Bucket]:
        found = self._senders.get(sender)
        if found is None:
            limits = self._limits
            found = _full(limits.requests_per_second, limits, now), _full(limits.points_per_second, limits, now)
            self._senders[sender] = found
            if len(self._senders) > limits.senders:
                self._senders.popitem(last=False)
        else:
            self._senders.move_to_end(sender)
        return found


def _full(rate: float, limits: SenderLimits, now: float) -> Bucket:
    size = max(1.0, rate * limits.burst_seconds)
    return Bucket(rate, size, size, now)
