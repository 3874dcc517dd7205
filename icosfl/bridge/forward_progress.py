"""How far a store is with the spool's records. Pure.

A record is handed over, then saved: the store says later that what it held at a position outlives its own crash. A
store that was killed comes back in another epoch, with the rows of its last checkpoint; what was not saved by then is
handed over once more.
"""

from __future__ import annotations

from collections import deque

from icosfl.store.base import Position


class Progress:
    """Which records the store has, and which of them it cannot lose any more.

    Args:
        saved: The newest record that the spool need not have any more; those after it are to be handed over.
    """

    def __init__(self, saved: int) -> None:
        self._saved = saved
        self._handed = saved
        self._epoch: str | None = None
        # numbers of records, and the sequence at which the store has them
        self._marks: deque[tuple[int, int]] = deque()

    @property
    def handed(self) -> int:
        """The newest record that the store has; the next one comes after it."""
        return self._handed

    @property
    def saved(self) -> int:
        """The newest record that the store cannot lose any more, nor any before it."""
        return self._saved

    @property
    def unsaved(self) -> bool:
        """Whether the store may still lose a record that it has."""
        return bool(self._marks)

    def note_handed(self, number: int, position: Position) -> bool:
        """The records after `handed`, up to this one, are in the store, which is at this position now.

        Returns:
            False when the store was killed since the records before them were handed over: all begin again.
        """
        if not self.note_epoch(position):
            return False
        if self._marks and self._marks[-1][1] == position.sequence:
            self._marks.pop()
        self._marks.append((number, position.sequence))
        self._handed = number
        return True

    def note_saved(self, position: Position) -> bool:
        """What the store held at this position outlives its crash.

        Returns:
            False when the store was killed since it got its records: they begin again.
        """
        if not self.note_epoch(position):
            return False
        while self._marks and self._marks[0][1] <= position.sequence:
            self._saved, _ = self._marks.popleft()
        return True

    def note_epoch(self, position: Position) -> bool:
        """The store is in the epoch of this position.

        Returns:
            False when the store was killed since it got its records: they begin again.
        """
        stepped_back = self.unsaved and position.epoch != self._epoch
        self._epoch = position.epoch
        if stepped_back:
            self._marks.clear()
            self._handed = self._saved
        return not stepped_back
