"""Holds the store for the bridge: opens it as soon as it can be had, and knows whether it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event

from icosfl.errors import DataError, StoreUnavailable, Unavailable
from icosfl.schema import Rows
from icosfl.store.base import Position, SeriesStore

logger = logging.getLogger(__name__)


class StoreKeeper:
    """A store that may not be there yet.

    Args:
        open_store: Opens the store.
        report: Called after every look at the store with what is wrong with it, empty when it answers.
    """

    def __init__(self, open_store: Callable[[], SeriesStore], report: Callable[[str], None]) -> None:
        self._open = open_store
        self._report = report
        self._store: SeriesStore | None = None
        self._answers: bool | None = None
        self._trouble = "the store has not been looked at yet"
        self._earliest = 0

    @property
    def trouble(self) -> str:
        """What was wrong with the store at the last look; empty when it answered."""
        return self._trouble

    @property
    def earliest(self) -> int:
        """The time, in ns since the epoch, before which the store kept no rows at the last look: its window is full."""
        return self._earliest

    def append(self, rows: Rows) -> Position:
        """Store rows and return once they are in the window.

        Raises:
            StoreUnavailable: the store is not open yet, does not answer in time, or refuses.
            SchemaMismatch: the rows' width is not the schema's.
        """
        store = self._store
        if store is None:
            raise StoreUnavailable(self._trouble)
        return store.append(rows)

    def watch(self, stop: Event, period: float) -> None:
        """Look at the store every `period` seconds until `stop` is set.

        Raises:
            ConfigError: the store's configuration is wrong.
        """
        self.look()
        while not stop.wait(period):
            self.look()

    def look(self) -> None:
        """Open the store if it is not open, ask it for a sign of life, and report."""
        try:
            if self._store is None:
                self._store = self._open()
            info = self._store.info()
        except (Unavailable, DataError) as error:
            self._note(str(error))
        else:
            self._earliest = info.oldest if info.oldest is not None and info.rows >= info.capacity else 0
            self._note("", f"{info.rows} of {info.capacity} rows")

    def _note(self, trouble: str, state: str = "") -> None:
        answers = not trouble
        if answers != self._answers:
            level, text = (logging.INFO, "answers") if answers else (logging.WARNING, "does not answer, senders wait")
            logger.log(level, "store %s: %s", text, trouble or state)
        self._answers = answers
        self._trouble = trouble
        self._report(trouble)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()
