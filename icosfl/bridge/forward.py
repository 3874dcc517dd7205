"""Hands what the spool has to the store, and lets the spool forget what the store cannot lose any more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from threading import Event

from icosfl.bridge.forward_progress import Progress
from icosfl.bridge.forward_rows import merge
from icosfl.bridge.keeper import StoreKeeper
from icosfl.bridge.losses import Losses
from icosfl.bridge.metrics import BridgeMetrics
from icosfl.bridge.spool import Spool
from icosfl.errors import DataError, SpoolFailed, Unavailable

_MAX_ROWS = 10_000
"""Rows in one call of the store."""

_GATHER_SECONDS = 0.05
"""Pause after a call, in which records gather for the next one: a call costs more than the rows in it."""

_NAP_SECONDS = 0.25
"""How late a forwarder with nothing to do may notice that it shall stop."""

_MANY_ROWS = 5_000
"""Rows in a call after which the next one follows at once."""

_DOUBLINGS = 4
"""How often the pause is doubled while the store does not answer."""

logger = logging.getLogger(__name__)


class Forwarder:
    """A thread between a spool and a store, from `start` to `stop`.

    Args:
        spool: What has the rows.
        keeper: Who has the store.
        metrics: Counts what is handed over.
        note_round: Called once a round, which is at least every `retry_seconds` unless the store takes longer.
        retry_seconds: Seconds between two looks at the store.
    """

    def __init__(
        self,
        spool: Spool,
        keeper: StoreKeeper,
        metrics: BridgeMetrics,
        note_round: Callable[[], None],
        retry_seconds: float,
    ) -> None:
        self._spool = spool
        self._keeper = keeper
        self._metrics = metrics
        self._note_round = note_round
        self._retry = retry_seconds
        self._look_at = -float("inf")
        self._progress = Progress(spool.forgotten)
        self._furthest = self._progress.handed
        self._losses = Losses()
        self._stopping = Event()
        self._thread = ThreadPoolExecutor(1, "forward")
        self._running: Future[None] | None = None

    def start(self, ended: Callable[[], None]) -> None:
        """Begin; `ended` is called when the thread ends."""
        self._running = self._thread.submit(self._run)
        self._running.add_done_callback(lambda _: ended())

    def stop(self, seconds: float) -> None:
        """Hand over what is there, for so many seconds at most and as long as the store answers, and end.

        What is left stays in the spool.

        Raises:
            ConfigError: the store's configuration is wrong, which ended the thread.
        """
        self._stopping.set()
        if self._running is not None:
            wait_for([self._running], seconds)
        self._keeper.close()
        self._thread.shutdown()
        if self._running is not None:
            self._running.result()

    def _run(self) -> None:
        failures = 0
        while True:
            rows = 0
            try:
                rows = self._hand()
                if time.monotonic() >= self._look_at:
                    self._look()
                failures = 0
            except (Unavailable, DataError) as error:
                failures += 1
                if failures == 1 and isinstance(error, SpoolFailed):  # the keeper speaks for the store
                    logger.warning("nothing is handed to the store: %s", error)
            self._note_round()
            if failures:
                self._spool.wait(self._spool.last, 0.0)  # it uses a pause for what is due
                if self._stopping.wait(backoff(failures, self._retry)):
                    return
            elif rows:
                if rows < _MANY_ROWS:
                    self._stopping.wait(_GATHER_SECONDS)
            elif self._stopping.is_set():  # not before all is handed over that can be read
                if not self._spool.wait(self._progress.handed, 0.0):
                    return
            else:
                self._spool.wait(self._progress.handed, min(_NAP_SECONDS, self._retry))

    def _hand(self) -> int:
        """Hand over the next records; returns how many rows they had."""
        records = self._spool.read(self._progress.handed, _MAX_ROWS)
        if not records:
            return 0
        rows = merge([record.rows for record in records])
        began = time.perf_counter()
        try:
            position = self._keeper.append(rows)
        finally:
            self._metrics.store_seconds.observe(time.perf_counter() - began)
        self._metrics.count_forwarded(rows)
        self._check(self._progress.note_handed(records[-1].number, position))
        self._furthest = max(self._furthest, self._progress.handed)
        return len(rows)

    def _look(self) -> None:
        """See whether the store is the same one still, and what of its rows it cannot lose any more."""
        info = self._keeper.look()
        self._check(self._progress.note_epoch(info.position))
        lost = self._losses.note(info, handed_again=self._progress.handed >= self._furthest)
        if lost:
            self._metrics.count_loss()
            logger.warning("the window lost %d rows with its checkpoints: see the backend's log", lost)
        if self._progress.unsaved:
            self._check(self._progress.note_saved(self._keeper.saved(soon=self._spool.is_filling)))
            self._spool.forget(self._progress.saved)
        self._look_at = time.monotonic() + self._retry

    def _check(self, same: bool) -> None:
        if not same:
            self._metrics.count_replay()
            logger.warning(
                "the store has begun anew: the rows after record %d are handed over again", self._progress.saved
            )


def backoff(failures: int, longest: float) -> float:
    """Seconds until the next attempt after so many in vain: few at first, then twice as many, `longest` at most."""
    return float(longest / 2 ** max(_DOUBLINGS + 1 - failures, 0))
