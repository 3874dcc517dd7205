"""A store in the node's dataClay: rows outlive this process, and any process of the node may read them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from icosfl.config import StoreConfig
from icosfl.errors import StoreUnavailable
from icosfl.schema import Rows, Schema
from icosfl.store.base import Position, SeriesStore, StoreInfo, Window
from icosfl.store.link import Channels, Directory, Link, LinkLost
from icosfl.store.memory import check_width
from icosfl.store.model import Parcel

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.2
_WAIT_SLICE_SECONDS = 10.0
"""A waiting call is renewed this often, so that a stopping backend is not held by one."""


class DataclayStore(SeriesStore):
    """A sliding window that a dataClay backend keeps, found by its alias.

    It connects at the first call, and again after any failure; a call that meets a restarting service is repeated until
    the deadline, so that a short restart goes unnoticed (repeating is safe: rows are kept once a time). Once a whole
    deadline has passed in vain, calls fail at their first attempt until one succeeds.

    Args:
        config: The store's configuration.
        schema: The series of the rows.
        read_only: Neither make the window nor change how many rows it keeps, and refuse appends.
    """

    def __init__(self, config: StoreConfig, schema: Schema, *, read_only: bool = False) -> None:
        self.schema = schema
        self._read_only = read_only
        self._config = config
        self._channels = Channels()
        self._link: Link | None = None
        self._linking = threading.Lock()  # held while connecting
        self._swapping = threading.Lock()  # held while _link changes
        self._down = False
        self._closed = threading.Event()

    def append(self, rows: Rows) -> Position:
        """Store rows and return once they are in the window."""
        check_width(rows, self.schema)
        if self._read_only:
            raise StoreUnavailable(
                f"the store {self._config.alias} was opened to be read", cure="open it without read_only"
            )
        return Position(*self._call("append", Parcel(rows.times, rows.values)))

    def window(self, last: int | None = None) -> Window:
        """Return the newest `last` rows (None: all of them)."""
        times, values, position = self._call("window", last)
        return Window(Rows(times, values), Position(*position))

    def wait(self, after: Position, timeout: float) -> Position | None:
        """Block until the position differs from `after`, at most `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            left = max(end - time.monotonic(), 0.0)
            share = min(left, _WAIT_SLICE_SECONDS)
            found = self._call("wait", (after.epoch, after.sequence), share, extra=share)
            if found is not None:
                return Position(*found)
            if left <= share:
                return None

    def info(self) -> StoreInfo:
        """Return what the store holds, without the rows."""
        rows, capacity, oldest, newest, position = self._call("info")
        return StoreInfo(rows, capacity, oldest, newest, Position(*position))

    def saved(self, *, soon: bool = False) -> Position:
        """Return the position of the checkpoint before the newest; `soon` asks for the next one now."""
        return Position(*self._call("saved", soon))

    def close(self) -> None:
        """Close the channels; calls in flight end."""
        self._closed.set()
        self._channels.close()

    def _call(self, method: str, *args: object, extra: float = 0.0) -> Any:
        """Run a method of the object within the deadline (and `extra` seconds, which the method spends waiting)."""
        end = time.monotonic() + self._config.deadline_seconds + extra

        def time_left() -> float:
            return end - time.monotonic()

        while True:
            link = None
            try:
                link = self._linked(time_left)
                result = link.call(method, *args, timeout=time_left())
            except LinkLost as error:
                self._unlink(link)
                if self._down or time_left() < _PAUSE_SECONDS or self._closed.wait(_PAUSE_SECONDS):
                    self._down = True
                    raise self._unavailable(error) from error
            else:
                if self._down:
                    logger.info("the store %s answers again", self._config.alias)
                self._down = False
                return result

    def _linked(self, time_left: Callable[[], float]) -> Link:
        if self._closed.is_set():
            raise LinkLost("it was closed")
        link = self._link
        if link is not None:
            return link
        if not self._linking.acquire(timeout=max(time_left(), 0.0)):
            raise LinkLost("another thread is still connecting")
        try:
            link = self._link
            if link is None:
                link = Directory(self._channels, self._config, time_left).open(self.schema, read_only=self._read_only)
                with self._swapping:
                    self._link = link
            return link
        finally:
            self._linking.release()

    def _unlink(self, link: Link | None) -> None:
        with self._swapping:
            if self._link is link:
                self._link = None

    def _unavailable(self, reason: LinkLost) -> StoreUnavailable:
        return StoreUnavailable(f"the store {self._config.alias} is not available: {reason}", cure=reason.cure)
