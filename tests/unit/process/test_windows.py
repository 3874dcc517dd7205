from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icosfl.errors import SchemaMismatch
from icosfl.process import bridge_gaps
from icosfl.process.clean import Grid
from icosfl.process.windows import count_whole, latest_window, make_windows, rows_needed, split_by_time

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


def test_each_series_is_counted_by_itself() -> None:
    grid = grid_of([float(step) for step in range(8)], [NAN, NAN, NAN, 3, 4, 5, 6, 7], [NAN] * 8)

    assert count_whole(grid, 2, (1,)).tolist() == [6, 3, 0]
    assert count_whole(grid_of([1]), 2, (1,)).tolist() == [0]


@given(cutoff=st.integers(-2 * PERIOD, 45 * PERIOD), horizons=st.sampled_from([(1,), (1, 4), (3, 5)]))
def test_a_split_separates_training_from_validation_in_time(cutoff: int, horizons: tuple[int, ...]) -> None:
    windows = make_windows(grid_of([float(step) for step in range(40)]), 4, horizons, require(True))

    train, validation = split_by_time(windows, cutoff)

    half = PERIOD // 2
    assert np.all(train.last_times + horizons[-1] * PERIOD + half <= cutoff)
    assert np.all(validation.last_times + horizons[0] * PERIOD - half > cutoff)
    rest = set(windows.last_times) - set(train.last_times) - set(validation.last_times)
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


@pytest.mark.parametrize("column", [[0.0, 1.0], [0.0, NAN, 2.0, 3.0], [0.0, 1.0, 2.0, NAN, NAN]])
def test_there_is_no_latest_window_when_no_series_is_whole_up_to_now(column: list[float]) -> None:
    assert latest_window(grid_of(column), 3, 1) is None


def test_a_latest_window_needs_a_step() -> None:
    with pytest.raises(SchemaMismatch, match="at least 1 step"):
        latest_window(grid_of([1, 2]), 0, 0)
