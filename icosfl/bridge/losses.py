"""Whether a store that began anew has the rows again that it had. Pure."""

from __future__ import annotations

from icosfl.store.base import StoreInfo


class Losses:
    """Counts the rows that a store lost for good: neither its checkpoints nor the spool have them any more."""

    def __init__(self) -> None:
        self._epoch: str | None = None
        self._rows = 0
        self._open = False

    def note(self, info: StoreInfo, *, handed_again: bool) -> int:
        """Look at the store; returns how many rows are gone for good, once for each time that it began anew.

        Args:
            info: What the store says of itself.
            handed_again: Whether it was handed again by now what it had not saved.
        """
        if self._epoch is not None and info.position.epoch != self._epoch:
            self._open = True
        self._epoch = info.position.epoch
        if self._open and not handed_again:
            return 0  # the rows that it had are remembered until then
        lost = max(self._rows - info.rows, 0) if self._open else 0
        self._open = False
        self._rows = info.rows
        return lost
