"""A store that lives in the process: for tests, simulation and one-process trials."""

from __future__ import annotations

import threading
from uuid import uuid4

from icosfl.errors import SchemaMismatch, StoreUnavailable
from icosfl.schema import Rows, Schema
from icosfl.store.base import Position, SeriesStore, StoreInfo, Window
from icosfl.store.ring import Ring


def check_width(rows: Rows, schema: Schema) -> None:
    """Refuse rows that have not one column for each series.

    Raises:
        SchemaMismatch: the rows' width is not the schema's.
    """
    if rows.width != len(schema):
        raise SchemaMismatch(
            f"rows of {rows.width} columns do not fit the {len(schema)} series {', '.join(schema.names)}"
        )


class MemoryStore(SeriesStore):
    """A sliding window in this process's memory.

    Args:
        schema: The series of the rows.
        capacity: How many rows are kept, at least 1.

    Raises:
        ValueError: the capacity is below 1.
    """

    def __init__(self, schema: Schema, capacity: int) -> None:
        self.schema = schema
        self._ring = Ring(capacity, len(schema))
        self._position = Position(uuid4().hex, 0)
        self._changed = threading.Condition()
        self._closed = False

    def append(self, rows: Rows) -> Position:
        """Store rows and return once they are in the window."""
        check_width(rows, self.schema)
        with self._changed:
            self._check_open()
            if self._ring.append(rows.times, rows.values):
                self._position = Position(self._position.epoch, self._position.sequence + 1)
                self._changed.notify_all()
            return self._position

    def window(self, last: int | None = None) -> Window:
        """Return the newest `last` rows (None: all of them)."""
        with self._changed:
            self._check_open()
            return Window(Rows(*self._ring.read(last)), self._position)

    def wait(self, after: Position, timeout: float) -> Position | None:
        """Block until the position differs from `after`, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._position != after, timeout)
            self._check_open()
            return self._position if self._position != after else None

    def info(self) -> StoreInfo:
        """Return what the store holds, without the rows."""
        with self._changed:
            self._check_open()
            ring = self._ring
            return StoreInfo(len(ring), ring.capacity, ring.oldest, ring.newest, self._position)

    def saved(self, *, soon: bool = False) -> Position:  # noqa: ARG002
        """Return the position: nothing outlives this process, so nothing is to be done again after its end."""
        with self._changed:
            self._check_open()
            return self._position

    def close(self) -> None:
        """End waiting calls, and refuse further ones."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed", cure="open it again with open_store")
