"""Pushing batches to the bridge from a thread of its own, so that a bridge that is away never holds up sampling."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from icosfl.collect.notices import Notice
from icosfl.collect.otlp import Answer, Sender, Verdict
from icosfl.collect.points import Batch
from icosfl.errors import RunFailed

logger = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.25
_LONGEST_RETRY_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class PushCounts:
    """What became of the batches so far.

    Args:
        stored: Requests that the bridge acknowledged.
        failed: Attempts that it did not answer with yes or no; each is tried again.
        refused: Batches that it will never take, given up.
        dropped: Batches given up because the backlog was full.
        rejected_points: Points of acknowledged requests that it did not take.
        backlog: Batches waiting now, the one under way included.
    """

    stored: int = 0
    failed: int = 0
    refused: int = 0
    dropped: int = 0
    rejected_points: int = 0
    backlog: int = 0


@dataclass(slots=True)
class _State:
    waiting: deque[Batch] = field(default_factory=deque)
    under_way: Batch | None = None
    stored: int = 0
    failed: int = 0
    refused: int = 0
    dropped: int = 0
    rejected_points: int = 0
    closing: bool = False


class Pusher:
    """Sends batches in the order in which they were offered, and keeps those that the bridge does not take yet.

    Args:
        sender: The connection; the pusher closes it.
        capacity: How many batches may wait. When one more comes the oldest is dropped and counted.
    """

    def __init__(self, sender: Sender, capacity: int) -> None:
        self._sender = sender
        self._capacity = capacity
        self._state = _State()
        self._changed = threading.Condition()
        self._away = Notice(logger)
        self._rejects = Notice(logger)
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def offer(self, batch: Batch) -> None:
        """Take a batch to send; never blocks."""
        with self._changed:
            self._state.waiting.append(batch)
            self._drop_surplus()
            self._changed.notify()

    def check(self) -> None:
        """Make sure that somebody still sends.

        Raises:
            RunFailed: the sending thread ended, with a fault that its trace in the log shows.
        """
        if not self._thread.is_alive():
            raise RunFailed("the push to the bridge ended unexpectedly", cure="see the log; the service starts again")

    def counts(self) -> PushCounts:
        """What became of the batches so far."""
        with self._changed:
            state = self._state
            backlog = len(state.waiting) + (state.under_way is not None)
            return PushCounts(state.stored, state.failed, state.refused, state.dropped, state.rejected_points, backlog)

    def close(self, timeout_seconds: float) -> int:
        """Send what waits until the bridge fails or the time is up, then stop; return how many batches were left."""
        with self._changed:
            self._state.closing = True
            self._changed.notify()
        self._thread.join(timeout_seconds)
        self._sender.close()
        self._thread.join()
        return self.counts().backlog

    def _run(self) -> None:
        failures = 0
        deadline = 0.0
        while (batch := self._take(deadline)) is not None:
            answer = self._sender.send([batch])
            self._settle(batch, answer)
            failures = failures + 1 if answer.verdict is Verdict.AWAY else 0
            deadline = time.monotonic() + _pause(failures, answer.retry_seconds) if failures else 0.0

    def _take(self, not_before: float) -> Batch | None:
        """Wait for a batch that may be sent; None when the pusher closes and nothing (more) can be sent."""
        with self._changed:
            state = self._state
            self._changed.wait_for(lambda: state.closing, max(not_before - time.monotonic(), 0.0))
            if not_before and state.closing:
                return None
            self._changed.wait_for(lambda: state.closing or state.waiting)
            if not state.waiting:
                return None
            state.under_way = state.waiting.popleft()
            return state.under_way

    def _settle(self, batch: Batch, answer: Answer) -> None:
        with self._changed:
            state = self._state
            state.under_way = None
            if answer.verdict is Verdict.STORED:
                state.stored += 1
                state.rejected_points += answer.rejected
            elif answer.verdict is Verdict.REFUSED:
                state.refused += 1
            else:
                state.failed += 1
                state.waiting.appendleft(batch)
                self._drop_surplus()
        self._say(answer)

    def _drop_surplus(self) -> None:
        while len(self._state.waiting) > self._capacity:
            self._state.waiting.popleft()
            self._state.dropped += 1

    def _say(self, answer: Answer) -> None:
        endpoint = self._sender.endpoint
        if answer.verdict is Verdict.AWAY:
            self._away.trouble(f"the bridge at {endpoint} does not take samples, they wait: {answer.reason}", "away")
        elif answer.verdict is Verdict.REFUSED:
            self._rejects.trouble(f"the bridge at {endpoint} refused a sample for good: {answer.reason}")
        else:
            self._away.over(f"the bridge at {endpoint} takes samples")
            if answer.reason:
                self._rejects.trouble(
                    f"the bridge at {endpoint} takes samples but not all points: {answer.reason}", "rejects"
                )
            else:
                self._rejects.over(f"the bridge at {endpoint} takes all points")


def _pause(failures: int, told: float | None) -> float:
    """Seconds until the next attempt: what the bridge asks for, else doubling with each failure, in bounds."""
    wanted = told if told is not None else _FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 10)
    return min(max(wanted, _FIRST_RETRY_SECONDS), _LONGEST_RETRY_SECONDS)
