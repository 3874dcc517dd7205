"""A bridge on free loopback ports over a store in memory that can be made to fail or to wait, or to be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from icosfl.bridge import Bridge
from icosfl.config import (
    BridgeConfig,
    Endpoint,
    RuleConfig,
    SenderLimits,
    SeriesConfig,
    SourceConfig,
    SpoolConfig,
    StoreConfig,
    schema_of,
)
from icosfl.errors import StoreUnavailable
from icosfl.schema import Rows
from icosfl.store import Position, SeriesStore, StoreInfo
from icosfl.store.memory import MemoryStore
from support.rows import rows_once

SERIES = (
    SeriesConfig("cpu_usage", "%"),
    SeriesConfig("memory_usage", "MiBy"),
    SeriesConfig("load_1m", "1"),
    SeriesConfig("power", "W"),
)
MEBI = 2.0**-20
RULES = (
    RuleConfig(
        name="host",
        match={"service.name": "host"},
        sources=(
            SourceConfig("cpu_usage", "system.cpu.utilization", scale=100),
            SourceConfig("memory_usage", "system.memory.usage", scale=MEBI, attributes={"state": "used"}),
            SourceConfig("load_1m", "system.load"),
        ),
    ),
    RuleConfig(
        name="scaphandre",
        match={"service.name": "scaphandre"},
        sources=(
            SourceConfig("memory_usage", "total", minus="available", scale=MEBI),
            SourceConfig("power", "microwatts", scale=1e-6),
        ),
    ),
)
CONFIG = BridgeConfig(
    listen=Endpoint("127.0.0.1", 0),
    metrics_listen=Endpoint("127.0.0.1", 0),
    row_tolerance_seconds=0.5,
    future_tolerance_seconds=60,
    retry_seconds=0.05,
    drain_seconds=10,
    max_message_bytes=4 * 2**20,
    spool=SpoolConfig(Path("set by the fixture"), 2**20, "always", 1.0),
    limits=SenderLimits(1e9, 1e12, 1.0, 100),
    store=StoreConfig("memory", "rows", 1000, 5, Endpoint("127.0.0.1", 1), "local", "user", "word"),
    series=SERIES,
    rules=RULES,
    log_level="info",
)


class MoodyStore(MemoryStore):
    """A store that is down while `down` is set, and whose appends wait until `open` is set.

    What outlives its being killed is what it said it would; until `saving` is set, or it is to save soon, nothing does.
    """

    def __init__(self) -> None:
        super().__init__(schema_of(SERIES), 1000)
        self.down = Event()
        self.open = Event()
        self.open.set()
        self.asked = Event()
        self.saving = Event()
        self.saving.set()
        self.appends = 0

    def append(self, rows: Rows) -> Position:
        self.asked.set()
        assert self.open.wait(30)
        self._check_up()
        self.appends += 1
        return super().append(rows)

    def info(self) -> StoreInfo:
        self._check_up()
        return super().info()

    def saved(self, *, soon: bool = False) -> Position:
        self._check_up()
        if soon:
            self.saving.set()
        position = super().saved()
        return position if self.saving.is_set() else Position(position.epoch, -1)

    def be_killed(self) -> None:
        """Lose all rows, and begin a new epoch."""
        fresh = MemoryStore(self.schema, 1000)
        with self._changed:
            self._ring, self._position = fresh._ring, fresh._position
            self._changed.notify_all()

    def until(self, rows: int) -> Rows:
        """The window as soon as it has so many rows."""
        return rows_once(self, rows)

    def _check_up(self) -> None:
        if self.down.is_set():
            raise StoreUnavailable("the store is down", cure="wait")


@pytest.fixture
def store() -> MoodyStore:
    return MoodyStore()


@pytest.fixture
def config(tmp_path: Path) -> BridgeConfig:
    return replace(CONFIG, spool=replace(CONFIG.spool, directory=tmp_path / "spool"))


@pytest.fixture
def start() -> Iterator[Callable[[BridgeConfig, Callable[[], SeriesStore]], Bridge]]:
    with ExitStack() as running:

        def begin(config: BridgeConfig, open_store: Callable[[], SeriesStore]) -> Bridge:
            bridge = Bridge(config, open_store)
            bridge.start()
            running.callback(bridge.stop)
            return bridge

        yield begin


@pytest.fixture
def bridge(
    start: Callable[[BridgeConfig, Callable[[], SeriesStore]], Bridge], config: BridgeConfig, store: MoodyStore
) -> Bridge:
    return start(config, lambda: store)
