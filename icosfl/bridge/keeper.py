"""Holds the store for the bridge: opens it as soon as it can be had, and knows whether it answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from icosfl.errors import DataError, StoreUnavailable, Unavailable
from icosfl.schema import Rows
from icosfl.store.base import Position, SeriesStore, StoreInfo

logger = logging.getLogger(__name__)

T = TypeVar("T")


class StoreKeeper:
    """A store that may not be there yet. One thread asks it, any thread may ask about it.

    Args:
        open_store: Opens the store.
        note_up: Called with whether the store answers, whenever that changes.
    """

    def __init__(self, open_store: Callable[[], SeriesStore], note_up: Callable[[bool], None]) -> None:
        self._open = open_store
        self._note_up = note_up
        self._store: SeriesStore | None = None
        self._answers: bool | None = None
        self._trouble = "the store has not been looked at yet"
        self._earliest = 0
        self._closed = False

    @property
    def trouble(self) -> str:
        """What was wrong with the store when it was last asked; empty when it answered."""
        return self._trouble

    @property
    def earliest(self) -> int:
        """The time, in ns since the epoch, before which the store kept no rows at the last look: its window is full.

        0 while that is not known.
        """
        return self._earliest

    def look(self) -> StoreInfo:
        """Ask the store what it holds.

        Raises:
            Unavailable: it cannot be opened, or does not answer in time.
            DataError: it keeps other series.
            ConfigError: its configuration is wrong.
        """
        info = self._ask(lambda store: store.info())
        self._earliest = info.oldest if info.oldest is not None and info.rows >= info.capacity else 0
        return info

    def append(self, rows: Rows) -> Position:
        """Store rows and return once they are in the window; raises as `look` does."""
        return self._ask(lambda store: store.append(rows))

    def saved(self, *, soon: bool) -> Position:
        """The newest position that outlives a kill of the store; raises as `look` does.

        Args:
            soon: Have the store make more of its rows safe now.
        """
        return self._ask(lambda store: store.saved(soon=soon))

    def _ask(self, question: Callable[[SeriesStore], T]) -> T:
        try:
            if self._closed:
                raise StoreUnavailable("the bridge has let go of the store")
            if self._store is None:
                self._store = self._open()
            answer = question(self._store)
        except (Unavailable, DataError) as error:
            self._note(str(error))
            raise
        self._note("")
        return answer

    def _note(self, trouble: str) -> None:
        if self._closed:
            return
        self._trouble = trouble
        answers = not trouble
        if answers != self._answers:
            self._answers = answers
            self._note_up(answers)
            if answers:
                logger.info("the store answers")
            else:
                logger.warning("the store takes no rows, they stay in the spool: %s", trouble)

    def close(self) -> None:
        """Let go of the store; a call under way ends."""
        self._closed = True
        if self._store is not None:
            self._store.close()
