"""What every store promises: one test class for all of them, with the fixture `store` (capacity 5, schema `SCHEMA`)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from icosfl.errors import SchemaMismatch, StoreUnavailable
from icosfl.schema import Rows, Schema, Series
from icosfl.store import Position, SeriesStore

SCHEMA = Schema((Series("cpu_usage", "%"), Series("power", "W")))
CAPACITY = 5
NAN = math.nan


def rows(*times: int, values: list[list[float]] | None = None) -> Rows:
    """Rows at `times`; each value is its row's time unless `values` says otherwise."""
    columns = [[float(time)] * 2 for time in times] if values is None else values
    return Rows(np.array(times, np.int64), np.array(columns, np.float64).reshape(-1, 2))


@contextmanager
def soon(action: Callable[..., object], *arguments: object) -> Iterator[None]:
    """Do something a moment after the block has begun, most likely when it waits in its store."""
    timer = threading.Timer(0.1, action, arguments)
    timer.start()
    yield
    timer.join()


def saved_up_to(store: SeriesStore, position: Position, seconds: float = 30) -> Position:
    """Wait until a store has saved a position of its epoch; return what it has saved then."""
    end = time.monotonic() + seconds
    while (saved := store.saved()).sequence < position.sequence or saved.epoch != position.epoch:
        assert time.monotonic() < end, f"{saved} is saved, not {position}"
        time.sleep(0.02)
    return saved


class StoreContract:
    """Derive from it, and define the fixture `store`: open and empty."""

    def test_a_new_store_is_empty(self, store: SeriesStore) -> None:
        info, window = store.info(), store.window()

        assert (info.rows, info.capacity, info.oldest, info.newest) == (0, CAPACITY, None, None)
        assert window.rows.times.shape == (0,)
        assert window.rows.values.shape == (0, 2)

    def test_appended_rows_are_read_back_as_they_were(self, store: SeriesStore) -> None:
        sent = rows(10, 20, values=[[1.5, NAN], [math.inf, -2.0]])

        position = store.append(sent)

        window = store.window()
        np.testing.assert_array_equal(window.rows.times, sent.times)
        np.testing.assert_array_equal(window.rows.values, sent.values)
        assert window.position == position == store.info().position

    def test_the_window_keeps_the_newest_rows_only(self, store: SeriesStore) -> None:
        store.append(rows(*range(0, 40, 10)))
        store.append(rows(*range(40, 80, 10)))

        assert store.window().rows.times.tolist() == [30, 40, 50, 60, 70]
        assert store.window(2).rows.times.tolist() == [60, 70]
        assert (store.info().oldest, store.info().newest) == (30, 70)

    def test_a_late_row_is_put_in_its_place_and_a_too_late_one_is_left_out(self, store: SeriesStore) -> None:
        store.append(rows(10, 20, 40, 50, 60))

        store.append(rows(5, 30))

        assert store.window().rows.times.tolist() == [20, 30, 40, 50, 60]

    def test_two_rows_of_one_time_become_one(self, store: SeriesStore) -> None:
        store.append(rows(10, values=[[1.0, NAN]]))
        store.append(rows(10, values=[[NAN, 2.0]]))

        assert store.window().rows.values.tolist() == [[1.0, 2.0]]

    def test_the_position_moves_with_the_window_and_only_then(self, store: SeriesStore) -> None:
        start = store.info().position
        first = store.append(rows(10))
        again = store.append(rows(10))
        second = store.append(rows(20))

        assert first.epoch == start.epoch
        assert start.sequence < first.sequence == again.sequence < second.sequence

    def test_appending_no_rows_changes_nothing(self, store: SeriesStore) -> None:
        before = store.append(rows(10))

        assert store.append(Rows.empty(2)) == before

    def test_rows_of_another_width_are_refused_and_nothing_is_stored(self, store: SeriesStore) -> None:
        with pytest.raises(SchemaMismatch, match="cpu_usage"):
            store.append(Rows(np.array([1], np.int64), np.zeros((1, 3))))

        assert store.info().rows == 0

    def test_what_was_read_belongs_to_the_reader(self, store: SeriesStore) -> None:
        store.append(rows(10))
        store.window().rows.values[:] = 99.0

        assert store.window().rows.values.tolist() == [[10.0, 10.0]]

    def test_waiting_ends_with_the_new_position_when_rows_come(self, store: SeriesStore) -> None:
        before = store.append(rows(10))

        with soon(store.append, rows(20)):
            found = store.wait(before, timeout=30)

        assert found == store.info().position != before

    def test_waiting_for_a_position_that_is_past_returns_at_once(self, store: SeriesStore) -> None:
        before = store.info().position
        position = store.append(rows(10))

        assert store.wait(before, timeout=30) == position
        assert store.wait(Position("another-epoch", position.sequence), timeout=30) == position

    def test_waiting_ends_with_none_when_nothing_comes(self, store: SeriesStore) -> None:
        assert store.wait(store.info().position, timeout=0.05) is None
        assert store.wait(store.info().position, timeout=0) is None

    def test_many_waiters_do_not_keep_a_writer_or_each_other_waiting(self, store: SeriesStore) -> None:
        before = store.info().position

        with ThreadPoolExecutor(40) as pool, soon(store.append, rows(10)):
            found = list(pool.map(lambda _: store.wait(before, timeout=30), range(40)))

        assert found == [store.info().position] * 40

    def test_many_threads_may_append_at_once_and_no_row_is_lost(self, store: SeriesStore) -> None:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(lambda time: store.append(rows(time)), [5, 4, 3, 2, 1]))

        assert store.window().rows.times.tolist() == [1, 2, 3, 4, 5]

    def test_what_was_stored_is_saved_after_a_while_and_not_before_it_is_stored(self, store: SeriesStore) -> None:
        before = store.saved()
        stored = store.append(rows(10))

        assert before.epoch == stored.epoch
        assert before.sequence < stored.sequence
        assert saved_up_to(store, stored) == stored

    def test_a_closed_store_refuses_calls_and_may_be_closed_again(self, store: SeriesStore) -> None:
        store.close()
        store.close()

        with pytest.raises(StoreUnavailable, match="closed"):
            store.info()

    def test_closing_a_store_ends_those_who_wait_in_it(self, store: SeriesStore) -> None:
        before = store.info().position

        with soon(store.close), pytest.raises(StoreUnavailable, match="closed"):
            store.wait(before, timeout=60)
