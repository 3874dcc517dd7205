"""The class that dataClay keeps: one node's sliding window.

dataClay stores objects under `icosfl.store.model.TimeSeriesData` and the backend imports it by that name: NEVER MOVE OR
RENAME THIS MODULE OR ITS CLASSES. What is persisted are plain values and numpy arrays (`__getstate__`), so everything
else may change.

Every method is a coroutine: dataClay runs coroutines on the backend's one event loop, so no two of them ever run at
once, no lock is needed, flushing an object at shutdown cannot lose an append, and any number of waiters block nobody
(a blocking method holds one of the backend's few threads). Methods must stand in the class itself: dataClay's stubs do
not see inherited ones. No attribute may be annotated on the class: dataClay would persist it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch
from icosfl.store.quiet import quiet_dataclay
from icosfl.store.ring import Ring

with quiet_dataclay():
    from dataclay import DataClayObject, activemethod
    from dataclay.config import get_runtime
    from dataclay.exceptions import ObjectNotFound

logger = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 30.0
"""No call of `wait` stays longer on the backend."""


class Parcel:
    """Rows on their way into a store.

    dataClay's client formats every argument for tracing at every call; the trivial `__repr__` keeps that cheap.

    Args:
        times: Nanoseconds since the epoch, strictly ascending, shape [n].
        values: Shape [n, k].
    """

    __slots__ = ("times", "values")

    def __init__(self, times: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        self.times = times
        self.values = values

    def __repr__(self) -> str:
        return "Parcel"


class TimeSeriesData(DataClayObject):  # type: ignore[misc]  # dataClay has no types
    """The newest rows of one node, as an object in its backend.

    Positions are pairs (epoch, sequence): the epoch is another one each time the object comes from disk.

    Args:
        alias: The name under which the object is found.
        names: The series' names, one for each column.
        units: The series' units.
        capacity: How many rows are kept.
    """

    def __init__(self, alias: str, names: tuple[str, ...], units: tuple[str, ...], capacity: int) -> None:
        self._begin(alias, names, units, capacity)

    def _begin(self, alias: str, names: tuple[str, ...], units: tuple[str, ...], capacity: int) -> None:
        self._alias, self._names, self._units = alias, tuple(names), tuple(units)
        self._ring = Ring(capacity, len(names))
        self._sequence = 0
        self._epoch = uuid4().hex
        self._generations = (-1, -1)  # this epoch's sequences in the checkpoint before the newest, and in the newest

    def __getstate__(self) -> dict[str, Any]:
        times, values = self._ring.read()
        return {
            "format": 1,
            "alias": self._alias,
            "names": self._names,
            "units": self._units,
            "capacity": self._ring.capacity,
            "sequence": self._sequence,
            "times": times,
            "values": values,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["alias"], state["names"], state["units"], state["capacity"])
        self._ring.append(state["times"], state["values"])
        self._sequence = state["sequence"]
        self._wake()

    @activemethod  # type: ignore[untyped-decorator]
    async def attach(
        self, alias: str, names: tuple[str, ...], units: tuple[str, ...], capacity: int | None
    ) -> tuple[str, int]:
        """Make the object ready for one who wants these series; take on the capacity asked for, if any.

        An object whose rows are lost (killed before its first checkpoint) starts again empty, unless no capacity is
        asked for.

        Returns:
            The position.

        Raises:
            SchemaMismatch: the object keeps other series.
            ObjectNotFound: its rows are lost, and no capacity is asked for.
        """
        try:
            await self._load()
        except ObjectNotFound:
            if capacity is None:
                raise
            logger.warning("the rows of %s are lost: it starts again empty", alias)
            self._begin(alias, names, units, capacity)
            self._dc_is_loaded = True
            get_runtime().data_manager.add_hard_reference(self)
            self._wake()
        if (tuple(names), tuple(units)) != (self._names, self._units):
            kept = ", ".join(f"{name} [{unit}]" for name, unit in zip(self._names, self._units, strict=True))
            asked = ", ".join(f"{name} [{unit}]" for name, unit in zip(names, units, strict=True))
            raise SchemaMismatch(
                f"the store {alias} keeps the series {kept}, not {asked}",
                cure="give icosfl_store another alias, or go back to the series that the store was made with",
            )
        if capacity is not None and capacity != self._ring.capacity:
            logger.info("%s keeps %d rows from now on, not %d", alias, capacity, self._ring.capacity)
            self._ring.resize(capacity)
            self._move_on()
        return self.position

    @activemethod  # type: ignore[untyped-decorator]
    async def append(self, parcel: Parcel) -> tuple[str, int]:
        """Put rows in their place in the window.

        Returns:
            The position after it.

        Raises:
            ValueError: the rows' width is not that of the series.
        """
        await self._load()
        if self._ring.append(parcel.times, parcel.values):
            self._move_on()
        return self.position

    @activemethod  # type: ignore[untyped-decorator]
    async def window(self, last: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[str, int]]:
        """Read the newest `last` rows (None: all): times [n], values [n, k], position."""
        await self._load()
        times, values = self._ring.read(last)
        return times, values, self.position

    @activemethod  # type: ignore[untyped-decorator]
    async def info(self) -> tuple[int, int, int | None, int | None, tuple[str, int]]:
        """Tell rows, capacity, oldest and newest time in ns, position."""
        await self._load()
        ring = self._ring
        return len(ring), ring.capacity, ring.oldest, ring.newest, self.position

    @activemethod  # type: ignore[untyped-decorator]
    async def saved(self, soon: bool = False) -> tuple[str, int]:
        """Tell the position in the checkpoint before the newest: a kill and a damaged newest one leave it.

        Args:
            soon: Have the next checkpoint written now.
        """
        await self._load()
        if soon:
            get_runtime().data_manager.hurry()
        return self._epoch, self._generations[0]

    @activemethod  # type: ignore[untyped-decorator]
    async def wait(self, after: tuple[str, int], seconds: float) -> tuple[str, int] | None:
        """Wait until the position differs from `after`, at most `seconds` (and MAX_WAIT_SECONDS).

        Returns:
            The position, or None when nothing came.
        """
        await self._load()
        if self.position == tuple(after):
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.add(woken)
            try:
                await asyncio.wait_for(woken, min(seconds, MAX_WAIT_SECONDS))
            except TimeoutError:
                return None
            finally:
                self._waiters.discard(woken)
        return self.position

    @activemethod  # type: ignore[untyped-decorator]
    async def dispose(self) -> None:
        """Remove the object, its metadata and its files; the alias, if it has one, stays."""
        runtime = get_runtime()
        await runtime.data_manager.remove_object(self)
        await runtime.metadata_service.delete_object(self._dc_meta.id)

    @property
    def position(self) -> tuple[str, int]:
        """The epoch and the sequence."""
        return self._epoch, self._sequence

    @property
    def generations(self) -> tuple[int, int]:
        """The sequences of the checkpoint before the newest and of the newest; -1 for none in this epoch."""
        return self._generations

    def note_checkpoint(self, position: tuple[str, int], *, before_stays: bool) -> None:
        """Take down that a checkpoint of `position` is the newest on disk now.

        Args:
            position: Of another epoch it is left out.
            before_stays: Whether the newest one until now is on disk, too.
        """
        epoch, sequence = position
        if epoch == self._epoch:
            self._generations = (self._generations[1] if before_stays else -1, sequence)

    @property
    def _waiters(self) -> set[asyncio.Future[None]]:
        waiters: set[asyncio.Future[None]] = self.__dict__.setdefault("_woken", set())
        return waiters

    async def _load(self) -> None:
        """Load the object from disk if it is not in memory: dataClay does that for plain methods only."""
        if self._dc_is_local and not self._dc_is_loaded:
            await get_runtime().data_manager.load_object(self)

    def _move_on(self) -> None:
        self._sequence += 1
        self._wake()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
