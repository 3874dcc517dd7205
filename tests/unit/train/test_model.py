from __future__ import annotations

import numpy as np
import pytest
import torch

from icosfl.errors import SchemaMismatch
from icosfl.train.model import Forecaster, ModelShape, build, load_arrays, to_arrays

SHAPE = ModelShape(series=3, horizons=2, hidden=8, layers=2)


def trained(seed: int) -> Forecaster:
    """A model whose last layer is not zero any more, as after training."""
    model = build(SHAPE, seed)
    rng = np.random.default_rng(seed)
    load_arrays(model, [array + rng.normal(0, 0.3, array.shape).astype(np.float32) for array in to_arrays(model)])
    return model


def some_windows() -> torch.Tensor:
    return torch.randn(5, 12, 3, generator=torch.Generator().manual_seed(1))


def test_a_forecast_has_a_value_for_each_horizon_and_series() -> None:
    assert trained(1)(some_windows()).shape == (5, 2, 3)


def test_a_fresh_model_forecasts_the_last_value() -> None:
    windows = some_windows()

    forecasts = build(SHAPE, 1)(windows)

    torch.testing.assert_close(forecasts, windows[:, -1:, :].expand(5, 2, 3))


def test_every_weight_takes_part_in_learning() -> None:
    model = trained(1)

    (model(some_windows()) - 1).square().mean().backward()

    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        dead = (parameter.grad == 0).float().mean()
        assert dead == 0, f"{dead:.0%} of {name} gets no gradient"


def test_the_order_of_the_steps_in_a_window_matters() -> None:
    model, windows = trained(1), some_windows()
    turned = torch.cat([windows[:, :-1].flip(1), windows[:, -1:]], dim=1)

    assert not torch.allclose(model(windows), model(turned), atol=1e-3)


def test_a_busier_or_larger_node_gets_the_same_forecast_moved_and_stretched() -> None:
    model, windows = trained(1), some_windows()

    forecasts = model(windows * 5 + 2)

    torch.testing.assert_close(forecasts, model(windows) * 5 + 2, rtol=1e-4, atol=1e-4)


def test_a_flat_window_is_forecast_as_flat() -> None:
    forecasts = trained(1)(torch.full((1, 12, 3), 0.7))

    torch.testing.assert_close(forecasts, torch.full((1, 2, 3), 0.7), rtol=0, atol=1e-3)


def test_the_seed_decides_the_weights_and_leaves_other_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    first, second, other = (to_arrays(build(SHAPE, seed)) for seed in (1, 1, 2))

    assert torch.equal(torch.rand(3), expected)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("layers", [1, 3])
def test_the_shape_tells_the_model_s_arrays(layers: int) -> None:
    shape = ModelShape(4, 3, 16, layers)

    state = build(shape, 1).state_dict()

    assert [(name, tuple(tensor.shape)) for name, tensor in state.items()] == list(shape.arrays())


def test_arrays_carry_the_whole_model() -> None:
    model, other = trained(1), build(SHAPE, 2)

    load_arrays(other, to_arrays(model))

    torch.testing.assert_close(other(some_windows()), model(some_windows()), rtol=0, atol=0)


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

    assert torch.isfinite(model(some_windows())).all()
    np.testing.assert_allclose(to_arrays(model)[0], average[0], rtol=1e-6)


def _wrong(change: str) -> list[np.ndarray]:
    arrays: list[np.ndarray] = list(to_arrays(trained(1)))
    if change == "missing":
        return arrays[:-1]
    if change == "shape":
        arrays[0] = arrays[0].T
    if change == "nan":
        arrays[2][0] = np.nan
    if change == "infinite":
        arrays[2][0] = np.inf
    if change == "precision":
        arrays[2] = np.full(arrays[2].shape, 1e300)
    if change == "type":
        arrays[2] = arrays[2].astype(np.int64)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "10 arrays, not 9"),
        ("shape", r"lstm.weight_ih_l0 must be of shape \(32, 3\), not \(3, 32\)"),
        ("nan", "lstm.bias_ih_l0 holds numbers that are not finite"),
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


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_a_shape_without_anything_is_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(SchemaMismatch, match="at least one"):
        ModelShape(*numbers)
