"""What a node's store of rows promises, whichever implementation keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from icosfl.schema import Rows, Schema


@dataclass(frozen=True, slots=True)
class Position:
    """A point in a store's history.

    `sequence` counts the appends that changed the window. It may step back when the store restarts from its last
    checkpoint; `epoch` is then another one, so that a reader notices.
    """

    epoch: str
    sequence: int


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds: rows now, rows at most, the oldest and newest time in ns (None when empty)."""

    rows: int
    capacity: int
    oldest: int | None
    newest: int | None
    position: Position


@dataclass(frozen=True, slots=True)
class Window:
    """Rows read from a store, and the position at which they were read."""

    rows: Rows
    position: Position


class SeriesStore(ABC):
    """A sliding window of the newest rows of one node.

    Rows are kept once a time: a row whose time is already there fills the values that it brings (NaN brings none),
    a row older than the newest is put in its place, a row older than a full window is left out. All calls are
    thread-safe and return or raise within the store's deadline.

    Every method raises `StoreUnavailable` when the store does not answer in time or refuses.
    """

    schema: Schema

    @abstractmethod
    def append(self, rows: Rows) -> Position:
        """Store rows and return once they are in the window.

        Raises:
            SchemaMismatch: the rows' width is not the schema's.
        """

    @abstractmethod
    def window(self, last: int | None = None) -> Window:
        """Return the newest `last` rows (None: all of them) as arrays that the caller owns."""

    @abstractmethod
    def wait(self, after: Position, timeout: float) -> Position | None:
        """Block until the position differs from `after`, at most `timeout` seconds; None when nothing came."""

    @abstractmethod
    def info(self) -> StoreInfo:
        """Return what the store holds, without the rows."""

    @abstractmethod
    def saved(self, *, soon: bool = False) -> Position:
        """Return the newest position that outlives a kill of the store, even when its newest checkpoint is damaged.

        Its sequence is -1 while there is none in this epoch. Without further appends it reaches the store's position in
        the end.

        Args:
            soon: Have the next checkpoint written now, not in its time. The answer does not wait for it.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; the stored rows stay."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
