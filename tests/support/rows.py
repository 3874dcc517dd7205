"""Rows that are on their way: what a bridge has acknowledged is in the store a moment later."""

from __future__ import annotations

import time

from icosfl.schema import Rows
from icosfl.store import SeriesStore


def rows_once(store: SeriesStore, count: int, seconds: float = 60) -> Rows:
    """The window as soon as it has so many rows."""
    end = time.monotonic() + seconds
    while (info := store.info()).rows < count:
        assert store.wait(info.position, end - time.monotonic()), f"{info.rows} of {count} rows came"
    return store.window().rows
