"""How the spool's records become the store's rows, and how far the store is with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from icosfl.bridge.forward import backoff
from icosfl.bridge.forward_progress import Progress
from icosfl.bridge.forward_rows import merge
from icosfl.schema import Rows, Schema, Series
from icosfl.store import Position
from icosfl.store.memory import MemoryStore

SCHEMA = Schema((Series("a", "1"), Series("b", "1")))
NAN = math.nan


def rows(*content: tuple[int, float, float]) -> Rows:
    times = np.array([time for time, *_ in content], np.int64)
    return Rows(times, np.array([values for _, *values in content], np.float64).reshape(len(content), 2))


def at(sequence: int, epoch: str = "first") -> Position:
    return Position(epoch, sequence)


def test_one_part_stays_what_it_is() -> None:
    part = rows((1, 1.0, 2.0))

    assert merge([part]) is part


def test_parts_in_the_order_of_time_are_put_one_behind_the_other() -> None:
    merged = merge([rows((1, 1, NAN), (2, 2, 2)), rows((3, NAN, 3))])

    assert_array_equal(merged.times, [1, 2, 3])
    assert_array_equal(merged.values, [[1, NAN], [2, 2], [NAN, 3]])


def test_the_later_value_of_a_time_wins_and_nan_brings_none() -> None:
    merged = merge([rows((2, 1, 1)), rows((2, NAN, 5), (4, 4, NAN)), rows((1, 9, 9), (2, 7, NAN))])

    assert_array_equal(merged.times, [1, 2, 4])
    assert_array_equal(merged.values, [[9, 9], [7, 5], [4, NAN]])


values = st.one_of(st.just(NAN), st.integers(0, 9).map(float))
parts = st.dictionaries(st.integers(0, 12), st.tuples(values, values), max_size=6).map(
    lambda content: rows(*((time, *content[time]) for time in sorted(content)))
)


@given(before=st.lists(parts, max_size=3), later=st.lists(parts, min_size=1, max_size=6), capacity=st.integers(1, 8))
def test_a_store_takes_merged_parts_as_it_takes_one_after_the_other(
    before: list[Rows], later: list[Rows], capacity: int
) -> None:
    one_by_one, at_once = MemoryStore(SCHEMA, capacity), MemoryStore(SCHEMA, capacity)
    for part in before:
        one_by_one.append(part)
        at_once.append(part)

    for part in later:
        one_by_one.append(part)
    at_once.append(merge(later))

    expected, found = one_by_one.window().rows, at_once.window().rows
    assert_array_equal(found.times, expected.times)
    assert_array_equal(found.values, expected.values)


def test_records_are_handed_over_from_the_oldest_that_the_spool_has() -> None:
    progress = Progress(7)

    assert (progress.handed, progress.saved, progress.unsaved) == (7, 7, False)


def test_what_is_handed_over_is_unsaved_until_the_store_has_saved_so_far() -> None:
    progress = Progress(0)
    assert progress.note_handed(3, at(1))
    assert progress.note_handed(5, at(2))
    assert (progress.handed, progress.saved) == (5, 0)

    assert progress.note_saved(at(-1))
    assert progress.saved == 0
    assert progress.note_saved(at(1))
    assert progress.saved == 3
    assert progress.unsaved
    assert progress.note_saved(at(2))
    assert (progress.saved, progress.unsaved) == (5, False)


def test_records_that_changed_nothing_are_saved_with_the_rows_that_were_there() -> None:
    progress = Progress(0)
    progress.note_handed(1, at(4))
    progress.note_handed(2, at(4))

    progress.note_saved(at(3))
    assert progress.saved == 0
    progress.note_saved(at(4))
    assert progress.saved == 2


def test_a_killed_store_gets_everything_again_that_was_not_saved() -> None:
    progress = Progress(0)
    progress.note_handed(3, at(1))
    progress.note_handed(5, at(2))
    progress.note_saved(at(1))

    assert not progress.note_epoch(at(1, "second"))

    assert (progress.handed, progress.saved, progress.unsaved) == (3, 3, False)


def test_a_store_that_was_killed_before_it_took_the_last_records_gets_them_and_those_before_again() -> None:
    progress = Progress(0)
    progress.note_handed(3, at(8))

    assert not progress.note_handed(5, at(2, "second"))

    assert progress.handed == 0
    assert progress.note_handed(5, at(3, "second"))
    assert progress.note_saved(at(3, "second"))
    assert progress.saved == 5


def test_a_store_that_was_killed_before_it_was_asked_what_is_saved_saved_nothing_of_the_old_epoch() -> None:
    progress = Progress(0)
    progress.note_handed(3, at(1))

    assert not progress.note_saved(at(9, "second"))

    assert (progress.handed, progress.saved) == (0, 0)


def test_a_store_that_was_killed_when_all_was_saved_gets_only_what_is_new() -> None:
    progress = Progress(0)
    progress.note_handed(3, at(1))
    progress.note_saved(at(1))

    assert progress.note_epoch(at(0, "second"))
    assert progress.note_handed(4, at(1, "third"))

    assert (progress.handed, progress.saved) == (4, 3)


class Life:
    """A store that is killed now and then, and a spool, as `Progress` is to keep them together."""

    def __init__(self) -> None:
        self.last = 0
        self.progress = Progress(0)
        self.epoch = 0
        self.held: list[set[int]] = [set()]  # the records in the store, at each sequence
        self.safe = 0  # the sequence that outlives every kill
        self.said = -1  # and what the store says of it in this epoch

    def append(self, count: int) -> None:
        self.last += count

    def hand(self, count: int) -> None:
        number = min(self.progress.handed + count, self.last)
        records = set(range(self.progress.handed + 1, number + 1))
        if records:
            if not records <= self.held[-1]:
                self.held.append(self.held[-1] | records)
            self.progress.note_handed(number, self.position)

    def save(self, behind: int) -> None:
        self.safe = self.said = max(self.safe, len(self.held) - behind)

    def ask(self, _: int) -> None:
        self.progress.note_saved(at(self.said, str(self.epoch)))

    def look(self, _: int) -> None:
        self.progress.note_epoch(self.position)

    def kill(self, luck: int) -> None:
        """It comes back with what is safe, or with a bit more, and goes on from there."""
        self.held = self.held[: self.safe + luck]
        self.epoch, self.said = self.epoch + 1, -1

    @property
    def position(self) -> Position:
        return at(len(self.held) - 1, str(self.epoch))

    @property
    def lost(self) -> set[int]:
        """The records that neither the spool nor the store has."""
        return set(range(1, self.progress.saved + 1)) - self.held[-1]


STEPS = ("append", "hand", "save", "ask", "look", "kill")


@settings(max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 3)), max_size=40))
def test_however_often_the_store_is_killed_no_record_is_lost_and_in_the_end_it_has_all(
    steps: list[tuple[str, int]],
) -> None:
    life = Life()
    for step, count in steps:
        getattr(life, step)(count)
        assert not life.lost

    life.look(0)
    while life.progress.handed < life.last:
        life.hand(2)
    assert life.held[-1] == set(range(1, life.last + 1))
    life.save(1)
    life.ask(0)
    assert life.progress.saved == life.last


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.125), (2, 0.25), (4, 1.0), (5, 2.0), (6, 2.0), (5000, 2.0)])
def test_pauses_double_up_to_the_longest(failures: int, seconds: float) -> None:
    assert backoff(failures, 2.0) == seconds
