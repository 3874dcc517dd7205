from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icosfl.errors import SchemaMismatch
from icosfl.process import Grid, Windows
from icosfl.process.windows import make_windows
from icosfl.train.linear import Linear, fit_ar, fit_blend, fit_common, fit_nlinear

MakeWindows = Callable[..., Windows]
Fit = Callable[[Windows], Linear]

SECOND = 1_000_000_000
FITS: dict[str, Fit] = {
    "blend": fit_blend,
    "ar": lambda train: fit_ar(train, 10, 1e-3),
    "nlinear": lambda train: fit_nlinear(train, 1e-4),
    "common": fit_common,
}

each_fit = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A logarithm of 0 or a division by it is a fault here, not a line in a log."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def autoregressive(count: int, seed: int = 1) -> np.ndarray:
    """x[t] = 1.4 x[t-1] - 0.6 x[t-2] + noise of 1, around 20: the best forecast of the next value errs by 1."""
    noise, values = np.random.default_rng(seed).normal(0, 1, count + 50), np.zeros(count + 50)
    for step in range(2, count + 50):
        values[step] = 1.4 * values[step - 1] - 0.6 * values[step - 2] + noise[step]
    return np.asarray(20 + values[50:])


def walk(count: int, seed: int = 1) -> np.ndarray:
    return 50 + np.cumsum(np.random.default_rng(seed).normal(0, 1, count))


def drifting(count: int, seed: int = 1) -> np.ndarray:
    """A noisy wave on a slope."""
    steps = np.arange(count)
    return np.asarray(0.02 * steps + 5 * np.sin(steps / 7) + np.random.default_rng(seed).normal(0, 1, count))


def bursty(count: int, seed: int = 1) -> np.ndarray:
    """Noise around 10 that stands at 40 for 8 values now and then."""
    rng = np.random.default_rng(seed)
    values = 10 + rng.normal(0, 1, count)
    for start in np.flatnonzero(rng.random(count) < 0.02):
        values[start : start + 8] += 30
    return values


def noise(count: int, seed: int = 1) -> np.ndarray:
    return 5 + np.random.default_rng(seed).normal(0, 2, count)


MADE_UP = (autoregressive, walk, drifting, bursty, noise)


def windows_led_by(*columns: np.ndarray) -> Windows:
    """Windows of which only the first series must be whole."""
    values = np.stack(columns, axis=1)
    grid = Grid(np.arange(len(values), dtype=np.int64) * SECOND, values, np.isfinite(values), SECOND)
    return make_windows(grid, 12, (1, 4), np.arange(len(columns)) == 0)


def rmse(linear: Linear, windows: Windows) -> np.ndarray:
    """Of the first series, by horizon."""
    return np.asarray(np.sqrt(np.nanmean((linear.predict(windows.inputs) - windows.targets)[:, :, 0] ** 2, axis=0)))


def persistence(windows: Windows) -> np.ndarray:
    return np.asarray(np.sqrt(np.nanmean((windows.inputs[:, -1:] - windows.targets)[:, :, 0] ** 2, axis=0)))


def without(windows: Windows, missing: np.ndarray) -> Windows:
    """The same windows without the targets for which `missing` [n, h, k] is true."""
    targets = np.where(missing, np.nan, windows.targets)
    return Windows(windows.inputs, targets, windows.last_times, windows.horizons, windows.period_ns)


@pytest.mark.parametrize("name", ["blend", "ar"])
def test_what_makes_a_linear_series_is_found(windows_of: MakeWindows, name: str) -> None:
    linear = FITS[name](windows_of(autoregressive(4000)))

    np.testing.assert_allclose(linear.weights[0, -2:, 0], [-0.6, 1.4], atol=0.1)
    np.testing.assert_allclose(linear.weights[0, :-2, 0], 0, atol=0.1)
    assert rmse(linear, windows_of(autoregressive(2000, seed=2)))[0] < 1.03


@each_fit
def test_the_noise_is_the_error_on_the_windows_fitted_to(fit: Fit, windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(500), 1e9 + 1e3 * walk(500))

    linear = fit(windows)

    errors = np.sqrt(((linear.predict(windows.inputs) - windows.targets) ** 2).mean(axis=0)).T
    np.testing.assert_allclose(linear.noise, errors, rtol=1e-6)


@each_fit
@settings(max_examples=15)
@given(
    scale=st.sampled_from([-3.0, 1e-6, 0.5, 7.0, 1e9]), shift=st.sampled_from([-1e3, 0.0, 2.5, 1e5]), seed=st.integers()
)
def test_a_series_in_another_unit_and_place_gets_the_same_forecasts_there(
    fit: Fit, scale: float, shift: float, seed: int
) -> None:
    values = drifting(200, seed % 1000)
    shift *= abs(scale)  # no shift leaves the values without digits
    here, there = windows_led_by(values), windows_led_by(scale * values + shift)

    one, other = fit(here), fit(there)

    expected = scale * one.predict(here.inputs) + shift
    np.testing.assert_allclose(other.predict(there.inputs), expected, rtol=0, atol=1e-5 * abs(scale))
    np.testing.assert_allclose(other.noise, abs(scale) * one.noise, rtol=1e-4)


@each_fit
@pytest.mark.parametrize("value", [0.0, 7.5, 0.05202897425988651, -273.15, 8e9 + 0.1, 1e99, 1e-30])
@pytest.mark.parametrize("count", [17, 209])
def test_a_series_that_never_moves_is_forecast_as_it_stands(
    fit: Fit, value: float, count: int, windows_of: MakeWindows
) -> None:
    windows = windows_of(np.full(count, value))

    linear = fit(windows)

    np.testing.assert_allclose(linear.predict(windows.inputs), value, rtol=1e-12)
    np.testing.assert_array_equal(linear.noise, 0)


@each_fit
def test_a_random_walk_is_forecast_near_to_its_last_value(fit: Fit, windows_of: MakeWindows) -> None:
    train, later = windows_of(walk(1500)), windows_of(walk(1500, seed=2))

    linear = fit(train)

    assert (rmse(linear, later) < 1.1 * persistence(later)).all()


@each_fit
def test_a_series_without_a_target_is_not_fitted_and_leaves_the_others_alone(fit: Fit, windows_of: MakeWindows) -> None:
    whole = windows_of(autoregressive(200))
    alone = fit(whole)
    for silent in (np.full(200, np.nan), np.where(np.arange(200) < 14, 1.0, np.nan)):
        windows = windows_led_by(autoregressive(200), silent)
        assert len(windows) == len(whole)
        windows.targets[:, :, 1] = np.nan

        linear = fit(windows)

        assert linear.fitted.tolist() == [True, False]
        for numbers in (linear.weights, linear.bias, linear.noise):
            assert np.isnan(numbers[1]).all()
        assert np.isnan(linear.predict(np.nan_to_num(windows.inputs))[:, :, 1]).all()
        np.testing.assert_array_equal(linear.weights[0], alone.weights[0])


@each_fit
def test_a_series_is_fitted_to_the_windows_that_have_it(fit: Fit, windows_of: MakeWindows) -> None:
    values, late = autoregressive(300), walk(300)
    late[:120] = np.nan

    linear = fit(windows_led_by(values, late))

    alone = fit(windows_of(late[120:]))
    np.testing.assert_allclose(linear.weights[1], alone.weights[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(linear.noise[1], alone.noise[0], rtol=1e-9)


@each_fit
def test_missing_targets_at_one_horizon_leave_the_other_as_it_is(fit: Fit, windows_of: MakeWindows) -> None:
    whole = windows_of(autoregressive(200))
    missing = np.zeros(whole.targets.shape, np.bool_)
    missing[::3, 1] = True

    linear, holed = fit(whole), fit(without(whole, missing))

    np.testing.assert_allclose(holed.weights[:, :, 0], linear.weights[:, :, 0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(holed.noise[:, 0], linear.noise[:, 0], rtol=1e-9)
    assert np.isfinite(holed.weights).all()
    assert not np.array_equal(holed.weights[:, :, 1], linear.weights[:, :, 1])


@each_fit
def test_a_horizon_without_any_target_makes_the_series_count_as_not_fitted(fit: Fit, windows_of: MakeWindows) -> None:
    whole = windows_of(autoregressive(200))
    missing = np.zeros(whole.targets.shape, np.bool_)
    missing[:, 1] = True

    linear = fit(without(whole, missing))

    assert linear.fitted.tolist() == [False]
    assert np.isfinite(linear.predict(whole.inputs)[:, 0]).all()
    assert np.isnan(linear.predict(whole.inputs)[:, 1]).all()


@each_fit
@pytest.mark.parametrize("count", [1, 2, 5, 9, 20])
def test_few_windows_give_forecasts_within_reach_of_the_values(fit: Fit, count: int, windows_of: MakeWindows) -> None:
    values = walk(count + 15)
    windows = windows_of(values)
    assert len(windows) == count

    forecasts = fit(windows).predict(windows_of(walk(300, seed=2)).inputs)

    assert np.isfinite(forecasts).all()
    assert np.abs(forecasts - 50).max() < 150


@each_fit
def test_no_windows_give_no_fit(fit: Fit) -> None:
    linear = fit(Windows.empty(12, (1, 4), 2, SECOND))

    assert linear.weights.shape == (2, 12, 2)
    assert linear.fitted.tolist() == [False, False]


@each_fit
def test_windows_of_any_length_can_be_fitted(fit: Fit) -> None:
    for window in (1, 2, 3, 40):
        values = autoregressive(200)[:, None]
        grid = Grid(np.arange(200, dtype=np.int64) * SECOND, values, np.isfinite(values), SECOND)
        windows = make_windows(grid, window, (1,), np.array([True]))

        linear = fit(windows)

        assert (linear.width, linear.window, linear.horizons) == (1, window, 1)
        assert rmse(linear, windows)[0] < 1.1 * persistence(windows)[0]


@pytest.mark.parametrize("make", MADE_UP)
def test_the_blend_is_about_as_good_as_the_best_of_the_simple_forecasts(
    make: Callable[..., np.ndarray], windows_of: MakeWindows
) -> None:
    train, later = windows_of(make(900)), windows_of(make(2000, seed=2))

    errors = {name: rmse(fit(train), later) for name, fit in FITS.items()}

    best = np.min([*(errors[name] for name in ("ar", "nlinear", "common")), persistence(later)], axis=0)
    assert (errors["blend"] < 1.05 * best).all()


@pytest.mark.parametrize("name", ["nlinear", "common"])
def test_a_map_without_a_level_of_its_own_moves_its_forecast_with_the_window(
    name: str, windows_of: MakeWindows
) -> None:
    windows = windows_of(autoregressive(200), walk(200))

    linear = FITS[name](windows)

    np.testing.assert_allclose(linear.predict(windows.inputs + 1000), linear.predict(windows.inputs) + 1000, rtol=1e-9)


def test_the_common_part_has_no_unit(windows_of: MakeWindows) -> None:
    linear = fit_common(windows_of(autoregressive(200), walk(200)))

    np.testing.assert_allclose(linear.bias, 0, atol=1e-9)
    np.testing.assert_allclose(linear.weights.sum(axis=1), 1, rtol=1e-9)


def test_a_series_of_numbers_whose_squares_are_none_is_forecast(windows_of: MakeWindows) -> None:
    linear = fit_blend(windows_of(1e-170 * np.exp(-np.arange(200) / 50)))

    assert np.isfinite(linear.weights).all()


def test_a_line_is_forecast_at_every_horizon_better_than_by_persistence(windows_of: MakeWindows) -> None:
    windows = windows_of(1e9 + 1000.0 * np.arange(300))

    errors = np.abs(fit_blend(windows).predict(windows.inputs) - windows.targets)

    assert (errors < 0.01 * np.abs(windows.targets - windows.inputs[:, -1:])).all()


def made() -> Linear:
    rng = np.random.default_rng(1)
    weights, bias, noise = rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 2)), rng.random((3, 2))
    weights[1], bias[1], noise[1] = np.nan, np.nan, np.nan
    return Linear(weights, bias, noise)


def test_a_forecast_is_the_weighted_sum_of_the_window_and_a_bias() -> None:
    linear, inputs = made(), np.random.default_rng(2).normal(size=(4, 5, 3))

    forecasts = linear.predict(inputs)

    assert forecasts.shape == (4, 2, 3)
    for n, h, k in np.ndindex(4, 2, 3):
        expected = sum(linear.weights[k, t, h] * inputs[n, t, k] for t in range(5)) + linear.bias[k, h]
        np.testing.assert_allclose(forecasts[n, h, k], expected, rtol=1e-12)
    assert linear.predict(inputs[:0]).shape == (0, 2, 3)


def test_an_absent_series_is_not_forecast_and_leaves_the_others_alone() -> None:
    linear, inputs = made(), np.ones((4, 5, 3))
    gone = inputs.copy()
    gone[:, :, 0] = np.nan

    forecasts = linear.predict(gone)

    assert np.isnan(forecasts[:, :, 0]).all()
    np.testing.assert_array_equal(forecasts[:, :, 2], linear.predict(inputs)[:, :, 2])


def test_linear_forecasts_come_back_from_json_as_they_were() -> None:
    linear = made()

    back = Linear.from_dict(json.loads(json.dumps(linear.to_dict(), allow_nan=False)))

    for name in ("weights", "bias", "noise"):
        np.testing.assert_array_equal(getattr(back, name), getattr(linear, name))
    assert back.fitted.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "data",
    [
        None,
        3,
        "linear",
        [],
        {},
        {"weights": [[[1.0]]], "bias": [[1.0]]},
        {"weights": [[["a"]]], "bias": [[1.0]], "noise": [[1.0]]},
        {"weights": [[[1.0], [1.0, 2.0]]], "bias": [[1.0]], "noise": [[1.0]]},
        {"weights": [[[1.0]]], "bias": [[1.0, 2.0]], "noise": [[1.0]]},
        {"weights": [[1.0]], "bias": [[1.0]], "noise": [[1.0]]},
        {"weights": [[[1.0]]], "bias": [[1.0]], "noise": [1.0]},
    ],
)
def test_what_is_no_linear_forecast_is_refused_by_name(data: Any) -> None:
    with pytest.raises(SchemaMismatch, match=r"no linear forecasts|do not fit each other"):
        Linear.from_dict(data)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2), (4, 6, 3), (4, 5, 3, 1)])
def test_windows_of_another_shape_are_refused_by_both_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(SchemaMismatch, match=r"3 series and 5 steps cannot take windows of shape \(4, "):
        made().predict(np.zeros(shape))
