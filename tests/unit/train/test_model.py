from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icosfl.errors import SchemaMismatch
from icosfl.schema import Times, Values
from icosfl.train.linear import Linear
from icosfl.train.model import Forecaster, View, build, load_arrays, look, take_common, to_arrays
from icosfl.train.settings import TrainSettings
from icosfl.train.shape import CALENDAR, GRU, LSTM, NETWORKS, ModelShape

SHAPE = ModelShape(LSTM, series=3, horizons=2, window=12, hidden=8, layers=2)
HOUR = 3600 * 1_000_000_000

each_network = pytest.mark.parametrize("network", NETWORKS)


def trained(seed: int, shape: ModelShape = SHAPE, size: float = 0.3) -> Forecaster:
    """A model with other weights than a fresh one, as after training."""
    model = build(shape, seed)
    rng = np.random.default_rng(seed)
    load_arrays(model, [array + rng.normal(0, size, array.shape).astype(np.float32) for array in to_arrays(model)])
    return model


def some_windows(count: int = 5, seed: int = 1) -> Values:
    return np.random.default_rng(seed).normal(size=(count, 12, 3)) * [1.0, 30.0, 1e6] + [0.0, 100.0, 8e9]


def some_linear(noise: float = 1.0) -> Linear:
    """Weights that sum to 1, as those of a map without a level of its own."""
    weights = np.random.default_rng(1).normal(size=(3, 12, 2))
    weights += (1 - weights.sum(axis=1, keepdims=True)) / 12
    return Linear(weights, np.zeros((3, 2)), noise * np.array([[1.0, 1.5], [30.0, 50.0], [1e6, 2e6]]))


def forecast(model: Forecaster, inputs: Values, linear: Linear, times: Times | None = None) -> Values:
    with torch.inference_mode():
        view = look(inputs, linear, times)
        return view.back(model(view.steps, view.expected, view.unit, view.context).numpy())


def seen(inputs: Values, linear: Linear) -> View:
    return look(inputs, linear, None)


@each_network
def test_a_forecast_has_three_quantiles_for_each_horizon_and_series(network: str) -> None:
    shape = ModelShape(network, 3, 2, 12, 8, 1)

    assert forecast(trained(1, shape), some_windows(), some_linear()).shape == (5, 2, 3, 3)


@each_network
def test_a_fresh_model_forecasts_what_the_linear_part_does(network: str) -> None:
    model, inputs, linear = build(ModelShape(network, 3, 2, 12, 8, 1), 1), some_windows(), some_linear()

    quantiles = forecast(model, inputs, linear)

    spread = inputs.std(axis=1)[:, None, :]
    expected = linear.predict(inputs)
    np.testing.assert_allclose((quantiles[..., 1] - expected) / spread, 0, atol=1e-6)
    assert (quantiles[..., 0] < expected).all()
    assert (quantiles[..., 2] > expected).all()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(0, 30),
    network=st.sampled_from([LSTM, GRU]),
    stretch=st.sampled_from([0.0, 1e-9, 1.0, 1e6, 1e60]),
    noise=st.sampled_from([0.0, 1e-6, 1.0, 1e3]),
)
def test_quantiles_never_cross_whatever_the_weights_and_the_window(
    seed: int, size: float, network: str, stretch: float, noise: float
) -> None:
    shape = ModelShape(network, 3, 2, 12, 4, 1)
    inputs = np.random.default_rng(seed).standard_t(1, size=(6, 12, 3)) * stretch

    quantiles = forecast(trained(seed, shape, size), inputs, some_linear(noise), np.arange(6) * HOUR)

    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=-1) >= 0).all()


def test_every_weight_takes_part_in_learning() -> None:
    model, view = trained(1), look(some_windows(), some_linear(), np.arange(5) * HOUR)

    (model(view.steps, view.expected, view.unit, view.context) - 1).square().mean().backward()

    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        dead = (parameter.grad == 0).float().mean()
        assert dead == 0, f"{dead:.0%} of {name} gets no gradient"


def test_what_the_network_adds_depends_on_the_order_of_the_steps() -> None:
    model, inputs = trained(1), some_windows()
    turned = inputs[:, ::-1]
    last = Linear(np.full((3, 12, 2), 1 / 12), np.zeros((3, 2)), np.ones((3, 2)))

    assert not np.allclose(forecast(model, inputs, last)[:, :, 0], forecast(model, turned, last)[:, :, 0], atol=1e-3)


@each_network
def test_a_busier_or_larger_node_gets_the_same_forecast_moved_and_stretched(network: str) -> None:
    model, inputs, linear = trained(1, ModelShape(network, 3, 2, 12, 8, 1)), some_windows(), some_linear()
    stretch, move = np.array([5.0, 0.01, 1e3]), np.array([2.0, -70.0, 1e10])
    there = Linear(linear.weights, linear.bias, linear.noise * stretch[:, None])

    quantiles = forecast(model, inputs * stretch + move, there)

    scale = (stretch * inputs.std(axis=1))[:, None, :, None]
    expected = forecast(model, inputs, linear) * stretch[:, None] + move[:, None]
    np.testing.assert_allclose((quantiles - expected) / scale, 0, atol=1e-3)


def test_a_series_that_is_absent_from_one_window_is_forecast_from_the_others() -> None:
    model, inputs = trained(1), some_windows()
    gone = inputs.copy()
    gone[2, :, 1] = np.nan

    quantiles = forecast(model, gone, some_linear())

    whole = forecast(model, inputs, some_linear())
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(quantiles[others], whole[others], rtol=1e-6)
    assert np.isnan(quantiles[2, :, 1]).all()
    assert np.isfinite(quantiles[2, :, [0, 2]]).all()


def test_a_series_that_the_linear_part_lacks_is_absent() -> None:
    linear, inputs = some_linear(), some_windows()
    for numbers in (linear.weights, linear.bias, linear.noise):
        numbers[1] = np.nan
    gone = inputs.copy()
    gone[:, :, 1] = np.nan

    quantiles = forecast(trained(1), inputs, linear)

    np.testing.assert_array_equal(quantiles, forecast(trained(1), gone, some_linear()))
    assert np.isnan(quantiles[:, :, 1]).all()


def test_a_window_that_stands_still_is_measured_by_the_linear_parts_usual_error() -> None:
    inputs = np.full((1, 12, 3), 70.0)

    near, far = (np.diff(forecast(trained(1), inputs, some_linear(noise))[0, 0, 0])[0] for noise in (0.1, 10))

    assert far == pytest.approx(100 * near, rel=1e-3)


def test_a_window_that_stands_still_without_any_error_is_forecast_as_it_stands() -> None:
    inputs = np.full((1, 12, 3), 70.1)

    quantiles = forecast(trained(1), inputs, some_linear(0.0))

    np.testing.assert_allclose(quantiles, 70.1, rtol=1e-9)


def test_a_window_is_seen_in_its_own_spread_around_its_own_mean() -> None:
    view = seen(some_windows(), some_linear(1e-9))

    steps = view.steps.sinh()
    np.testing.assert_allclose(steps.mean(dim=1), 0, atol=1e-6)
    np.testing.assert_allclose(steps.square().mean(dim=1), 1, rtol=1e-5)
    np.testing.assert_allclose(view.centre[:, 0], some_windows().mean(axis=1))
    np.testing.assert_allclose(view.spread[:, 0], some_windows().std(axis=1))
    back = view.back(view.expected.numpy()[..., None])[..., 0]
    expected = some_linear().predict(some_windows())
    np.testing.assert_allclose((back - expected) / view.spread, 0, atol=1e-5)


@pytest.mark.parametrize(("window", "read", "steps"), [(5, 1, 5), (15, 1, 15), (16, 2, 8), (23, 2, 12), (60, 5, 12)])
def test_the_network_reads_several_values_a_step_but_takes_no_fewer_than_eight(
    window: int, read: int, steps: int
) -> None:
    inputs = np.random.default_rng(1).normal(size=(4, window, 2))
    linear = Linear(np.zeros((2, window, 1)), np.zeros((2, 1)), np.ones((2, 1)))

    view = seen(inputs, linear)

    assert ModelShape(LSTM, 2, 1, window, 4, 1).read == read
    assert view.steps.shape == (4, steps, 2 * read)
    told = view.steps.sinh().reshape(4, steps * read, 2).numpy()
    assert (told[:, : steps * read - window] == 0).all()
    np.testing.assert_allclose(told[:, steps * read - window :], (inputs - view.centre) / view.spread, atol=1e-5)


def test_a_fresh_interval_is_as_wide_as_spread_and_usual_error_ask_for_together() -> None:
    model, inputs = build(SHAPE, 1), some_windows()

    narrow, wide = (np.diff(forecast(model, inputs, some_linear(noise)), axis=-1) for noise in (1e-4, 4e-4))

    np.testing.assert_allclose(wide / narrow, 2, rtol=1e-2)


def test_a_wilder_window_is_told_from_a_calm_one() -> None:
    inputs = some_windows(1)
    centre = inputs.mean(axis=1, keepdims=True)

    calm, wild = (seen(centre + share * (inputs - centre), some_linear()).context[0, :3] for share in (0.1, 10))

    assert (wild - calm > 1).all()


def test_the_time_of_day_is_told_or_not_and_comes_again_each_day() -> None:
    inputs, linear = some_windows(4), some_linear()
    times = np.array([0, 6, 24, 30], np.int64) * HOUR + 20_000 * 24 * HOUR

    told, untold = look(inputs, linear, times).context, look(inputs, linear, None).context

    assert told.shape == (4, 3 + CALENDAR)
    torch.testing.assert_close(told[:, :3], untold[:, :3])
    assert bool((untold[:, 3:] == 0).all())
    torch.testing.assert_close(told[:2, 3:], told[2:, 3:], rtol=0, atol=1e-5)
    assert not torch.allclose(told[0, 3:], told[1, 3:], atol=0.5)


@pytest.mark.parametrize("stretch", [1e-300, 1e-30, 1e99])
def test_tiny_and_huge_values_are_forecast_in_their_own_size(stretch: float) -> None:
    inputs = np.random.default_rng(1).normal(size=(5, 12, 3))
    linear = some_linear()
    tiny = Linear(linear.weights, linear.bias, np.ones((3, 2)) * stretch)

    quantiles = forecast(trained(1), inputs * stretch, tiny)

    assert np.isfinite(quantiles).all()
    if stretch > 1e-35:  # what is less than a float32 can tell from 0 stands still
        alike = forecast(trained(1), inputs, Linear(linear.weights, linear.bias, np.ones((3, 2))))
        np.testing.assert_allclose(quantiles / stretch, alike, rtol=1e-3, atol=1e-3)


def test_the_seed_decides_the_weights_and_leaves_other_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    first, second, other = (to_arrays(build(SHAPE, seed)) for seed in (1, 1, 2))

    assert torch.equal(torch.rand(3), expected)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@each_network
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_shape_tells_the_model_s_arrays(network: str, layers: int) -> None:
    shape = ModelShape(network, 4, 3, 20, 16, layers)

    state = build(shape, 1).state_dict()

    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(shape.arrays())
    assert shape.parameters == sum(tensor.numel() for tensor in state.values())


@each_network
@pytest.mark.parametrize("period", [1.0, 3.0])
def test_the_project_s_own_model_is_small(run_config: dict[str, object], network: str, period: float) -> None:
    own = TrainSettings.from_run_config(run_config | {"network": network})
    window, horizons = own.window_steps(period), len(own.horizon_steps(period))

    shape = ModelShape(own.network, len(own.series), horizons, window, own.hidden_size, own.num_layers)

    assert shape.parameters <= 100_000


@each_network
def test_arrays_carry_the_whole_model(network: str) -> None:
    shape = ModelShape(network, 3, 2, 12, 8, 2)
    model, other = trained(1, shape), build(shape, 2)

    load_arrays(other, to_arrays(model))

    for linear in (some_linear(), model.common_part):
        np.testing.assert_array_equal(
            forecast(other, some_windows(), linear), forecast(model, some_windows(), linear), strict=True
        )
    np.testing.assert_array_equal(other.common_part.weights, model.common_part.weights)


def test_arrays_are_copies() -> None:
    model = trained(1)
    before = to_arrays(model)

    for array in to_arrays(model):
        array[:] = 0

    assert all(np.array_equal(a, b) for a, b in zip(before, to_arrays(model), strict=True))


def test_the_average_of_two_models_is_a_model() -> None:
    pairs = zip(to_arrays(trained(1)), to_arrays(trained(2)), strict=True)
    average = [np.average([a, b], axis=0, weights=[100, 300]).astype(np.float32) for a, b in pairs]
    model = build(SHAPE, 3)

    load_arrays(model, average)

    assert np.isfinite(forecast(model, some_windows(), some_linear())).all()
    for array, expected in zip(to_arrays(model), average, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_a_node_s_plain_linear_part_takes_the_place_of_the_common_one() -> None:
    model, own = trained(1), some_linear()
    before = model.common_part.weights
    own.weights[1] = np.nan

    take_common(model, own)

    common = model.common_part
    np.testing.assert_allclose(common.weights[[0, 2]], own.weights[[0, 2]], rtol=1e-6)
    np.testing.assert_array_equal(common.weights[1], before[1])
    assert common.fitted.all()


def test_the_common_part_is_not_trained() -> None:
    assert "common" not in dict(build(SHAPE, 1).named_parameters())
    assert "common" in build(SHAPE, 1).state_dict()


def test_a_linear_part_of_another_shape_does_not_take_the_common_ones_place() -> None:
    model = trained(1)
    before = model.common_part.weights

    with pytest.raises(SchemaMismatch, match=r"linear part of shape \(3, 11, 2\) does not fit"):
        take_common(model, Linear(np.zeros((3, 11, 2)), np.zeros((3, 2)), np.zeros((3, 2))))

    np.testing.assert_array_equal(model.common_part.weights, before)


def _wrong(change: str) -> list[np.ndarray]:
    arrays: list[np.ndarray] = list(to_arrays(trained(1)))
    if change == "missing":
        return arrays[:-1]
    if change == "common":
        arrays[0] = arrays[0][:, 1:]
    if change == "shape":
        arrays[1] = arrays[1].T
    if change == "nan":
        arrays[3][0] = np.nan
    if change == "infinite":
        arrays[3][0] = np.inf
    if change == "precision":
        arrays[3] = np.full(arrays[3].shape, 1e300)
    if change == "type":
        arrays[3] = arrays[3].astype(np.int64)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "11 arrays, not 10"),
        ("common", r"common must be of shape \(3, 12, 2\), not \(3, 11, 2\)"),
        ("shape", r"network.weight_ih_l0 must be of shape \(32, 3\), not \(3, 32\)"),
        ("nan", "network.bias_ih_l0 holds numbers that are not finite"),
        ("infinite", "not finite"),
        ("precision", "floating type float32, not float64"),
        ("type", "floating type float32, not int64"),
    ],
)
def test_arrays_of_another_model_are_refused_and_change_nothing(change: str, message: str) -> None:
    model = build(SHAPE, 2)
    before = to_arrays(model)

    with pytest.raises(SchemaMismatch, match=message):
        load_arrays(model, _wrong(change))

    assert all(np.array_equal(a, b) for a, b in zip(before, to_arrays(model), strict=True))


@pytest.mark.parametrize("field", ["series", "horizons", "window", "hidden", "layers"])
def test_a_shape_without_anything_is_refused(field: str) -> None:
    numbers = {"series": 1, "horizons": 1, "window": 1, "hidden": 1, "layers": 1} | {field: 0}

    with pytest.raises(SchemaMismatch, match=f"at least one of everything.*{field}=0"):
        ModelShape(LSTM, **numbers)


@pytest.mark.parametrize("network", ["", "LSTM", "transformer"])
def test_an_unknown_network_is_refused_and_the_known_ones_named(network: str) -> None:
    with pytest.raises(SchemaMismatch, match=f"{network!r} is no network; there are lstm, gru"):
        ModelShape(network, 1, 1, 1, 1, 1)
