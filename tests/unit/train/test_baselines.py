from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from icosfl.errors import SchemaMismatch
from icosfl.process import Windows
from icosfl.train.baselines import AR, MOVING_AVERAGE, NAMES, PERSISTENCE, Baselines

MakeWindows = Callable[..., Windows]


def autoregressive(count: int, seed: int = 1) -> np.ndarray:
    """x[t] = 1.2 x[t-1] - 0.5 x[t-2] + noise, around 100."""
    noise, values = np.random.default_rng(seed).normal(0, 1, count), np.zeros(count)
    for step in range(2, count):
        values[step] = 1.2 * values[step - 1] - 0.5 * values[step - 2] + noise[step]
    return values + 100


def test_persistence_repeats_the_last_value_at_every_horizon(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(40.0), np.arange(40.0) * 2)

    forecasts = Baselines.fit(windows).predict(windows.inputs)[PERSISTENCE]

    assert forecasts.shape == windows.targets.shape
    assert forecasts[0].tolist() == [[11, 22], [11, 22]]


def test_the_moving_average_is_the_mean_of_the_newest_six_values(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(40.0) ** 2)

    forecasts = Baselines.fit(windows).predict(windows.inputs)[MOVING_AVERAGE]

    assert forecasts[0, :, 0].tolist() == [np.mean([36, 49, 64, 81, 100, 121])] * 2


def test_autoregression_finds_the_best_linear_forecast_of_each_horizon(windows_of: MakeWindows) -> None:
    train, later = windows_of(autoregressive(3000)), windows_of(autoregressive(3000, seed=2))

    forecasts = Baselines.fit(train).predict(later.inputs)[AR]

    errors = np.sqrt(((forecasts - later.targets) ** 2).mean(axis=0))[:, 0]
    response = [1.0, 1.2, 0.94, 0.528]  # how a unit of noise lives on; their squares give the least possible errors
    np.testing.assert_allclose(errors, [1.0, np.sqrt(np.sum(np.square(response)))], rtol=0.06)


def test_autoregression_follows_a_line(windows_of: MakeWindows) -> None:
    windows = windows_of(np.arange(200.0))

    forecasts = Baselines.fit(windows).predict(windows.inputs)[AR]

    np.testing.assert_allclose(forecasts, windows.targets, atol=0.5)


def test_autoregression_knows_only_the_windows_that_it_was_fitted_on(windows_of: MakeWindows) -> None:
    values = autoregressive(400)
    baselines = Baselines.fit(windows_of(values[:300]))

    assert np.array_equal(baselines.weights, Baselines.fit(windows_of(values[:300].copy())).weights)
    assert not np.array_equal(baselines.weights, Baselines.fit(windows_of(values)).weights)


@pytest.mark.parametrize("value", [0.0, 7.5])
def test_a_constant_series_is_forecast_as_constant_by_all(windows_of: MakeWindows, value: float) -> None:
    windows = windows_of(np.full(60, value))

    for forecasts in Baselines.fit(windows).predict(windows.inputs).values():
        assert np.all(forecasts == value)


def test_a_series_absent_from_a_window_is_absent_from_its_forecasts(windows_of: MakeWindows) -> None:
    late = np.where(np.arange(100) < 50, np.nan, np.arange(100.0))
    windows = windows_of(np.arange(100.0), late)
    # `late` is required by the fixture, so that windows with and without it come from two calls
    both = Windows(
        np.concatenate([windows.inputs, np.where([True, False], windows.inputs, np.nan)]),
        np.concatenate([windows.targets, np.where([True, False], windows.targets, np.nan)]),
        np.concatenate([windows.last_times, windows.last_times]),
        windows.horizons,
        windows.period_ns,
    )

    for forecasts in Baselines.fit(both).predict(both.inputs).values():
        assert np.isfinite(forecasts[: len(windows)]).all()
        assert np.isnan(forecasts[len(windows) :, :, 1]).all()
        assert np.isfinite(forecasts[len(windows) :, :, 0]).all()


def test_without_training_windows_autoregression_is_persistence(windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(60))

    forecasts = Baselines.fit(windows.pick(np.zeros(len(windows), np.bool_))).predict(windows.inputs)

    np.testing.assert_array_equal(forecasts[AR], forecasts[PERSISTENCE])


def test_few_noisy_windows_do_not_make_autoregression_wild(windows_of: MakeWindows) -> None:
    windows, later = windows_of(autoregressive(20)), windows_of(autoregressive(200, seed=3))

    forecasts = Baselines.fit(windows).predict(later.inputs)[AR]

    assert np.abs(forecasts - later.targets).max() < 100


def test_baselines_survive_the_way_through_json(windows_of: MakeWindows) -> None:
    windows = windows_of(autoregressive(80), np.full(80, 3.0))
    baselines = Baselines.fit(windows)

    again = Baselines.from_dict(json.loads(json.dumps(baselines.to_dict(), allow_nan=False)))

    for name in NAMES:
        np.testing.assert_array_equal(again.predict(windows.inputs)[name], baselines.predict(windows.inputs)[name])


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"centre": [1.0], "spread": [[1.0]], "weights": [[["x"]]], "horizons": [1]},
        {"centre": [1.0], "spread": [[1.0]], "weights": [[[1.0, 2.0]]], "horizons": [1]},
        {"centre": [1.0, 2.0], "spread": [[1.0]], "weights": [[[1.0]]], "horizons": [1]},
        {"centre": [1.0], "spread": [1.0], "weights": [1.0], "horizons": [1]},
    ],
)
def test_something_else_is_refused(data: object) -> None:
    with pytest.raises(SchemaMismatch):
        Baselines.from_dict(data)


def test_inputs_of_another_width_are_refused(windows_of: MakeWindows) -> None:
    with pytest.raises(SchemaMismatch, match="cannot take inputs"):
        Baselines.fit(windows_of(np.arange(40.0))).predict(np.zeros((1, 12, 2)))
