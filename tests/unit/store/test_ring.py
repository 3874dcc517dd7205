from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.store.ring import Ring

NAN = math.nan


class NaiveWindow:
    """What a ring promises, written as plainly as possible: one row after the other, in a dict."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.rows: dict[int, tuple[float, ...]] = {}

    def append(self, rows: dict[int, tuple[float, ...]]) -> bool:
        before = {time: tuple(map(repr, row)) for time, row in self.rows.items()}
        for time, row in sorted(rows.items()):
            if len(self.rows) == self.capacity and time < min(self.rows):
                continue
            old = self.rows.get(time, (NAN,) * len(row))
            self.rows[time] = tuple(o if math.isnan(v) else v for o, v in zip(old, row, strict=True))
            if len(self.rows) > self.capacity:
                del self.rows[min(self.rows)]
        return before != {time: tuple(map(repr, row)) for time, row in self.rows.items()}


def arrays(rows: dict[int, tuple[float, ...]], width: int = 2) -> tuple[np.ndarray, np.ndarray]:
    times = sorted(rows)
    return np.array(times, np.int64), np.array([rows[time] for time in times], np.float64).reshape(-1, width)


def as_dict(ring: Ring) -> dict[int, tuple[float, ...]]:
    times, values = ring.read()
    return {int(time): tuple(row) for time, row in zip(times, values.tolist(), strict=True)}


values = st.sampled_from([NAN, 0.0, 1.0, 2.5, -1.0, math.inf])
batches = st.dictionaries(st.integers(0, 30), st.tuples(values, values), max_size=12)


@given(st.integers(1, 9), st.lists(batches, max_size=12))
def test_a_ring_holds_what_a_dict_of_the_newest_rows_would(capacity, appended) -> None:
    ring, naive = Ring(capacity, 2), NaiveWindow(capacity)

    for rows in appended:
        changed = ring.append(*arrays(rows))

        assert changed == naive.append(rows)
        times, kept = ring.read()
        np.testing.assert_array_equal(times, sorted(naive.rows))
        np.testing.assert_array_equal(kept, np.array([naive.rows[time] for time in sorted(naive.rows)]).reshape(-1, 2))


@given(st.integers(1, 5), st.lists(st.integers(1, 12), max_size=20))
def test_rows_that_come_in_order_slide_through_the_window(capacity, sizes) -> None:
    ring, total = Ring(capacity, 1), 0

    for size in sizes:
        times = np.arange(total, total + size, dtype=np.int64)
        ring.append(times, times.astype(np.float64)[:, None])
        total += size

    assert list(as_dict(ring)) == list(range(max(total - capacity, 0), total))
    assert all(value == (float(time),) for time, value in as_dict(ring).items())


@given(st.integers(1, 8), st.integers(1, 8), batches)
def test_resizing_keeps_the_newest_rows_and_goes_on(capacity, resized, rows) -> None:
    ring = Ring(capacity, 2)
    ring.append(*arrays(rows))
    kept = list(as_dict(ring))[-resized:]

    ring.resize(resized)
    after_resizing = list(as_dict(ring))
    ring.append(*arrays({100: (1.0, 2.0)}))

    assert after_resizing == kept
    assert list(as_dict(ring)) == [*kept, 100][-resized:]
    assert ring.capacity == resized


def test_a_later_value_of_the_same_time_replaces_the_earlier_one() -> None:
    ring = Ring(4, 2)
    ring.append(*arrays({10: (1.0, NAN), 20: (2.0, 2.0)}))

    changed = ring.append(*arrays({10: (5.0, 6.0), 20: (NAN, NAN)}))

    assert changed
    assert as_dict(ring) == {10: (5.0, 6.0), 20: (2.0, 2.0)}


def test_rows_that_bring_nothing_new_change_nothing() -> None:
    ring = Ring(2, 2)
    ring.append(*arrays({10: (1.0, NAN), 20: (2.0, 2.0)}))

    assert not ring.append(*arrays({10: (1.0, NAN), 20: (NAN, 2.0)}))
    assert not ring.append(*arrays({5: (1.0, 1.0)}))
    assert not ring.append(*arrays({}))


def test_what_was_read_does_not_change_with_the_window() -> None:
    ring = Ring(2, 2)
    ring.append(*arrays({10: (1.0, 1.0), 20: (2.0, 2.0)}))

    times, kept = ring.read()
    ring.append(*arrays({20: (9.0, 9.0), 30: (3.0, 3.0)}))

    assert times.tolist() == [10, 20]
    assert kept.tolist() == [[1.0, 1.0], [2.0, 2.0]]


def test_the_newest_rows_can_be_read_alone() -> None:
    ring = Ring(3, 2)
    ring.append(*arrays({10: (1.0, 1.0), 20: (2.0, 2.0)}))

    assert ring.read(1)[0].tolist() == [20]
    assert ring.read(5)[0].tolist() == [10, 20]
    assert ring.read(0)[1].shape == (0, 2)
    assert (ring.oldest, ring.newest, len(ring)) == (10, 20, 2)


def test_reading_some_rows_of_a_large_window_copies_no_others() -> None:
    ring = Ring(100_000, 2)
    ring.append(np.arange(100_000, dtype=np.int64), np.zeros((100_000, 2)))

    tracemalloc.start()
    try:
        times, kept = ring.read(10)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert times.nbytes + kept.nbytes == 240
    assert most < 10_000
    assert times.base is None
    assert kept.base is None


def test_late_rows_that_come_with_new_ones_rebuild_the_late_part_only(monkeypatch) -> None:
    ring = Ring(100_000, 2)
    ring.append(np.arange(100_000, dtype=np.int64), np.zeros((100_000, 2)))
    rebuilt: list[int] = []
    union = np.union1d
    monkeypatch.setattr(np, "union1d", lambda old, new: rebuilt.append(len(old) + len(new)) or union(old, new))

    for start in range(99_997, 109_997, 1000):
        ring.append(np.arange(start, start + 1003, dtype=np.int64), np.ones((1003, 2)))

    assert rebuilt == [6] * 10
    assert len(ring) == 100_000


def test_an_empty_ring_has_neither_oldest_nor_newest_row() -> None:
    ring = Ring(3, 2)

    assert (ring.oldest, ring.newest, len(ring)) == (None, None, 0)
    assert ring.read()[1].shape == (0, 2)


@pytest.mark.parametrize(("capacity", "width"), [(0, 1), (1, 0), (-1, 1)])
def test_a_ring_without_rows_or_columns_is_refused(capacity, width) -> None:
    with pytest.raises(ValueError, match="at least one row and one column"):
        Ring(capacity, width)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 2 columns"):
        Ring(3, 2).append(np.array([1], np.int64), np.zeros((1, 3)))
