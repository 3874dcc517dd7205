"""What a node's store holds, as it grows: rows, newest values, and whether the node has enough to train on.

A store is read on its own host through its own interface, as training reads it; nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from icosfl.config import schema_of
from icosfl.errors import IcosflError, NotReady, StoreUnavailable
from icosfl.fleet.place import Place
from icosfl.schema import Rows, Schema
from icosfl.store import SeriesStore, open_store
from icosfl.train.local import Plan, rows_for_training, survey
from icosfl.train.settings import TrainSettings

READ_SECONDS = 3.0
ROWS_LOOKED_AT = 10
NANOSECONDS = 1_000_000_000
SILENT = "its store does not answer: icosfl status"


@dataclass(frozen=True, slots=True)
class Value:
    """The newest value of a series in its unit; None when the newest rows have none."""

    series: str
    unit: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a node's store held when it was read.

    Args:
        host: The node.
        rows: How many rows.
        needed: How many rows without a gap make it ready to train.
        newest: Time of the newest row.
        age_seconds: How old that is.
        values: One a series.
        ready: Whether training would take the node, by training's own judgement.
        reason: Why it would not; "" when it would.
    """

    host: str
    rows: int
    needed: int
    newest: datetime | None
    age_seconds: float | None
    values: tuple[Value, ...]
    ready: bool
    reason: str


def settings_of(place: Place, run_configuration: dict[str, object]) -> TrainSettings:
    """The settings of a run on this host's fleet: the app's, overridden by `icosfl_training`.

    Raises:
        ConfigError: a value is missing or wrong; the message names the key.
    """
    return TrainSettings.from_run_config(run_configuration | place.training)


class Watched:
    """One node's store, read again and again.

    Args:
        place: The node.
        settings: What a run asks for.
        store: Where its rows are.
    """

    def __init__(self, place: Place, settings: TrainSettings, store: SeriesStore) -> None:
        self.place = place
        self._plan = _plan(place, settings)
        self.needed = rows_for_training(self._plan, settings)
        self._settings = settings
        self._store = store
        self._ready = False

    def read(self, now: datetime) -> Reading:
        """Return what the store holds; one that does not answer is a reading with its reason."""
        try:
            rows = self._store.window(ROWS_LOOKED_AT).rows
            count = self._store.info().rows
            reason = "" if self._ready else self._shortfall(self._store, count)
        except StoreUnavailable:
            return self._without(SILENT)
        except IcosflError as error:
            return self._without(str(error))
        self._ready = not reason
        newest = datetime.fromtimestamp(int(rows.times[-1]) / NANOSECONDS, UTC) if len(rows) else None
        age = (now - newest).total_seconds() if newest is not None else None
        values = newest_values(rows, self._store.schema)
        return Reading(self.place.name, count, self.needed, newest, age, values, self._ready, reason)

    def _shortfall(self, store: SeriesStore, count: int) -> str:
        if count == 0:
            return "there is no row yet"
        if count < self.needed:
            return f"{count} of {self.needed} rows"
        return survey(store.window().rows, store.schema, self._plan, self._settings).reason or ""

    def _without(self, reason: str) -> Reading:
        return no_reading(self.place.name, self.needed, reason)


def open_node(place: Place) -> SeriesStore:
    """Open the store of a host of this machine, to look at it only.

    Raises:
        ConfigError: a value of its configuration is out of its range.
    """
    config = replace(place.node.store, deadline_seconds=min(READ_SECONDS, place.node.store.deadline_seconds))
    return open_store(config, schema_of(place.node.series), read_only=True)


def needed_rows(place: Place, settings: TrainSettings) -> int:
    """How many rows without a gap make the host's node ready to train."""
    return rows_for_training(_plan(place, settings), settings)


def no_reading(host: str, needed: int, reason: str) -> Reading:
    """A reading of a store that could not be read, with the reason."""
    return Reading(host, 0, needed, None, None, (), ready=False, reason=reason)


def _plan(place: Place, settings: TrainSettings) -> Plan:
    return Plan.of(settings, settings.series, place.node.period_seconds, place.node.max_gap_seconds)


def patience_seconds(needs: Iterable[tuple[int, float]]) -> float:
    """How long to wait until every node is ready: twice what all the rows take to come, and a minute.

    Args:
        needs: For each node how many rows it needs, and the seconds between two of them.
    """
    return 60 + 2 * max((rows * period for rows, period in needs), default=0.0)


def newest_values(rows: Rows, schema: Schema) -> tuple[Value, ...]:
    """The newest value of each series that any of the rows has, in the order of the schema."""
    return tuple(
        Value(series.name, series.unit, _newest(rows.values[:, column])) for column, series in enumerate(schema.series)
    )


def _newest(column: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float | None:
    there = column[np.isfinite(column)]
    return float(there[-1]) if len(there) else None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to watch.

    Args:
        every: Seconds between two readings.
        until_ready: Whether to end with the reading in which every node is ready.
        timeout: Seconds after which watching ends, badly if every node was to be ready; None watches for ever.
    """

    every: float
    until_ready: bool
    timeout: float | None


def readings(
    read: Callable[[], tuple[Reading, ...]],
    patience: Patience,
    *,
    wait: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[tuple[Reading, ...]]:
    """Yield readings of every node, until the time is over or, if asked for, every node is ready.

    Args:
        read: Reads every node.
        patience: How often, and until when.
        wait: Waits so many seconds.
        clock: Seconds that only ascend.

    Raises:
        NotReady: the time is over before every node is ready; names those that are not, and what they lack.
    """
    deadline = None if patience.timeout is None else clock() + patience.timeout
    while True:
        found = read()
        yield found
        if patience.until_ready and all(reading.ready for reading in found):
            return
        if deadline is not None and clock() >= deadline:
            if patience.until_ready:
                raise _too_late(found, patience.timeout or 0.0)
            return
        wait(patience.every)


def _too_late(found: Sequence[Reading], timeout: float) -> NotReady:
    missing = "; ".join(f"{reading.host}: {reading.reason}" for reading in found if not reading.ready)
    return NotReady(
        f"not every node is ready after {timeout:.0f} s: {missing}",
        cure="look at `icosfl status`, and at the logs of host_metrics and the bridge of these nodes",
    )
