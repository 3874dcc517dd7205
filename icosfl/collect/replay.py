"""Sending a recorded trace to a bridge, down the same way as live samples.

The bridge chooses its rule by `service_name` and stores the rows for the host that it serves. With the rule `replay`
(service.name: icosfl-replay) a column is called like the series and is in its unit; with the service name of a live
sender, columns are called like that sender's metrics and go through the same rule. The file: `icosfl.collect.trace`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from icosfl.collect.notices import Notice
from icosfl.collect.otlp import Answer, Origin, Sender, Verdict
from icosfl.collect.points import Batch
from icosfl.collect.trace import Trace, read_trace
from icosfl.config import Endpoint
from icosfl.errors import InputError, Unavailable, UserError

logger = logging.getLogger(__name__)

REPLAY_SERVICE = "icosfl-replay"

_POINTS_PER_REQUEST = 4096
_RETRY_SECONDS = 0.25

Progress = Callable[[int, int], None]
"""Called with the rows sent so far and the rows altogether."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What was sent.

    Args:
        rows: Rows that the bridge acknowledged.
        total: Rows of the trace with a value.
        points: Values of the acknowledged rows.
        stored: How many of them stand in the store's rows.
        rejected: How many the bridge did not take for a reason that can be put right.
        reason: That reason, in the bridge's words.
        first_ns: The time that the first row was sent with, nanoseconds since the epoch.
        last_ns: That of the last row.
    """

    rows: int
    total: int
    points: int
    stored: int
    rejected: int
    reason: str
    first_ns: int
    last_ns: int


def replay(  # noqa: PLR0913  all but the first two are named, most have defaults
    path: Path,
    endpoint: Endpoint,
    *,
    host: str,
    speed: float | None,
    service_name: str = REPLAY_SERVICE,
    columns: Mapping[str, str] | None = None,
    rebase: bool = False,
    timeout_seconds: float = 10.0,
    patience_seconds: float = 30.0,
    progress: Progress | None = None,
    wait: Callable[[float], bool] | None = None,
) -> Replayed:
    """Send the trace in `path` to the bridge at `endpoint` and return once everything is acknowledged.

    Args:
        path: A CSV file, see `icosfl.collect.trace`.
        endpoint: The bridge.
        host: The resource attribute host.name.
        speed: 1 sends in true time, 60 a minute a second; None or 0 as fast as the bridge acknowledges.
        service_name: The resource attribute service.name.
        columns: Which columns are sent and as what, `{"node_03": "cpu_usage"}`; None sends all under their own
            names.
        rebase: False keeps the recorded times. True shifts them so that the last row gets the time at which it is sent:
            now, or the end of the replay if that takes time.
        timeout_seconds: How long one request may take.
        patience_seconds: How long a bridge that does not answer is tried again.
        progress: Called after every acknowledged request.
        wait: Waits at most the given seconds and returns True to end the replay early; None sleeps.

    Raises:
        InputError: the file is no trace, or the bridge refuses what it holds.
        Unavailable: the bridge did not answer for `patience_seconds`.
        UserError: the speed is negative or not finite.
    """
    pace = _Pace.of(speed)
    trace = read_trace(path, columns)
    if rebase:
        end_ns = time.time_ns() + pace.nanoseconds(int(trace.times[-1] - trace.times[0]))
        trace = trace.shifted(end_ns - int(trace.times[-1]))
    sender = Sender(endpoint, Origin(host, service_name), timeout_seconds)
    run = _Run(sender, trace, pace, patience_seconds, progress or _silent, wait or _sleep, Notice(logger))
    try:
        return run.send_all()
    finally:
        sender.close()


@dataclass(frozen=True, slots=True)
class _Pace:
    """Recorded time by real time; infinite for as fast as acknowledged."""

    speed: float

    @classmethod
    def of(cls, speed: float | None) -> _Pace:
        if speed is not None and not (math.isfinite(speed) and speed >= 0):
            raise UserError(f"speed: {speed} is no pace", cure="give 0 for as fast as possible, or a factor such as 60")
        return cls(speed or math.inf)

    def nanoseconds(self, recorded_ns: int) -> int:
        """The real time that so much recorded time takes."""
        return int(recorded_ns / self.speed)


@dataclass(frozen=True, slots=True)
class _Run:
    sender: Sender
    trace: Trace
    pace: _Pace
    patience: float
    progress: Progress
    wait: Callable[[float], bool]
    notice: Notice

    def send_all(self) -> Replayed:
        start = time.monotonic_ns()
        total = len(self.trace)
        sent = points = stored = rejected = 0
        reason = ""
        while sent < total:
            if self.wait(max(self._due(sent, start) - time.monotonic_ns(), 0) / 1e9):
                break
            batches = self._due_batches(sent, start)
            answer = self._send(batches)
            if answer is None:
                break
            sent += len(batches)
            count = sum(len(batch.points) for batch in batches)
            points += count
            rejected += answer.rejected
            stored += max(count - answer.rejected, 0) if answer.stored is None else answer.stored
            if answer.reason:
                reason = answer.reason
                self.notice.trouble(f"the bridge does not take all values: {reason}", "rejects")
            self.progress(sent, total)
        if points and not stored:
            raise self._refused("takes none of the trace's values", reason)
        first, last = int(self.trace.times[0]), int(self.trace.times[-1])
        return Replayed(sent, total, points, stored, rejected, reason, first, last)

    def _due(self, row: int, start: int) -> int:
        """When a row is to be sent, on the monotonic clock in ns."""
        return start + self.pace.nanoseconds(int(self.trace.times[row] - self.trace.times[0]))

    def _due_batches(self, first: int, start: int) -> list[Batch]:
        """The rows from `first` on that are due by now, at least one, at most one request's."""
        now = time.monotonic_ns()
        most = first + max(_POINTS_PER_REQUEST // len(self.trace.columns), 1)
        end = first + 1
        while end < min(most, len(self.trace)) and self._due(end, start) <= now:
            end += 1
        return [self.trace.batch(row) for row in range(first, end)]

    def _send(self, batches: list[Batch]) -> Answer | None:
        """Send one request, again while the bridge is away; None when the replay is ended meanwhile."""
        deadline = time.monotonic() + self.patience
        while (answer := self.sender.send(batches)).verdict is Verdict.AWAY:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"the bridge at {self.sender.endpoint} does not take the trace: {answer.reason}",
                    cure="see `icosfl status` for the bridge and its store, then replay again",
                )
            if self.wait(_RETRY_SECONDS):
                return None
        if answer.verdict is Verdict.REFUSED:
            raise self._refused("refuses the trace", answer.reason)
        return answer

    def _refused(self, words: str, reason: str) -> InputError:
        return InputError(
            f"the bridge at {self.sender.endpoint} {words}: {reason}",
            cure="compare the columns and the service name with icosfl_bridge_rules in group_vars/all/metrics.yml, "
            "and recorded times with those that the node's store still keeps",
        )


def _silent(sent: int, total: int) -> None:
    """Tell nobody."""


def _sleep(seconds: float) -> bool:
    if seconds:
        time.sleep(seconds)
    return False
