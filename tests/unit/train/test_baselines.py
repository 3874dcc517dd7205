from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import SchemaMismatch
from icosfl.process import Grid, Windows
from icosfl.process.windows import make_windows
from icosfl.train.baselines import AR, MOVING_AVERAGE, NAMES, NLINEAR, PERSISTENCE, SEASONAL_NAIVE, Baselines
from icosfl.train.linear import Linear

MakeWindows = Callable[..., Windows]


def seasonal_windows(values: np.ndarray, season: int, window: int = 12) -> Windows:
    column = values[:, None].astype(np.float64)
    grid = Grid(np.arange(len(values), dtype=np.int64), column, np.isfinite(column), 1)
    return make_windows(grid, window, (1, 4), np.array([True]), season)


def autoregressive(count: int, seed: int = 1) -> np.ndarray:
    """x[t] = 1.2 x[t-1] - 0.5 x[t-2] + noise, around 100."""
    noise, values = np.random.default_rng(seed).normal(0, 1, count), np.zeros(count)
    for step in range(2, count):
        values[step] = 1.2 * values[step - 1] - 0.5 * values[step - 2] + noise[step]
    return values + 100


def forecasts_of(baselines: Baselines, windows: Windows) -> dict[str, np.ndarray]:
    return baselines.predict(windows.inputs, windows.seasonal)


def test_every_baseline_says_something_of_every_target(windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(80), autoregressive(80, seed=2))

    forecasts = forecasts_of(Baselines.fit(windows), windows)

    assert tuple(forecasts) == NAMES
    assert {values.shape for values in forecasts.values()} == {windows.targets.shape}


def test_persistence_repeats_the_last_value_at_every_horizon(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(40.0), np.arange(40.0) * 2)

    forecasts = forecasts_of(Baselines.fit(windows), windows)[PERSISTENCE]

    assert forecasts[0].tolist() == [[11, 22], [11, 22]]


def test_the_moving_average_is_the_mean_of_the_newest_six_values(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(40.0) ** 2)

    forecasts = forecasts_of(Baselines.fit(windows), windows)[MOVING_AVERAGE]

    assert forecasts[0, :, 0].tolist() == [pytest.approx(np.mean([36, 49, 64, 81, 100, 121]))] * 2


def test_the_seasonal_forecast_is_what_was_measured_a_season_before() -> None:
    rhythm = np.tile(np.random.default_rng(1).normal(50, 10, 20), 5)
    windows = seasonal_windows(rhythm, 20)

    forecasts = forecasts_of(Baselines.fit(windows), windows)[SEASONAL_NAIVE]

    told = np.isfinite(forecasts)
    assert told.sum() == 2 * (len(windows) - 20) + 12 + 15  # a season after the first row, at either horizon
    np.testing.assert_array_equal(forecasts[told], windows.targets[told])


def test_without_a_season_there_is_no_seasonal_forecast(windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(60))

    assert np.isnan(forecasts_of(Baselines.fit(windows), windows)[SEASONAL_NAIVE]).all()


# NLinear's weights of the window sum to 1, so that it cannot shrink to a mean that the window alone does not tell.
@pytest.mark.parametrize(("name", "tolerance"), [(AR, 0.06), (NLINEAR, 0.12)])
def test_a_linear_baseline_finds_the_best_linear_forecast_of_each_horizon(
    windows_of: MakeWindows, name: str, tolerance: float
) -> None:
    train, later = windows_of(autoregressive(3000)), windows_of(autoregressive(3000, seed=2))

    forecasts = forecasts_of(Baselines.fit(train), later)[name]

    errors = np.sqrt(((forecasts - later.targets) ** 2).mean(axis=0))[:, 0]
    response = [1.0, 1.2, 0.94, 0.528]  # how a unit of noise lives on; their squares give the least possible errors
    np.testing.assert_allclose(errors, [1.0, np.sqrt(np.sum(np.square(response)))], rtol=tolerance)


@pytest.mark.parametrize("name", [AR, NLINEAR])
def test_a_linear_baseline_follows_a_line(windows_of: MakeWindows, name: str) -> None:
    windows = windows_of(np.arange(200.0))

    forecasts = forecasts_of(Baselines.fit(windows), windows)[name]

    np.testing.assert_allclose(forecasts, windows.targets, atol=0.5)


def test_nlinear_looks_at_the_whole_window_and_autoregression_at_ten_values(windows_of: MakeWindows) -> None:
    baselines = Baselines.fit(windows_of(autoregressive(400)))

    assert np.flatnonzero(baselines.ar.weights[0, :, 0]).tolist() == list(range(2, 12))
    assert np.flatnonzero(baselines.nlinear.weights[0, :, 0]).tolist() == list(range(12))


def test_baselines_know_only_the_windows_that_they_were_fitted_on(windows_of: MakeWindows) -> None:
    values = autoregressive(400)
    baselines = Baselines.fit(windows_of(values[:300]))

    again, more = Baselines.fit(windows_of(values[:300].copy())), Baselines.fit(windows_of(values))

    for name in ("ar", "nlinear"):
        mine = getattr(baselines, name).weights
        assert np.array_equal(mine, getattr(again, name).weights)
        assert not np.array_equal(mine, getattr(more, name).weights)


@given(value=st.floats(-1e6, 1e6), window=st.integers(1, 15))
def test_a_constant_series_is_forecast_as_constant_by_all(value: float, window: int) -> None:
    windows = seasonal_windows(np.full(60, value), 5, window)

    for name, forecasts in forecasts_of(Baselines.fit(windows), windows).items():
        told = np.isfinite(forecasts)
        assert told.all() or name == SEASONAL_NAIVE
        assert np.all(forecasts[told] == value)


def test_a_series_absent_from_a_window_is_absent_from_its_forecasts() -> None:
    values = np.stack([np.arange(100.0), np.where(np.arange(100) < 50, np.nan, np.arange(100.0))], axis=1)
    grid = Grid(np.arange(100, dtype=np.int64), values, np.isfinite(values), 1)
    windows = make_windows(grid, 12, (1, 4), np.array([True, False]), 1)
    absent = np.isnan(windows.inputs[:, -1, 1])
    assert 0 < absent.sum() < len(windows)

    for forecasts in forecasts_of(Baselines.fit(windows), windows).values():
        assert np.isfinite(forecasts[:, :, 0]).all()
        assert np.isfinite(forecasts[~absent]).all()
        assert np.isnan(forecasts[absent][:, :, 1]).all()


def test_a_series_absent_from_a_window_has_no_seasonal_forecast_either(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(40.0))
    nothing = np.full_like(windows.inputs, np.nan)

    forecasts = Baselines.fit(windows).predict(nothing, np.ones_like(windows.targets))

    assert all(np.isnan(values).all() for values in forecasts.values())


def test_a_series_without_a_training_window_has_only_the_forecasts_that_need_none(windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(60))

    forecasts = forecasts_of(Baselines.fit(windows.pick(np.zeros(len(windows), np.bool_))), windows)

    assert np.isfinite(forecasts[PERSISTENCE]).all()
    assert np.isfinite(forecasts[MOVING_AVERAGE]).all()
    assert np.isnan(forecasts[AR]).all()
    assert np.isnan(forecasts[NLINEAR]).all()


@pytest.mark.parametrize("name", [AR, NLINEAR])
def test_few_noisy_windows_do_not_make_a_linear_baseline_wild(windows_of: MakeWindows, name: str) -> None:
    windows, later = windows_of(autoregressive(20)), windows_of(autoregressive(200, seed=3))

    forecasts = forecasts_of(Baselines.fit(windows), later)[name]

    assert np.abs(forecasts - later.targets).max() < 100


def test_baselines_survive_the_way_through_json(windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(80), np.full(80, 3.0), np.full(80, np.nan))
    baselines = Baselines.fit(windows)

    again = Baselines.from_dict(json.loads(json.dumps(baselines.to_dict(), allow_nan=False)))

    expected = forecasts_of(baselines, windows)
    for name, forecasts in forecasts_of(again, windows).items():
        np.testing.assert_array_equal(forecasts, expected[name])


LINEAR = {"weights": [[[1.0], [2.0]]], "bias": [[0.0]], "noise": [[1.0]]}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"ar": LINEAR},
        {"ar": LINEAR, "nlinear": 3},
        {"ar": LINEAR, "nlinear": {**LINEAR, "weights": [[["x"], [2.0]]]}},
        {"ar": LINEAR, "nlinear": {**LINEAR, "weights": [[[1.0]]]}},
        {"ar": LINEAR, "nlinear": {**LINEAR, "bias": [[0.0, 1.0]]}},
    ],
)
def test_something_else_is_refused(data: object) -> None:
    with pytest.raises(SchemaMismatch):
        Baselines.from_dict(data)


def test_linear_forecasts_of_unlike_shapes_are_no_baselines() -> None:
    one, other = (Linear(np.zeros((1, window, 1)), np.zeros((1, 1)), np.zeros((1, 1))) for window in (2, 3))

    with pytest.raises(SchemaMismatch, match="do not fit"):
        Baselines(one, other)


def test_inputs_and_seasonal_values_of_other_shapes_are_refused(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(40.0))
    baselines = Baselines.fit(windows)

    with pytest.raises(SchemaMismatch, match="cannot take"):
        baselines.predict(np.zeros((1, 12, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(SchemaMismatch, match="cannot take"):
        baselines.predict(np.zeros((1, 11, 1)), np.zeros((1, 2, 1)))
    with pytest.raises(SchemaMismatch, match="seasonal"):
        baselines.predict(windows.inputs, windows.seasonal[1:])
