from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import ConfigError, NotReady
from icosfl.schema import Rows
from icosfl.train.local import cutoff_of
from icosfl.train.share import MOST_PARTS, WHOLE, Share

parts = st.integers(1, MOST_PARTS)
fractions = st.floats(0.05, 0.95)


def rows(first: int, count: int) -> Rows:
    """Rows that are told apart by their times."""
    times = np.arange(first, first + count, dtype=np.int64)
    return Rows(times, times.astype(np.float64)[:, np.newaxis])


def times_of(share: Rows) -> set[int]:
    return {int(time) for time in share.times}


def test_a_supernode_that_says_nothing_has_the_whole_host() -> None:
    assert Share.of({"host": "worker-1"}) == WHOLE
    assert WHOLE.name("worker-1") == "worker-1"
    assert len(WHOLE.take_at(rows(0, 10), None, 0.75)) == 10


def test_a_part_is_called_by_its_host_and_number() -> None:
    assert Share.of({"host": "worker-1", "part": 2, "parts": 4}).name("worker-1") == "worker-1/2"


@pytest.mark.parametrize(
    "config",
    [
        {"part": 0, "parts": 2},
        {"part": 3, "parts": 2},
        {"part": 2},
        {"part": "1", "parts": 2},
        {"part": True, "parts": 2},
        {"part": 1, "parts": 17},
        {"part": 1.0, "parts": 2},
    ],
)
def test_a_part_that_cannot_be_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="is part") as caught:
        Share.of(config)

    assert "icosfl_supernodes" in caught.value.cure


@given(st.integers(0, 300), parts)
def test_all_parts_together_are_the_host_and_no_row_counts_twice(count: int, number: int) -> None:
    shares = [Share(part, number).take(rows(0, count)) for part in range(1, number + 1)]

    assert [int(time) for share in shares for time in share.times] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 300), st.integers(0, 200), st.integers(0, 200), st.integers(2, MOST_PARTS), fractions)
def test_however_rows_come_and_go_during_a_run_no_row_is_taught_by_two_parts_or_measured_and_taught(
    count: int, come: int, gone: int, number: int, fraction: float
) -> None:
    begin = rows(0, count)
    lost = min(gone, count - 1)
    end = rows(lost, count - lost + come)
    taught: dict[int, set[int]] = {}
    measured: set[int] = set()
    for part in range(1, number + 1):
        share = Share(part, number)
        own = share.take(begin)
        if len(own) == 0:
            continue
        cutoff = cutoff_of(own, fraction)
        seen = times_of(share.take_at(begin, cutoff, fraction)) | times_of(share.take_at(end, cutoff, fraction))
        taught[part] = {time for time in seen if time <= cutoff}
        measured |= seen - taught[part]

    assert sum(map(len, taught.values())) == len(set().union(*taught.values()))
    assert not measured & set().union(*taught.values())


def test_without_a_cutoff_only_the_part_with_the_newest_rows_can_be_measured() -> None:
    with pytest.raises(NotReady, match="began without it"):
        Share(1, 2).take_at(rows(0, 10), None, 0.75)

    assert times_of(Share(2, 2).take_at(rows(0, 10), None, 0.75)) == {5, 6, 7, 8, 9}
