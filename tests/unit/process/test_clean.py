from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icosfl.errors import SchemaMismatch
from icosfl.process import bridge_gaps, to_grid
from icosfl.process.clean import LARGEST_VALUE, MAX_EMPTY_BINS, NANOSECONDS, Grid, to_period_ns
from icosfl.schema import Rows

PERIOD = 3 * NANOSECONDS
START = 1_700_000_000 * NANOSECONDS + 123


def rows_at(steps: list[float], *columns: list[float]) -> Rows:
    """Rows at these multiples of the period, a list of values a series."""
    times = np.array([START + round(step * PERIOD) for step in steps], np.int64)
    return Rows(times, np.array(columns, np.float64).reshape(len(columns), len(steps)).T)


def grid_of(*columns: list[float]) -> Grid:
    return to_grid(rows_at([float(step) for step in range(len(columns[0]))], *columns), PERIOD)


def test_each_row_on_time_gets_its_own_bin_at_its_own_time() -> None:
    rows = rows_at([0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 7, 8])

    grid = to_grid(rows, PERIOD)

    assert grid.times.tolist() == rows.times.tolist()
    assert grid.values.tolist() == rows.values.tolist()
    assert grid.measured.all()
    assert grid.period_ns == PERIOD


def test_a_bin_without_a_row_has_no_value() -> None:
    grid = to_grid(rows_at([0, 1, 4], [1, 2, 5]), PERIOD)

    assert np.diff(grid.times).tolist() == [PERIOD] * 4
    np.testing.assert_array_equal(grid.values[:, 0], [1, 2, np.nan, np.nan, 5])
    assert grid.measured[:, 0].tolist() == [True, True, False, False, True]


def test_the_last_value_of_each_series_in_a_bin_counts() -> None:
    grid = to_grid(rows_at([0, 0.9, 1, 1.1, 2], [1, 2, 3, 4, 5], [1, 2, 3, np.nan, 5]), PERIOD)

    assert grid.values.tolist() == [[1, 1], [4, 3], [5, 5]]


@given(
    jitter=hnp.arrays(np.float64, 40, elements=st.floats(-0.2, 0.2)),
    phase=st.floats(0, 1, exclude_max=True),
)
def test_jitter_neither_merges_rows_nor_opens_holes_wherever_the_sampler_s_phase_lies(
    jitter: np.ndarray, phase: float
) -> None:
    rows = rows_at([step + phase + shift for step, shift in enumerate(jitter)], list(range(40)))

    grid = to_grid(rows, PERIOD)

    assert grid.values[:, 0].tolist() == list(range(40))


def test_rows_faster_than_the_period_are_thinned_out() -> None:
    grid = to_grid(rows_at([step / 3 for step in range(30)], list(range(30))), PERIOD)

    assert 10 <= len(grid) <= 11
    assert np.diff(grid.values[:, 0])[1:-1].tolist() == [3.0] * (len(grid) - 3)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, LARGEST_VALUE * 10, -LARGEST_VALUE * 10])
def test_what_is_no_number_of_a_machine_is_no_value(value: float) -> None:
    grid = grid_of([1, value, 3])

    assert np.isnan(grid.values[1, 0])
    assert not grid.measured[1, 0]


def test_a_clock_that_was_wrong_by_years_costs_one_empty_bin() -> None:
    year = 365 * 24 * 1200
    rows = rows_at([-50 * year, 0, 1, 2, 50 * year], [0, 1, 2, 3, 4])

    grid = to_grid(rows, PERIOD)

    np.testing.assert_array_equal(grid.values[:, 0], [0, np.nan, 1, 2, 3, np.nan, 4])
    assert np.all(np.diff(grid.times) > 0)
    assert grid.times[[0, 2, 3, 4, 6]].tolist() == rows.times.tolist()


@pytest.mark.parametrize(("empty", "kept"), [(MAX_EMPTY_BINS, MAX_EMPTY_BINS), (MAX_EMPTY_BINS + 1, 1)])
def test_only_holes_beyond_the_limit_are_squeezed(empty: int, kept: int) -> None:
    grid = to_grid(rows_at([0, empty + 1], [1, 2]), PERIOD)

    assert len(grid) == kept + 2


def test_no_rows_make_an_empty_grid() -> None:
    grid = to_grid(Rows.empty(2), PERIOD)

    assert len(grid) == 0
    assert grid.width == 2
    assert len(bridge_gaps(grid, 9 * NANOSECONDS)) == 0


@given(
    steps=st.lists(st.integers(0, 200), min_size=1, max_size=30, unique=True).map(sorted),
    data=st.data(),
)
def test_a_grid_holds_the_rows_values_at_their_times_and_nothing_else(steps: list[int], data: st.DataObject) -> None:
    values = data.draw(hnp.arrays(np.float64, len(steps), elements=st.one_of(st.just(np.nan), st.floats(-1e6, 1e6))))
    rows = rows_at([float(step) for step in steps], list(values))

    grid = to_grid(rows, PERIOD)

    there = np.isin(grid.times, rows.times)
    np.testing.assert_array_equal(grid.values[there, 0], values)
    assert np.isnan(grid.values[~there]).all()
    if np.diff(steps).max(initial=1) <= MAX_EMPTY_BINS + 1:
        assert np.all(np.diff(grid.times) == PERIOD)


def test_a_short_hole_is_bridged_by_a_straight_line_and_a_longer_one_stays() -> None:
    grid = grid_of([0, 1, np.nan, np.nan, 4, np.nan, np.nan, np.nan, 8])

    bridged = bridge_gaps(grid, 9 * NANOSECONDS)

    np.testing.assert_array_equal(bridged.values[:, 0], [0, 1, 2, 3, 4, np.nan, np.nan, np.nan, 8])


def test_the_ends_of_a_series_are_never_made_up() -> None:
    bridged = bridge_gaps(grid_of([np.nan, 1, 2, np.nan], [1, 2, 3, 4]), 100 * PERIOD)

    np.testing.assert_array_equal(bridged.values[:, 0], [np.nan, 1, 2, np.nan])


def test_interpolated_values_are_not_marked_as_measured() -> None:
    grid = grid_of([0, np.nan, 2])

    bridged = bridge_gaps(grid, 2 * PERIOD)

    assert bridged.values[1, 0] == 1
    assert bridged.measured[:, 0].tolist() == [True, False, True]
    assert np.isnan(grid.values[1, 0])  # the grid that was given is as before


def test_a_squeezed_stretch_is_never_bridged_however_long_the_limit() -> None:
    grid = to_grid(rows_at([0, 1, 5000, 5001], [0, 1, 2, 3]), PERIOD)

    bridged = bridge_gaps(grid, 10**6 * PERIOD)

    assert np.isnan(bridged.values[2, 0])


@given(
    values=hnp.arrays(
        np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=st.sampled_from([0.0, 1.0, 5.0, np.nan])
    ),
    reach=st.integers(0, 6),
)
def test_bridging_fills_exactly_the_short_holes_between_measured_values(values: np.ndarray, reach: int) -> None:
    grid = grid_of(*values.T.tolist())

    bridged = bridge_gaps(grid, reach * PERIOD).values

    for column in range(2):
        known = np.flatnonzero(np.isfinite(values[:, column]))
        for row in range(len(values)):
            before, after = known[known <= row], known[known >= row]
            if row in known:
                assert bridged[row, column] == values[row, column]
            elif len(before) and len(after) and after[0] - before[-1] <= reach:
                ends = sorted((values[before[-1], column], values[after[0], column]))
                assert ends[0] <= bridged[row, column] <= ends[1]
            else:
                assert np.isnan(bridged[row, column])


@pytest.mark.parametrize("seconds", [0.0, -3.0, np.nan, np.inf])
def test_a_period_must_be_positive(seconds: float) -> None:
    with pytest.raises(SchemaMismatch, match="period must be positive"):
        to_period_ns(seconds)


def test_a_grid_without_a_period_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="at least 1 ns"):
        to_grid(Rows.empty(1), 0)


def test_the_tail_of_a_grid_is_its_newest_bins() -> None:
    grid = grid_of([0, 1, 2, 3])

    assert grid.tail(2).values[:, 0].tolist() == [2, 3]
    assert len(grid.tail(9)) == 4
