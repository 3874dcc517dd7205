"""Checkpoints without a fleet: the data manager alone, on an event loop of the test's own."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icosfl.errors import StoreUnavailable
from icosfl.store import checkpoint
from icosfl.store.durable import DurableDataManager
from icosfl.store.model import Parcel, TimeSeriesData
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay import event_loop
    from dataclay.config import settings
    from dataclay.exceptions import ObjectNotFound, ObjectStorageError

Step = Callable[..., Coroutine[Any, Any, None]]


class Disk:
    """Stands before the real one: refuses while `full`, and holds a write back while `held`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.held = False
        self.writes = 0
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._write = checkpoint.write
        monkeypatch.setattr(checkpoint, "write", self.write)

    def write(self, path: Path, dump: Callable[[checkpoint.Sink], None]) -> bool:
        if self.full:
            raise OSError(28, "No space left on device")
        if self.held:
            self.reached.set()
            assert self.go_on.wait(60)
        self.writes += 1
        return self._write(path, dump)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Step], None]]:
    """Run a scenario with a data manager, as a backend's event loop would."""
    monkeypatch.setattr(settings, "storage_path", str(tmp_path))

    def run_(scenario: Step) -> None:
        async def on_loop() -> None:
            event_loop.set_dc_event_loop(asyncio.get_running_loop())
            await scenario(DurableDataManager(tmp_path, 0.01))

        asyncio.run(on_loop())

    yield run_
    event_loop.set_dc_event_loop(None)


def parcel(*times: int) -> Parcel:
    return Parcel(np.array(times, np.int64), np.array([[time, time] for time in times], np.float64))


def window_in(manager: DurableDataManager) -> TimeSeriesData:
    """A new window that the manager keeps, as `make_persistent` leaves it."""
    window = TimeSeriesData("timeseries", ("cpu_usage", "power"), ("%", "W"), 100)
    window._dc_is_local = window._dc_is_loaded = True
    manager.add_hard_reference(window)
    return window


def from_disk(window: TimeSeriesData) -> TimeSeriesData:
    """The same window as another process would find it."""
    other = TimeSeriesData("timeseries", ("cpu_usage", "power"), ("%", "W"), 100)
    other._dc_meta.id = window._dc_meta.id
    other._dc_is_local, other._dc_is_loaded = True, False
    return other


def times_at(path: Path) -> list[int]:
    found: list[int] = pickle.loads(path.read_bytes())[2]["times"].tolist()
    return found


async def saved(window: TimeSeriesData) -> int:
    return (await window.saved())[1]


def test_the_generation_before_the_newest_is_what_is_saved(run, disk) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        found = []
        for time in (10, 20, 30):
            await window.append(parcel(time))
            await manager.checkpoint_all()
            found.append(await saved(window))

        assert found == [-1, 1, 2]

    run(scenario)


def test_a_checkpoint_that_is_asked_for_does_not_wait_for_its_time(run, disk, tmp_path) -> None:
    async def scenario(_: DurableDataManager) -> None:
        manager = DurableDataManager(tmp_path, 3600)
        window = window_in(manager)
        await window.append(parcel(10))
        manager.start_memory_monitor()
        for newest in range(2):
            manager.hurry()
            while window.generations[1] != 1 or window.generations[0] != (1 if newest else -1):
                await asyncio.sleep(0)
        manager.stop_memory_monitor()

        assert disk.writes == 2

    run(scenario)


def test_a_window_that_did_not_change_is_not_written_again(run, disk) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        await window.append(parcel(10))
        for _ in range(3):
            await window.append(parcel(10))
            await manager.checkpoint_all()

        assert disk.writes == 1

    run(scenario)


def test_a_window_that_rests_is_written_once_more_so_that_all_of_it_is_saved(run, disk) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        await window.append(parcel(10))
        manager.start_memory_monitor()
        while await saved(window) != window.position[1]:
            await asyncio.sleep(0)
        writes = disk.writes
        for _ in range(5):
            await asyncio.sleep(0.01)
        manager.stop_memory_monitor()

        assert disk.writes == writes == 2

    run(scenario)


def test_what_comes_from_disk_has_no_generation_before_until_it_is_written_again(run, disk) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        await window.append(parcel(10))
        await manager.checkpoint_all()
        await window.append(parcel(20))
        await manager.checkpoint_all()
        again = from_disk(window)
        manager.remove_hard_reference(window)
        await manager.load_object(again)

        assert await again.saved() == (again.position[0], -1)
        assert again.position[0] != window.position[0]

        await again.append(parcel(30))
        await manager.checkpoint_all()

        assert await saved(again) == 2

    run(scenario)


def test_a_window_of_the_generation_before_a_damaged_one_has_saved_nothing_either(run, disk, tmp_path) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        for time in (10, 20):
            await window.append(parcel(time))
            await manager.checkpoint_all()
        path = tmp_path / str(window._dc_meta.id)
        path.write_bytes(path.read_bytes()[:-1])
        again = from_disk(window)
        manager.remove_hard_reference(window)
        await manager.load_object(again)

        assert (await again.window())[0].tolist() == [10]
        assert await saved(again) == -1

        await again.append(parcel(20))
        await manager.checkpoint_all()

        assert await saved(again) == 1

    run(scenario)


def test_a_write_that_fails_is_told_and_tried_again_and_saves_nothing_until_it_succeeds(run, disk, caplog) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        for time in (10, 20):
            await window.append(parcel(time))
            await manager.checkpoint_all()
        await window.append(parcel(30))
        disk.full = True
        with caplog.at_level(logging.ERROR):
            await manager.checkpoint_all()

        assert "No space left on device" in caplog.text
        assert await saved(window) == 1

        disk.full = False
        await manager.checkpoint_all()

        assert await saved(window) == 2

    run(scenario)


def test_rows_that_come_while_a_checkpoint_is_written_are_stored_and_left_to_the_next(run, disk, tmp_path) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        await window.append(parcel(10))
        disk.held = True
        writing = asyncio.create_task(manager.checkpoint_all())
        await asyncio.to_thread(disk.reached.wait)

        await window.append(parcel(20))
        assert (await window.info())[0] == 2

        disk.held = False
        disk.go_on.set()
        await writing
        path = tmp_path / str(window._dc_meta.id)
        assert times_at(path) == [10]
        assert window.generations == (-1, 1)

        await manager.checkpoint_all()
        assert times_at(path) == [10, 20]

    run(scenario)


def test_a_checkpoint_under_way_when_the_backend_stops_is_written_to_its_end(run, disk, tmp_path) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        await window.append(parcel(10))
        disk.held = True
        manager.start_memory_monitor()
        await asyncio.to_thread(disk.reached.wait)
        await window.append(parcel(20))
        manager.stop_memory_monitor()
        stopping = asyncio.create_task(manager.checkpoint_all())
        disk.held = False
        disk.go_on.set()
        await stopping

        path = tmp_path / str(window._dc_meta.id)
        assert times_at(path) == [10, 20]
        assert times_at(checkpoint.previous_of(path)) == [10]

    run(scenario)


def test_a_window_that_is_let_go_of_while_rows_come_loses_none(run, disk, monkeypatch) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        use(manager, monkeypatch)
        await window.append(parcel(10))
        disk.held = True
        unloading = asyncio.create_task(manager.unload_object(window))
        await asyncio.to_thread(disk.reached.wait)
        appending = [asyncio.create_task(window.append(parcel(time))) for time in (20, 30)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in appending)

        disk.held = False
        disk.go_on.set()
        await asyncio.gather(unloading, *appending)

        assert (await window.window())[0].tolist() == [10, 20, 30]

    run(scenario)


def test_a_window_that_cannot_be_written_is_not_let_go_of(run, disk, monkeypatch) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        use(manager, monkeypatch)
        await window.append(parcel(10))
        disk.full = True

        with pytest.raises(ObjectStorageError):
            await manager.unload_object(window)

        epoch = window.position[0]
        await window.append(parcel(20))
        assert (await window.window())[0].tolist() == [10, 20]
        assert window.position[0] == epoch

    run(scenario)


def test_a_window_whose_directory_was_emptied_is_written_again(run, disk, tmp_path) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = window_in(manager)
        for time in (10, 20):
            await window.append(parcel(time))
            await manager.checkpoint_all()
        for path in tmp_path.iterdir():
            path.unlink()
        await manager.checkpoint_all()

        assert times_at(tmp_path / str(window._dc_meta.id)) == [10, 20]
        assert await saved(window) == -1

    run(scenario)


def test_a_whole_file_that_this_release_cannot_load_is_no_lost_window(run, disk, tmp_path) -> None:
    async def scenario(manager: DurableDataManager) -> None:
        window = from_disk(window_in(manager))
        manager.loaded_objects.clear()
        path = tmp_path / str(window._dc_meta.id)
        checkpoint.write(path, lambda sink: sink.write(b"cgone.module\nClass\n."))

        with pytest.raises(StoreUnavailable, match=r"whole but cannot be loaded.*gone"):
            await manager.load_object(window)

        path.unlink()
        with pytest.raises(ObjectNotFound):
            await manager.load_object(window)

    run(scenario)


def use(manager: DurableDataManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the window find the manager as it does in a backend."""
    runtime = type("Runtime", (), {"data_manager": manager})
    monkeypatch.setattr("icosfl.store.model.get_runtime", lambda: runtime)
