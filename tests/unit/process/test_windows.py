from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icosfl.errors import SchemaMismatch
from icosfl.process import bridge_gaps, to_grid
from icosfl.process.clean import MAX_EMPTY_BINS, Grid
from icosfl.process.windows import Windows, count_whole, latest_window, make_windows, rows_needed, split_by_time
from icosfl.schema import Rows

PERIOD = 1000
NAN = np.nan

masks = st.sampled_from([0.0, 1.0, 1.0, 1.0, 1.0, NAN])


def grid_of(*columns: list[float]) -> Grid:
    values = np.array(columns, np.float64).T
    return Grid(np.arange(len(values), dtype=np.int64) * PERIOD, values, np.isfinite(values), PERIOD)


def require(*wanted: bool) -> np.ndarray:
    return np.array(wanted, np.bool_)


def test_a_target_is_the_value_its_horizon_after_the_last_input() -> None:
    windows = make_windows(grid_of(list(range(10)), list(range(100, 110))), 3, (1, 4), require(True, True))

    assert windows.inputs.shape == (4, 3, 2)
    assert windows.targets.shape == (4, 2, 2)
    assert windows.inputs[1].tolist() == [[1, 101], [2, 102], [3, 103]]
    assert windows.targets[1].tolist() == [[4, 104], [7, 107]]
    assert windows.last_times.tolist() == [2000, 3000, 4000, 5000]
    assert (windows.window, windows.width, windows.horizons, windows.period_ns) == (3, 2, (1, 4), PERIOD)


@given(
    window=st.integers(1, 6),
    horizons=st.sets(st.integers(1, 8), min_size=1).map(lambda steps: tuple(sorted(steps))),
    count=st.integers(1, 20),
)
def test_rows_needed_gives_exactly_as_many_windows(window: int, horizons: tuple[int, ...], count: int) -> None:
    rows = rows_needed(window, horizons, count)

    windows = make_windows(grid_of([float(row) for row in range(rows)]), window, horizons, require(True))

    assert len(windows) == count


@given(
    values=hnp.arrays(np.float64, st.tuples(st.integers(1, 60), st.just(2)), elements=masks),
    window=st.integers(1, 4),
    horizons=st.sampled_from([(1,), (1, 3), (2, 5)]),
    reach=st.integers(0, 3),
)
def test_no_window_spans_a_gap_in_a_required_series(
    values: np.ndarray, window: int, horizons: tuple[int, ...], reach: int
) -> None:
    measured = grid_of(*(values + np.arange(len(values))[:, None]).T.tolist())
    grid = bridge_gaps(measured, reach * PERIOD)

    windows = make_windows(grid, window, horizons, require(True, False))

    expected = [
        last
        for last in range(window - 1, len(values) - horizons[-1])
        if not np.isnan(grid.values[last - window + 1 : last + horizons[-1] + 1, 0]).any()
        and grid.measured[last, 0]
        and np.isfinite(windows_targets(grid, last, window, horizons)).any()
    ]
    assert (windows.last_times // PERIOD).tolist() == expected
    for index, last in enumerate(expected):
        assert np.isfinite(windows.inputs[index, :, 0]).all()
        np.testing.assert_array_equal(windows.targets[index], windows_targets(grid, last, window, horizons))


def windows_targets(grid: Grid, last: int, window: int, horizons: tuple[int, ...]) -> np.ndarray:
    """Targets as the documentation states them, point by point."""
    targets = np.full((len(horizons), grid.width), NAN)
    for series in range(grid.width):
        span = grid.values[last - window + 1 : last + horizons[-1] + 1, series]
        if np.isnan(span).any() or not grid.measured[last, series]:
            continue
        for row, steps in enumerate(horizons):
            if grid.measured[last + steps, series]:
                targets[row, series] = grid.values[last + steps, series]
    return targets


def test_an_interpolated_value_is_an_input_but_never_a_target() -> None:
    grid = bridge_gaps(grid_of([0, 1, 2, NAN, 4, 5, 6, 7]), 2 * PERIOD)

    windows = make_windows(grid, 2, (1, 2), require(True))

    by_last = dict(zip((windows.last_times // PERIOD).tolist(), range(len(windows)), strict=True))
    np.testing.assert_array_equal(windows.targets[by_last[2], :, 0], [NAN, 4])
    assert windows.inputs[by_last[4], :, 0].tolist() == [3, 4]


def test_no_window_ends_in_an_interpolated_value_that_knows_its_target() -> None:
    grid = bridge_gaps(grid_of([0, 1, 2, NAN, 4, 5, 6, 7]), 2 * PERIOD)

    windows = make_windows(grid, 2, (1,), require(True))

    assert 3 not in (windows.last_times // PERIOD).tolist()


def test_a_series_that_is_not_required_is_absent_from_the_windows_where_it_is_not_whole() -> None:
    grid = grid_of([float(step) for step in range(8)], [NAN, NAN, NAN, 3, 4, 5, 6, 7])

    windows = make_windows(grid, 2, (1,), require(True, False))

    assert len(windows) == 6
    whole = ~np.isnan(windows.inputs[:, :, 1]).any(axis=1)
    assert (windows.last_times[whole] // PERIOD).tolist() == [4, 5, 6]
    assert np.isnan(windows.inputs[~whole][:, :, 1]).all()
    assert np.isnan(windows.targets[~whole][:, :, 1]).all()
    assert windows.targets[whole][:, 0, 1].tolist() == [5, 6, 7]


def test_a_window_may_start_over_after_a_gap() -> None:
    windows = make_windows(grid_of([0, 1, 2, NAN, 4, 5, 6]), 2, (1,), require(True))

    assert windows.inputs[:, :, 0].tolist() == [[0, 1], [4, 5]]
    assert windows.targets[:, 0, 0].tolist() == [2, 6]


def test_too_few_rows_give_no_window() -> None:
    windows = make_windows(grid_of([0, 1, 2]), 3, (1,), require(True))

    assert len(windows) == 0
    assert windows.inputs.shape == (0, 3, 1)


def test_windows_are_copies_that_leave_the_grid_alone() -> None:
    grid = grid_of([0, 1, 2, 3], [NAN, 1, 2, 3])

    make_windows(grid, 2, (1,), require(True, False)).inputs[:] = -1

    np.testing.assert_array_equal(grid.values, grid_of([0, 1, 2, 3], [NAN, 1, 2, 3]).values)


def seasonal_as_documented(grid: Grid, last: int, horizons: tuple[int, ...], season: int) -> np.ndarray:
    """Seasonal values of windows in which all is whole, point by point, from the bridged values by time."""
    values = np.full((len(horizons), grid.width), NAN)
    for row, steps in enumerate(horizons):
        back = steps
        while back > 0:
            back -= season
        at = np.flatnonzero(grid.times == grid.times[last] + back * PERIOD)
        for series in range(grid.width):
            if len(at) == 1:
                values[row, series] = grid.values[at[0], series]
    return values


@given(
    values=hnp.arrays(np.float64, st.integers(1, 60), elements=masks),
    horizons=st.sampled_from([(1,), (1, 3), (2, 9)]),
    season=st.integers(1, 12),
    reach=st.integers(0, 3),
)
def test_a_seasonal_value_is_the_one_whole_seasons_before_the_target(
    values: np.ndarray, horizons: tuple[int, ...], season: int, reach: int
) -> None:
    grid = bridge_gaps(grid_of((values + np.arange(len(values))).tolist()), reach * PERIOD)

    windows = make_windows(grid, 2, horizons, require(True), season)

    assert windows.seasonal.shape == windows.targets.shape
    for index, last in enumerate((windows.last_times // PERIOD).tolist()):
        expected = seasonal_as_documented(grid, last, horizons, season)
        np.testing.assert_array_equal(windows.seasonal[index], expected)


@given(season=st.integers(1, 12), cut=st.integers(5, 39))
def test_a_seasonal_value_knows_nothing_of_what_comes_after_the_window(season: int, cut: int) -> None:
    values = [float(step) for step in range(40)]
    changed = [value if step <= cut else -1.0 for step, value in enumerate(values)]

    windows = make_windows(grid_of(values), 3, (1, 7), require(True), season)
    others = make_windows(grid_of(changed), 3, (1, 7), require(True), season)

    known = windows.last_times <= cut * PERIOD
    np.testing.assert_array_equal(windows.seasonal[known], others.seasonal[known])


def test_a_horizon_beyond_a_season_looks_as_many_seasons_back_as_it_must() -> None:
    windows = make_windows(grid_of([float(step) for step in range(20)]), 1, (1, 3, 4, 7), require(True), 3)

    index = windows.last_times.tolist().index(10 * PERIOD)
    assert windows.targets[index, :, 0].tolist() == [11, 13, 14, 17]
    assert windows.seasonal[index, :, 0].tolist() == [8, 10, 8, 8]


def test_without_a_season_there_is_no_seasonal_value() -> None:
    windows = make_windows(grid_of([0, 1, 2, 3, 4]), 2, (1, 2), require(True))

    assert windows.seasonal.shape == windows.targets.shape == (2, 2, 1)
    assert np.isnan(windows.seasonal).all()


def test_a_bridged_value_is_a_seasonal_value_too() -> None:
    grid = bridge_gaps(grid_of([0, 1, NAN, 5, 4, 5, 6, 7]), 2 * PERIOD)

    windows = make_windows(grid, 1, (1,), require(True), 3)

    by_last = dict(zip((windows.last_times // PERIOD).tolist(), windows.seasonal[:, 0, 0].tolist(), strict=True))
    assert by_last[3] == 1
    assert by_last[4] == 3  # between 1 and 5
    assert by_last[5] == 5


@given(
    values=hnp.arrays(np.float64, st.tuples(st.integers(4, 40), st.just(2)), elements=masks),
    window=st.integers(1, 4),
    horizons=st.sampled_from([(1,), (1, 3), (2, 5)]),
    season=st.integers(1, 8),
    reach=st.integers(0, 5),
    slack=st.integers(0, 2),
)
def test_no_seasonal_value_knows_what_came_after_the_window(
    values: np.ndarray, window: int, horizons: tuple[int, ...], season: int, reach: int, slack: int
) -> None:
    def bridged(rows: np.ndarray) -> Grid:
        return bridge_gaps(grid_of(*(rows + np.arange(len(rows))[:, None] ** 2).T.tolist()), reach * PERIOD)

    grid = bridged(values)
    windows = make_windows(grid, window, horizons, require(True, False), season)
    found = [(windows.last_times[row], windows.seasonal[row]) for row in range(len(windows))]
    newest = latest_window(grid, window, slack, horizons, season)
    found += [(newest.last_time, newest.seasonal[0])] if newest else []

    for last_time, seasonal in found:
        known = bridged(values[: last_time // PERIOD + 1])  # as if nothing had come after it
        then = latest_window(known, window, 0, horizons, season)
        assert then is not None
        told = np.isfinite(seasonal)
        np.testing.assert_array_equal(seasonal[told], then.seasonal[0][told])


def test_a_season_back_in_a_gap_there_is_no_value() -> None:
    grid = bridge_gaps(grid_of([0, 1, NAN, NAN, 4, 5, 6, 7]), 2 * PERIOD)

    windows = make_windows(grid, 1, (1,), require(True), 3)

    by_last = dict(zip((windows.last_times // PERIOD).tolist(), windows.seasonal[:, 0, 0].tolist(), strict=True))
    assert np.isnan([by_last[4], by_last[5]]).all()
    assert by_last[6] == 4


def test_a_series_absent_from_a_window_has_no_seasonal_value_in_it() -> None:
    grid = grid_of([float(step) for step in range(8)], [0, 1, 2, 3, NAN, 5, 6, 7])

    windows = make_windows(grid, 2, (1,), require(True, False), 3)

    whole = np.isfinite(windows.inputs[:, 0, 1])
    assert whole.tolist() == [True, True, False, False, False, True]
    np.testing.assert_array_equal(windows.seasonal[whole][:, 0, 1], [NAN, 0, NAN])
    assert np.isnan(windows.seasonal[~whole][:, 0, 1]).all()


def test_after_a_long_gap_a_seasonal_value_is_still_of_the_same_phase_or_none() -> None:
    gap = MAX_EMPTY_BINS + 20
    steps = np.concatenate([np.arange(10), np.arange(10 + gap, 40 + gap)])
    grid = to_grid(Rows(steps * PERIOD, steps[:, None].astype(np.float64)), PERIOD)
    assert len(grid) == 41  # the gap is one bin

    near = make_windows(grid, 1, (1,), require(True), 5)
    far = make_windows(grid, 1, (1,), require(True), gap + 5)

    for windows, season in ((near, 5), (far, gap + 5)):
        found = np.isfinite(windows.seasonal[:, 0, 0])
        assert found.any()
        assert not found.all()
        np.testing.assert_array_equal(windows.seasonal[found], windows.targets[found] - season)
    assert near.last_times[np.isnan(near.seasonal[:, 0, 0])].tolist() == [
        step * PERIOD for step in (*range(4), *range(10 + gap, 14 + gap))
    ]


def test_picked_windows_keep_their_seasonal_values() -> None:
    windows = make_windows(grid_of([float(step) for step in range(12)]), 2, (1,), require(True), 4)

    picked = windows.pick(windows.last_times >= 5 * PERIOD)

    assert picked.seasonal[:, 0, 0].tolist() == [2, 3, 4, 5, 6, 7]
    assert Windows.empty(3, (1, 2), 4, PERIOD).seasonal.shape == (0, 2, 4)


def test_seasonal_values_of_another_shape_are_refused() -> None:
    with pytest.raises(SchemaMismatch, match="seasonal"):
        Windows(np.zeros((2, 3, 1)), np.zeros((2, 1, 1)), np.arange(2), (1,), PERIOD, np.zeros((2, 2, 1)))


@pytest.mark.parametrize(
    ("window", "horizons", "required", "message"),
    [
        (0, (1,), [True], "at least 1 step"),
        (2, (), [True], "horizons"),
        (2, (0, 1), [True], "horizons"),
        (2, (3, 1), [True], "horizons"),
        (2, (1, 1), [True], "horizons"),
        (2, (1,), [False], "at least one required series"),
        (2, (1,), [True, True], "at least one required series"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    window: int, horizons: tuple[int, ...], required: list[bool], message: str
) -> None:
    with pytest.raises(SchemaMismatch, match=message):
        make_windows(grid_of([1, 2, 3, 4]), window, horizons, require(*required))


def test_a_season_of_less_than_nothing_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="season"):
        make_windows(grid_of([1, 2, 3, 4]), 2, (1,), require(True), -1)


def test_each_series_is_counted_by_itself() -> None:
    grid = grid_of([float(step) for step in range(8)], [NAN, NAN, NAN, 3, 4, 5, 6, 7], [NAN] * 8)

    assert count_whole(grid, 2, (1,)).tolist() == [6, 3, 0]
    assert count_whole(grid_of([1]), 2, (1,)).tolist() == [0]


@given(cutoff=st.integers(-2 * PERIOD, 45 * PERIOD), horizons=st.sampled_from([(1,), (1, 4), (3, 5)]))
def test_a_split_separates_training_from_what_is_held_out_in_time(cutoff: int, horizons: tuple[int, ...]) -> None:
    windows = make_windows(grid_of([float(step) for step in range(40)]), 4, horizons, require(True))

    train, held_out = split_by_time(windows, cutoff)

    half = PERIOD // 2
    assert np.all(train.last_times + horizons[-1] * PERIOD + half <= cutoff)
    assert np.all(held_out.last_times + horizons[0] * PERIOD - half > cutoff)
    rest = set(windows.last_times) - set(train.last_times) - set(held_out.last_times)
    for last in rest:
        assert last + horizons[-1] * PERIOD + half > cutoff
        assert last + horizons[0] * PERIOD - half <= cutoff


def test_the_latest_window_ends_at_the_newest_row() -> None:
    latest = latest_window(grid_of([0, 1, 2, 3], [4, 5, 6, 7]), 3, 1)

    assert latest is not None
    assert latest.inputs.tolist() == [[[1, 5], [2, 6], [3, 7]]]
    assert latest.last_time == 3 * PERIOD
    assert latest.present.tolist() == [True, True]


def test_the_latest_window_does_not_lose_a_series_whose_newest_value_is_still_on_its_way() -> None:
    latest = latest_window(grid_of([0, 1, 2, 3, 4], [5, 6, 7, 8, NAN]), 3, 1)

    assert latest is not None
    assert latest.last_time == 3 * PERIOD
    assert latest.present.tolist() == [True, True]


def test_the_latest_window_goes_without_a_series_that_ended_longer_ago() -> None:
    latest = latest_window(grid_of([0, 1, 2, 3, 4], [5, 6, NAN, NAN, NAN]), 3, 1)

    assert latest is not None
    assert latest.last_time == 4 * PERIOD
    assert latest.present.tolist() == [True, False]
    assert np.isnan(latest.inputs[0, :, 1]).all()


def test_the_latest_window_knows_what_was_a_season_before_its_horizons() -> None:
    grid = grid_of([float(step) for step in range(12)], [NAN if step == 11 else float(-step) for step in range(12)])

    latest = latest_window(grid, 3, 0, (1, 4, 5), 4)

    assert latest is not None
    assert latest.last_time == 11 * PERIOD
    assert latest.seasonal[0, :, 0].tolist() == [8, 11, 8]
    assert np.isnan(latest.seasonal[0, :, 1]).all()


def test_a_latest_window_needs_neither_horizons_nor_a_season() -> None:
    grid = grid_of([0, 1, 2, 3])

    without, unseasonal = latest_window(grid, 3, 0), latest_window(grid, 3, 0, (1, 2))

    assert without is not None
    assert without.seasonal.shape == (1, 0, 1)
    assert unseasonal is not None
    assert unseasonal.seasonal.shape == (1, 2, 1)
    assert np.isnan(unseasonal.seasonal).all()


@pytest.mark.parametrize("column", [[0.0, 1.0], [0.0, NAN, 2.0, 3.0], [0.0, 1.0, 2.0, NAN, NAN]])
def test_there_is_no_latest_window_when_no_series_is_whole_up_to_now(column: list[float]) -> None:
    assert latest_window(grid_of(column), 3, 1) is None


def test_a_latest_window_needs_a_step() -> None:
    with pytest.raises(SchemaMismatch, match="at least 1 step"):
        latest_window(grid_of([1, 2]), 0, 0)
