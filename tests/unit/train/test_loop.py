from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from icosfl.errors import NotReady, RunFailed, SchemaMismatch
from icosfl.process import Grid, Windows
from icosfl.process.windows import make_windows
from icosfl.schema import Values
from icosfl.train import loop
from icosfl.train.linear import Linear, fit_blend, fit_common
from icosfl.train.loop import FitReport, fit, predict
from icosfl.train.model import Forecaster, View, build, load_arrays, look, take_common, to_arrays
from icosfl.train.shape import CALENDAR, GRU, LSTM, NETWORKS, ModelShape

MakeWindows = Callable[..., Windows]

MINUTE = 60 * 1_000_000_000
DAY = 24 * 60 * MINUTE

each_network = pytest.mark.parametrize("network", NETWORKS)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def fresh(series: int = 1, network: str = LSTM) -> Forecaster:
    return build(ModelShape(network, series, 2, 12, 16, 1), seed=1)


def learn(
    model: Forecaster, windows: Windows, linear: Linear | None = None, *, epochs: int = 2, seed: int = 1
) -> FitReport:
    own = fit_blend(windows) if linear is None else linear
    return fit(model, windows, own, epochs=epochs, learning_rate=0.01, batch_size=64, seed=seed)


def forecast(model: Forecaster, linear: Linear | None, windows: Windows) -> Values:
    return predict(model, linear, windows.inputs, windows.last_times)


def rmse(forecasts: Values, windows: Windows) -> Values:
    """By horizon and series, shape [h, k]."""
    return np.asarray(np.sqrt(np.nanmean((forecasts - windows.targets) ** 2, axis=0)))


def coverage(quantiles: Values, windows: Windows) -> Values:
    """Share of the targets between the outer quantiles, by horizon and series, shape [h, k]."""
    within = (quantiles[..., 0] <= windows.targets) & (windows.targets <= quantiles[..., 2])
    return np.asarray(within.mean(axis=0))


def logistic(count: int, start: float = 0.3) -> Values:
    """x -> 3.8 x (1 - x): noise to every linear forecast, and yet the next value follows from this one."""
    values = np.full(count, start)
    for step in range(1, count):
        values[step] = 3.8 * values[step - 1] * (1 - values[step - 1])
    return 50 + 10 * values


def bursts(count: int, seed: int = 1) -> tuple[Values, np.ndarray]:
    """Calm noise of 0.3, and now and then 30 values with noise of 6; and where these are."""
    rng, wild = np.random.default_rng(seed), np.zeros(count, np.bool_)
    for start in np.flatnonzero(rng.random(count) < 0.01):
        wild[start : start + 30] = True
    return 20 + rng.normal(0, 1, count) * np.where(wild, 6, 0.3), wild


def over_days(days: float, seed: int = 1) -> Windows:
    """Windows of a series with a value every 10 minutes and a rhythm of a day; the second horizon is 6 hours ahead."""
    count = round(days * 144)
    steps = np.arange(count, dtype=np.int64)
    values = 50 + 10 * np.sin(2 * np.pi * steps / 144) + np.random.default_rng(seed).normal(0, 3, count)
    times = steps * 10 * MINUTE + 20_000 * DAY
    grid = Grid(times, values[:, None], np.ones((count, 1), np.bool_), 10 * MINUTE)
    return make_windows(grid, 12, (1, 36), np.array([True]))


def without(windows: Windows, missing: np.ndarray) -> Windows:
    """The same windows without the targets for which `missing` [n, h, k] is true."""
    targets = np.where(missing, np.nan, windows.targets)
    return Windows(windows.inputs, targets, windows.last_times, windows.horizons, windows.period_ns)


@each_network
def test_the_network_learns_what_no_linear_forecast_can(network: str, windows_of: MakeWindows) -> None:
    train, later = windows_of(logistic(700)), windows_of(logistic(300, start=0.41))
    linear, model = fit_blend(train), fresh(network=network)

    report = learn(model, train, linear, epochs=30)

    alone, together = rmse(linear.predict(later.inputs), later), rmse(forecast(model, linear, later)[..., 1], later)
    assert together[0, 0] < 0.6 * alone[0, 0]
    assert report.examples == len(train)
    assert report.seconds > 0


def test_half_of_the_outcomes_lie_below_the_middle_and_four_of_five_between_the_others(
    windows_of: MakeWindows,
) -> None:
    train, later = windows_of(bursts(1500)[0]), windows_of(bursts(1500, seed=2)[0])
    linear, model = fit_blend(train), fresh()

    learn(model, train, linear, epochs=12)

    quantiles = forecast(model, linear, later)
    assert (np.abs(coverage(quantiles, later) - 0.8) < 0.1).all()
    assert (np.abs((later.targets < quantiles[..., 1]).mean(axis=0) - 0.5) < 0.1).all()


def test_in_a_burst_a_forecast_is_less_sure_of_itself(windows_of: MakeWindows) -> None:
    later, wild = bursts(1500, seed=2)
    train, windows = windows_of(bursts(1500)[0]), windows_of(later)
    linear, model = fit_blend(train), fresh()

    learn(model, train, linear, epochs=12)

    quantiles = forecast(model, linear, windows)
    width = (quantiles[..., 2] - quantiles[..., 0])[:, 0, 0]
    burst = np.lib.stride_tricks.sliding_window_view(wild, 12)[: len(windows)].all(axis=1)
    calm = ~np.lib.stride_tricks.sliding_window_view(wild, 12)[: len(windows)].any(axis=1)
    assert burst.sum() > 50
    assert np.median(width[burst]) > 5 * np.median(width[calm])


def test_training_brings_the_loss_down(windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(400))
    linear, model = fit_blend(windows), fresh()

    losses = [learn(model, windows, linear, epochs=epochs).loss for epochs in (1, 5, 10, 15)]

    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_is_that_of_the_quantiles_in_units_of_the_usual_error(windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(200), np.full(200, np.nan), 1e9 * bursts(200)[0])
    linear, model = fit_blend(windows), fresh(3)

    report = fit(model, windows, linear, epochs=1, learning_rate=1e-12, batch_size=1000, seed=1)

    errors = windows.targets[..., None] - forecast(model, linear, windows)
    pinball = np.maximum(np.array([0.1, 0.5, 0.9]) * errors, np.array([-0.9, -0.5, -0.1]) * errors).sum(axis=-1)
    expected = (pinball[..., [0, 2]] / linear.noise.T[:, [0, 2]]).mean()
    assert report.loss == pytest.approx(expected, rel=1e-4)


def test_each_series_counts_the_same_whatever_its_unit(windows_of: MakeWindows) -> None:
    small, large = (windows_of(logistic(300), unit * bursts(300)[0]) for unit in (1, 1e9))
    models = [fresh(2), fresh(2)]

    losses = [learn(model, windows).loss for model, windows in zip(models, (small, large), strict=True)]

    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for one, other in zip(*(to_arrays(model) for model in models), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_series_that_a_line_foretells_does_not_keep_others_from_being_learned(
    noise: float, windows_of: MakeWindows
) -> None:
    line = np.arange(700) + np.random.default_rng(1).normal(0, noise, 700)
    windows = windows_of(logistic(700), line)
    linear, model = fit_blend(windows), fresh(2)

    report = learn(model, windows, linear, epochs=40)

    alone, together = (
        rmse(linear.predict(windows.inputs), windows),
        rmse(forecast(model, linear, windows)[..., 1], windows),
    )
    assert report.loss < 1
    assert together[0, 0] < 0.7 * alone[0, 0]


@each_network
def test_the_same_seed_gives_the_same_model(network: str, windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(200))
    models = [fresh(network=network) for _ in range(3)]

    for model, seed in zip(models, (7, 7, 8), strict=True):
        learn(model, windows, seed=seed)

    first, same, other = (to_arrays(model) for model in models)
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_linear_parts_stay_as_they_are(windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(200))
    linear, model = fit_blend(windows), fresh()
    take_common(model, fit_common(windows))
    weights, common = linear.weights.copy(), model.common_part.weights

    learn(model, windows, linear)

    np.testing.assert_array_equal(linear.weights, weights)
    np.testing.assert_array_equal(model.common_part.weights, common)


def test_a_node_without_a_linear_part_of_its_own_forecasts_by_the_common_one(windows_of: MakeWindows) -> None:
    windows, model = windows_of(logistic(200)), fresh()
    take_common(model, fit_common(windows))

    quantiles = forecast(model, None, windows)

    np.testing.assert_allclose(quantiles[..., 1], model.common_part.predict(windows.inputs), rtol=1e-6)
    np.testing.assert_array_equal(quantiles, forecast(model, model.common_part, windows))


def test_a_missing_target_takes_no_part(windows_of: MakeWindows) -> None:
    whole = windows_of(logistic(200), bursts(200)[0])
    holes = np.zeros(whole.targets.shape, np.bool_)
    holes[::3, 0, 0] = True
    wrong = whole.targets.copy()
    wrong[holes] = 1e9
    linear = fit_blend(whole)
    holed, model = without(whole, holes), fresh(2)

    report = learn(model, holed, linear)

    assert report.loss < 2
    assert all(np.isfinite(array).all() for array in to_arrays(model))


def test_a_horizon_that_was_never_measured_teaches_nothing(windows_of: MakeWindows) -> None:
    whole = windows_of(logistic(200), bursts(200)[0])
    holes = np.zeros(whole.targets.shape, np.bool_)
    holes[:, 1, 1] = True
    model = fresh(2)
    before = head(model)

    learn(model, without(whole, holes), fit_blend(whole))

    changed = (head(model) != before).any(axis=(2, 3))
    assert changed.tolist() == [[True, True], [True, False]]


def head(model: Forecaster) -> Values:
    """The last layer's weights by horizon, series and quantile, shape [h, k, 3, seen]."""
    shape = model.shape
    weights = model.head.weight.detach().numpy().copy()
    return np.asarray(weights.reshape(shape.horizons, shape.series, 3, -1), np.float64)


def test_a_series_that_a_node_lacks_neither_hinders_nor_learns(windows_of: MakeWindows) -> None:
    windows, model = windows_of(logistic(700), np.full(700, np.nan)), fresh(2)
    linear, before = fit_blend(windows), head(model)

    learn(model, windows, linear, epochs=30)

    quantiles = forecast(model, linear, windows)
    errors, alone = ((f - windows.targets)[:, 0, 0] for f in (quantiles[..., 1], linear.predict(windows.inputs)))
    assert np.sqrt((errors**2).mean()) < 0.6 * np.sqrt((alone**2).mean())
    assert np.isnan(quantiles[:, :, 1]).all()
    np.testing.assert_array_equal(head(model)[:, 1], before[:, 1])


@pytest.mark.parametrize("value", [0.0, 7.5, 0.05202897425988651, 8e9])
def test_a_series_that_never_moves_neither_hinders_nor_learns(value: float, windows_of: MakeWindows) -> None:
    alone, beside = fresh(2), fresh(2)
    lacking = windows_of(logistic(221), np.full(221, np.nan))
    windows = windows_of(logistic(221), np.full(221, value))
    linear = fit_blend(windows)

    expected, report = learn(alone, lacking), learn(beside, windows, linear)

    assert report.loss == pytest.approx(expected.loss, rel=1e-6)
    for one, other in zip(to_arrays(alone), to_arrays(beside), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    np.testing.assert_allclose(forecast(beside, linear, windows)[:, :, 1], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("value", [3.0, 0.05202897425988651])
def test_where_nothing_ever_moves_there_is_nothing_to_learn_and_that_is_said(
    value: float, windows_of: MakeWindows
) -> None:
    windows, model = windows_of(np.full(221, value), np.full(221, np.nan)), fresh(2)
    before = to_arrays(model)

    with pytest.raises(NotReady, match="no window has a target to learn from: every series is constant, or absent"):
        learn(model, windows)

    assert all(np.array_equal(a, b) for a, b in zip(before, to_arrays(model), strict=True))


def test_windows_without_any_target_are_reported_as_not_ready(windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(100))

    with pytest.raises(NotReady, match="no window has a target"):
        learn(fresh(), without(windows, np.ones(windows.targets.shape, np.bool_)), fit_blend(windows))


def test_no_windows_are_reported_as_not_ready(windows_of: MakeWindows) -> None:
    with pytest.raises(NotReady, match="no window to train on"):
        learn(fresh(), windows_of(np.zeros(5)))


def test_a_wild_value_does_not_spoil_the_model(windows_of: MakeWindows) -> None:
    values, model = logistic(300), fresh()
    values[150] = 1e99

    report = learn(model, windows_of(values))

    assert np.isfinite(report.loss)
    assert all(np.isfinite(array).all() for array in to_arrays(model))


def test_a_proximal_term_holds_the_weights_but_is_no_part_of_the_loss_that_is_told(windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(400))
    linear, began = fit_blend(windows), to_arrays(fresh())
    losses, moved = [], []
    for mu in (0.0, 1e3):
        model = fresh()
        report = fit(model, windows, linear, epochs=1, learning_rate=1e-3, batch_size=64, seed=1, proximal_mu=mu)
        losses.append(report.loss)
        moved.append(max(float(np.abs(one - two).max()) for one, two in zip(to_arrays(model), began, strict=True)))

    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert moved[1] < 0.7 * moved[0]


def test_a_training_that_diverges_says_so(windows_of: MakeWindows) -> None:
    windows = windows_of(logistic(300))

    with pytest.raises(RunFailed, match="training diverged: the loss is not finite") as caught:
        fit(fresh(), windows, fit_blend(windows), epochs=5, learning_rate=1e37, batch_size=32, seed=1)

    assert "learning-rate" in caught.value.cure


def calendar(model: Forecaster) -> Values:
    """What the last layer makes of the time of day."""
    return head(model)[..., -CALENDAR:]


@pytest.mark.parametrize(("days", "told"), [(1.9, False), (2.6, True)])
def test_the_time_of_day_is_learned_from_two_days_on(days: float, told: bool) -> None:
    windows, model = over_days(days), fresh()

    learn(model, windows)

    assert bool((calendar(model) != 0).any()) is told
    assert bool((head(model) != 0).any())


@each_network
def test_a_rhythm_of_a_day_is_learned_from_a_few_days(network: str) -> None:
    train, later = over_days(6), over_days(4, seed=2)
    linear, model = fit_blend(train), fresh(network=network)

    learn(model, train, linear, epochs=15)

    alone, together = rmse(linear.predict(later.inputs), later), rmse(forecast(model, linear, later)[..., 1], later)
    assert together[1, 0] < 0.85 * alone[1, 0]
    at_another_hour = predict(model, linear, later.inputs, later.last_times + DAY // 4)[..., 1]
    assert rmse(at_another_hour, later)[1, 0] > alone[1, 0]


def test_one_thread_is_used_and_the_setting_is_given_back(
    monkeypatch: pytest.MonkeyPatch, windows_of: MakeWindows
) -> None:
    used, forward = [], Forecaster.forward
    before, windows = torch.get_num_threads(), windows_of(logistic(100))

    def watched(self: Forecaster, *seen: torch.Tensor) -> torch.Tensor:
        used.append(torch.get_num_threads())
        return forward(self, *seen)

    monkeypatch.setattr(Forecaster, "forward", watched)
    torch.set_num_threads(2)
    try:
        model = fresh()
        learn(model, windows)
        forecast(model, None, windows)
        assert set(used) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_parts_of_other_shapes_are_refused(windows_of: MakeWindows) -> None:
    one, two = windows_of(logistic(100)), windows_of(logistic(100), logistic(100))
    other = build(ModelShape(GRU, 1, 3, 12, 4, 1), 1)

    with pytest.raises(SchemaMismatch, match=r"1 series, 12 steps and 2 horizons cannot take inputs of shape \(85, 12"):
        learn(fresh(), two)
    with pytest.raises(SchemaMismatch, match=r"linear part of shape \(2, 12, 2\)"):
        forecast(fresh(), fit_blend(two), one)
    with pytest.raises(SchemaMismatch, match="3 horizons"):
        learn(other, one)
    with pytest.raises(SchemaMismatch, match="3 horizons cannot learn 2"):
        learn(other, one, Linear(np.zeros((1, 12, 3)), np.zeros((1, 3)), np.ones((1, 3))))
    with pytest.raises(SchemaMismatch, match=r"inputs of shape \(85, 11, 1\)"):
        predict(fresh(), None, one.inputs[:, 1:], one.last_times)


def test_forecasts_do_not_depend_on_the_other_windows_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, windows_of: MakeWindows
) -> None:
    windows, model = windows_of(logistic(100)), fresh()
    linear, rng = fit_blend(windows), np.random.default_rng(1)
    load_arrays(model, [rng.normal(0, 0.3, array.shape).astype(np.float32) for array in to_arrays(model)])
    together = forecast(model, linear, windows)

    monkeypatch.setattr(loop, "BATCH", 7)

    np.testing.assert_allclose(forecast(model, linear, windows), together, rtol=1e-5)
    assert predict(model, linear, windows.inputs[:0], windows.last_times[:0]).shape == (0, 2, 1, 3)


def test_windows_are_looked_at_in_parts_and_learned_from_as_one(
    monkeypatch: pytest.MonkeyPatch, windows_of: MakeWindows
) -> None:
    windows, looked = windows_of(logistic(100), np.where(np.arange(100) < 50, bursts(100)[0], np.nan)), []
    linear = fit_blend(windows)
    together = loop.examples_of(windows, linear)

    def watched(inputs: Values, *given: Any) -> View:
        looked.append(len(inputs))
        return look(inputs, *given)

    monkeypatch.setattr(loop, "look", watched)
    monkeypatch.setattr(loop, "BATCH", 7)
    apart = loop.examples_of(windows, linear)

    assert sum(looked) == len(windows) > 7
    assert max(looked) == 7
    for name in ("steps", "expected", "context", "targets", "weights"):
        one, other = getattr(together, name), getattr(apart, name)
        assert one.dtype == other.dtype == torch.float32
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_fitting_does_not_load_the_compiler_and_the_package_does_not_load_torch() -> None:
    script = """
import sys
import icosfl.train, icosfl.train.local, icosfl.train.linear, icosfl.train.node, icosfl.process
assert not {"torch", "flwr", "dataclay"} & set(sys.modules), "loaded with the package"
import numpy as np
from icosfl.process import Windows
from icosfl.train.linear import fit_blend
from icosfl.train.loop import fit
from icosfl.train.model import ModelShape, build
inputs = np.random.default_rng(1).normal(size=(8, 4, 1))
windows = Windows(inputs, inputs[:, -1:, :] ** 2, np.arange(8), (1,), 1)
fit(build(ModelShape("lstm", 1, 1, 4, 4, 1), 1), windows, fit_blend(windows),
    epochs=1, learning_rate=0.01, batch_size=4, seed=1)
assert "torch._dynamo" not in sys.modules, "loaded by the optimiser"
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
