"""A store under load: a million rows, a checkpoint that takes its time, two writers and many who wait."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from icosfl.schema import Rows
from icosfl.store import Position, SeriesStore, open_store
from support.dataclay_stack import DataclayStack
from support.store_contract import SCHEMA, rows, saved_up_to

MILLION = 1_000_000


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[DataclayStack]:
    """A stack of this module's own, whose backend holds a million rows."""
    stack = DataclayStack(tmp_path_factory.mktemp("large"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture(scope="module")
def everything() -> Rows:
    values = np.random.default_rng(1).normal(size=(MILLION, 2))
    return Rows(np.arange(MILLION, dtype=np.int64), values)


@pytest.fixture(scope="module")
def store(stack, everything) -> Iterator[SeriesStore]:
    """A store that holds and has saved a million rows."""
    with open_store(stack.store_config("large", capacity=MILLION), SCHEMA) as store:
        for start in range(0, MILLION, 100_000):
            part = slice(start, start + 100_000)
            position = store.append(Rows(everything.times[part], everything.values[part]))
        saved_up_to(store, position)
        yield store


def only_object_of(stack: DataclayStack) -> Path:
    (path,) = stack.storage_dir.glob("*-*-*-*-????????????")
    return path


def test_a_million_rows_outlive_a_kill_and_come_in_one_call(stack, store, everything) -> None:
    before = store.info().position
    stack.kill("backend")
    stack.start_again("backend")

    window = store.window()

    np.testing.assert_array_equal(window.rows.times, everything.times)
    np.testing.assert_array_equal(window.rows.values, everything.values)
    assert window.position.epoch != before.epoch
    assert window.position.sequence == before.sequence
    assert store.window(3).rows.times.tolist() == [MILLION - 3, MILLION - 2, MILLION - 1]


def test_a_backend_answers_and_stores_while_it_writes_a_checkpoint(stack, store) -> None:
    """The checkpoint goes into a pipe that the test reads as slowly as it likes, and which cannot be made durable."""
    first = saved_up_to(store, store.info().position)
    pipe = only_object_of(stack).with_suffix(".new")
    os.mkfifo(pipe)
    store.append(rows(MILLION))
    with pipe.open("rb") as reader:
        content = reader.read(1000)  # the backend is in the middle of writing now, and stays there

        assert store.info().newest == MILLION
        after = store.append(rows(MILLION + 1))
        assert store.window(2).rows.times.tolist() == [MILLION, MILLION + 1]
        assert store.saved() == first

        content += reader.read()
    pipe.unlink(missing_ok=True)  # a checkpoint that fails takes it away

    times = pickle.loads(content)[2]["times"]
    assert (len(times), times[-1]) == (MILLION, MILLION)
    assert saved_up_to(store, after) == after
    assert "cannot write" in stack.services["backend"].log.read_text()


def test_two_processes_write_while_a_hundred_wait_and_nobody_starves(stack) -> None:
    writers, appends, batch, waiters = 2, 10, 50, 100
    config = stack.store_config("busy", capacity=10_000)
    with open_store(config, SCHEMA) as store, ThreadPoolExecutor(waiters) as pool:
        start = store.info().position
        last = Position(start.epoch, start.sequence + writers * appends)
        waiting = threading.Barrier(waiters + 1)

        def follow(_: int) -> list[int]:
            """Wait for every change until the last one; return the sequences that were seen."""
            seen, position = [start.sequence], start
            waiting.wait()
            while position != last:
                found = store.wait(position, timeout=60)
                assert found is not None
                position = found
                seen.append(position.sequence)
            return seen

        following = [pool.submit(follow, number) for number in range(waiters)]
        waiting.wait()
        processes = [write_in_a_process(stack, "busy", number, writers, appends, batch) for number in range(writers)]
        codes = [process.wait(60) for process in processes]
        seen = [one.result(60) for one in following]

        assert codes == [0] * writers
        assert store.window().rows.times.tolist() == list(range(writers * appends * batch))
        assert all(sequences == sorted(set(sequences)) for sequences in seen)


def write_in_a_process(
    stack: DataclayStack, alias: str, number: int, writers: int, appends: int, batch: int
) -> subprocess.Popen[bytes]:
    """Append rows whose times leave `number` when divided by the number of writers."""
    program = f"""
    import numpy as np
    from icosfl.config import Endpoint, StoreConfig
    from icosfl.schema import Rows, Schema, Series
    from icosfl.store import open_store

    with open_store({stack.store_config(alias, capacity=10_000)!r}, {SCHEMA!r}) as store:
        for first in range(0, {appends * batch}, {batch}):
            times = np.arange(first, first + {batch}, dtype=np.int64) * {writers} + {number}
            store.append(Rows(times, np.ones((len(times), 2))))
    """
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", dedent(program)])


def test_who_cannot_wait_for_the_next_checkpoint_has_it_written_now(stack, store) -> None:
    text = stack.config_path.read_text(encoding="utf-8")
    stack.config_path.write_text(
        text.replace("checkpoint_seconds = 0.3", "checkpoint_seconds = 3600.0"), encoding="utf-8"
    )
    assert stack.config_path.read_text(encoding="utf-8") != text
    stack.restart("backend")
    after = store.append(rows(MILLION + 10))

    while store.saved(soon=True) != after:
        assert store.saved().epoch == after.epoch
