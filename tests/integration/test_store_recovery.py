"""What a store's user sees when parts of it are killed: nothing, or StoreUnavailable for a while. Never a person."""

from __future__ import annotations

import itertools
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icosfl.errors import StoreUnavailable
from icosfl.fleet.grpc_health import serving_status
from icosfl.store import SeriesStore, open_store
from icosfl.store.checkpoint import previous_of
from support.dataclay_stack import DataclayStack, through_proxy
from support.store_contract import SCHEMA, rows, saved_up_to

numbers = itertools.count()


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[DataclayStack]:
    """A stack of this module's own: others need not see it die."""
    stack = DataclayStack(tmp_path_factory.mktemp("fragile"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def alias() -> str:
    return f"fragile-{next(numbers)}"


@pytest.fixture
def store(stack, alias) -> Iterator[SeriesStore]:
    """A store that holds rows 10 and 20, also in a checkpoint."""
    with open_store(stack.store_config(alias), SCHEMA) as store:
        store.append(rows(10, 20))
        wait_for_checkpoint(stack, alias, newest=20)
        yield store


def objects_of(stack: DataclayStack, alias: str) -> dict[Path, list[int]]:
    """The checkpoints of the object called by the alias, and the times of the rows in each."""
    found = {}
    for path in stack.storage_dir.glob("*-*-*-*-????????????"):
        state = pickle.loads(path.read_bytes())[2]
        if state["alias"] == alias:
            found[path] = state["times"].tolist()
    return found


def wait_for_checkpoint(stack: DataclayStack, alias: str, newest: int) -> Path:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            for path, times in objects_of(stack, alias).items():
                if times and times[-1] == newest:
                    return path
        except FileNotFoundError:  # it is just being replaced
            continue
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint with a row at {newest}: {objects_of(stack, alias)}")


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_backend_comes_back_with_the_rows_of_its_last_checkpoint(stack, store) -> None:
    before = store.append(rows(30))
    stack.kill("backend")
    stack.start_again("backend")

    assert store.window().rows.times.tolist() in ([10, 20], [10, 20, 30])
    after = store.append(rows(30, 40))
    assert store.window().rows.times.tolist() == [10, 20, 30, 40]
    assert after.epoch != before.epoch


def test_a_call_that_meets_a_restarting_backend_waits_for_it(stack, store) -> None:
    stack.kill("backend")
    restart = threading.Timer(0.5, stack.start_again, ["backend"])
    restart.start()

    assert store.info().rows == 2
    restart.join()


def test_a_backend_that_stops_in_peace_loses_no_row(stack, store) -> None:
    store.append(rows(30))
    stack.restart("backend")

    assert store.window().rows.times.tolist() == [10, 20, 30]


def test_the_proxy_follows_a_backend_and_a_metadata_service_that_start_again(stack, store, alias) -> None:
    use = f"""
        store = TimeSeriesData.get_by_alias("{alias}")
        assert (await store.window())[0].tolist() == [10, 20]
        """
    through_proxy(stack, use)

    for name in ("backend", "metadata"):
        stack.kill(name)
        stack.start_again(name)

        through_proxy(stack, use)


def test_those_who_wait_notice_a_restart_and_do_not_keep_the_backend_from_stopping(stack, store) -> None:
    before = store.info().position
    restart = threading.Timer(0.2, stack.restart, ["backend"])
    restart.start()

    after = store.wait(before, timeout=60)

    assert after is not None
    assert after.epoch != before.epoch
    restart.join()


def test_rows_can_be_stored_while_the_metadata_service_is_dead_and_after_it_is_back(stack, store, alias) -> None:
    stack.kill("metadata")

    store.append(rows(30))
    restart = threading.Timer(0.3, stack.start_again, ["metadata"])
    restart.start()
    with open_store(stack.store_config(alias), SCHEMA) as newcomer:
        assert newcomer.window().rows.times.tolist() == [10, 20, 30]
    restart.join()


def test_after_a_redis_kill_the_services_start_anew_and_find_each_other(stack, store, alias) -> None:
    starts = {name: stack.services[name].starts for name in ("metadata", "backend")}
    stack.kill("redis")

    store.append(rows(30))
    stack.start_again("redis")
    for name, number in starts.items():
        stack.services[name].wait_for_start(number + 1)

    assert store.window().rows.times.tolist() == [10, 20, 30]
    with open_store(stack.store_config(alias), SCHEMA) as newcomer:
        assert newcomer.window().rows.times.tolist() == [10, 20, 30]


def test_a_backend_answers_from_memory_and_stays_healthy_while_redis_is_away(stack, store) -> None:
    starts = {name: stack.services[name].starts for name in ("metadata", "backend")}
    endpoint = stack.endpoints["backend"]
    wait_until(lambda: serving_status(endpoint.host, endpoint.port, "", 20) == "SERVING")
    log = stack.services["backend"].log
    told = log.stat().st_size
    stack.kill("redis")
    wait_until(lambda: b"is away" in log.read_bytes()[told:])

    store.append(rows(30))

    assert store.window().rows.times.tolist() == [10, 20, 30]
    assert serving_status(endpoint.host, endpoint.port, "", 20) == "SERVING"
    assert stack.services["backend"].starts == starts["backend"]
    stack.start_again("redis")
    for name, number in starts.items():
        stack.services[name].wait_for_start(number + 1)


def test_a_redis_that_lost_everything_is_told_again_what_the_backend_holds(stack, store, alias) -> None:
    starts = {name: stack.services[name].starts for name in ("metadata", "backend")}
    stack.kill("redis")
    shutil.rmtree(stack.directory / "redis" / "appendonlydir")
    stack.start_again("redis")
    for name, number in starts.items():
        stack.services[name].wait_for_start(number + 1)

    with open_store(stack.store_config(alias), SCHEMA) as newcomer:
        assert newcomer.window().rows.times.tolist() == [10, 20]
        store.append(rows(30))
        assert newcomer.window().rows.times.tolist() == [10, 20, 30]


def test_a_store_whose_rows_are_lost_begins_again_empty_in_another_epoch(stack, store, alias) -> None:
    before = store.info().position
    stack.kill("backend")
    for path in objects_of(stack, alias):
        for file in stack.storage_dir.glob(f"{path.name}*"):
            file.unlink()
    stack.start_again("backend")

    after = store.append(rows(50))

    assert store.window().rows.times.tolist() == [50]
    assert after.epoch != before.epoch


def test_a_window_that_is_made_anew_is_logged_by_whoever_makes_it(stack, caplog) -> None:
    caplog.set_level("INFO", "icosfl.store.link")
    for _ in range(2):
        with open_store(stack.store_config("anew"), SCHEMA) as store:
            store.info()

    assert caplog.text.count("the window anew is made anew, without rows") == 1


def damage_newest(stack: DataclayStack, alias: str) -> list[int]:
    """Cut off the newest checkpoint of a backend that is down; return the times in the one before it."""
    (path,) = objects_of(stack, alias)
    path.write_bytes(path.read_bytes()[:-200])
    times: list[int] = pickle.loads(previous_of(path).read_bytes())[2]["times"].tolist()
    return times


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_used(stack, store, alias) -> None:
    store.append(rows(30))
    path = wait_for_checkpoint(stack, alias, newest=30)
    stack.kill("backend")
    before = damage_newest(stack, alias)
    stack.start_again("backend")

    assert before in ([10, 20], [10, 20, 30])
    assert store.window().rows.times.tolist() == before
    assert path.with_name(f"{path.name}.damaged").exists()


def test_what_is_saved_outlives_a_kill_and_a_damaged_checkpoint_after_it(stack, store, alias) -> None:
    stored = store.append(rows(30))
    saved_up_to(store, stored)
    store.append(rows(40))
    wait_for_checkpoint(stack, alias, newest=40)
    stack.kill("backend")
    damage_newest(stack, alias)
    stack.start_again("backend")

    assert store.window().rows.times.tolist()[:3] == [10, 20, 30]
    again = store.append(rows(40, 50))
    assert again.epoch != stored.epoch
    assert saved_up_to(store, again) == again
    assert store.window().rows.times.tolist() == [10, 20, 30, 40, 50]


def test_a_backend_whose_directory_was_emptied_is_found_under_its_old_id(stack, store) -> None:
    stack.kill("backend")
    shutil.rmtree(stack.storage_dir)
    stack.start_again("backend")

    store.append(rows(50))

    assert store.window().rows.times.tolist() == [50]


@pytest.mark.parametrize("name", ["backend", "metadata"])
def test_a_silent_service_makes_the_store_unavailable_and_then_available_again(stack, alias, name) -> None:
    with open_store(stack.store_config(alias, deadline_seconds=0.5), SCHEMA) as store:
        stack.services[name].freeze()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match=alias):
                    store.append(rows(10))
        finally:
            stack.services[name].thaw()

        stack.services[name].wait_until_it_listens()
        with open_store(stack.store_config(alias), SCHEMA) as patient:
            patient.info()
        store.append(rows(20))
        assert store.info().newest == 20


def test_the_services_end_in_peace_when_they_are_asked_to(stack, store) -> None:
    codes = {name: stack.services[name].end(signal.SIGTERM) for name in ("proxy", "backend", "metadata")}
    for name in ("metadata", "backend", "proxy"):
        stack.start_again(name)

    assert codes == {"proxy": 0, "backend": 0, "metadata": 0}
    assert store.window().rows.times.tolist() == [10, 20]
