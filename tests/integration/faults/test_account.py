"""The account that the table of faults is made of notices what it is there for."""

from __future__ import annotations

import numpy as np

from icosfl.schema import Rows
from support.bridge_service import SCHEMA
from support.faults import Account, Phase, accounts_of, table_of
from support.streams import SERIES

PHASES = [Phase("first", {10: 1, 20: 2}, 0), Phase("second", {30: 3, 40: 4}, 5)]


def window(points: dict[int, int]) -> Rows:
    values = np.full((len(points), len(SCHEMA)), np.nan)
    values[:, SCHEMA.index(SERIES)] = list(points.values())
    return Rows(np.array(list(points)), values)


def found_in(points: dict[int, int]) -> list[tuple[int, int]]:
    return [(account.lost, account.duplicated) for account in accounts_of(PHASES, window(points))]


def test_a_point_that_is_there_once_is_neither_lost_nor_duplicated() -> None:
    assert found_in({10: 1, 20: 2, 30: 3, 40: 4}) == [(0, 0), (0, 0)]


def test_a_point_that_is_not_there_is_lost() -> None:
    assert found_in({10: 1, 30: 3, 40: 4}) == [(1, 0), (0, 0)]


def test_a_point_that_has_anothers_value_is_lost() -> None:
    assert found_in({10: 1, 20: 9, 30: 3, 40: 4}) == [(1, 0), (0, 0)]


def test_a_point_that_is_there_at_two_times_is_duplicated() -> None:
    assert found_in({10: 1, 20: 2, 30: 3, 40: 4, 50: 4}) == [(0, 0), (0, 1)]


def test_the_table_has_a_line_for_each_fault_and_one_for_all() -> None:
    lines = table_of([Account("a", 10, 1, 0, 0), Account("a longer one", 20, 2, 3, 4)]).splitlines()

    assert [line.split()[-4:] for line in lines[1:]] == [
        ["10", "1", "0", "0"],
        ["20", "2", "3", "4"],
        ["30", "3", "3", "4"],
    ]
    assert len({len(line) for line in lines}) == 1
