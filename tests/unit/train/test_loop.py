from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from icosfl.errors import NotReady, RunFailed, SchemaMismatch
from icosfl.process import Scaler, Windows
from icosfl.train import loop
from icosfl.train.loop import FitReport, fit, predict
from icosfl.train.model import Forecaster, ModelShape, build, load_arrays, to_arrays

MakeWindows = Callable[..., Windows]
MakeScaler = Callable[[Windows], Scaler]


def fresh(series: int = 1) -> Forecaster:
    return build(ModelShape(series, 2, 16, 1), seed=1)


def learn(model: Forecaster, windows: Windows, scaler: Scaler, *, epochs: int = 2, seed: int = 1) -> FitReport:
    return fit(model, windows, scaler, epochs=epochs, learning_rate=0.01, batch_size=32, seed=seed)


def rmse(forecasts: np.ndarray, targets: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean((forecasts - targets) ** 2)))


def test_a_fitted_model_beats_persistence_on_a_wave_that_it_did_not_see(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    train, validation = windows_of(wave[:220]), windows_of(wave[220:])
    scaler, model = scaler_of(train), fresh()

    report = learn(model, train, scaler, epochs=15)

    persistence = rmse(np.repeat(validation.inputs[:, -1:, :], 2, axis=1), validation.targets)
    assert rmse(predict(model, scaler, validation.inputs), validation.targets) < 0.5 * persistence
    assert report.loss_last < 0.3 < report.loss_first
    assert (report.examples, report.epochs) == (len(train), 15)


def test_the_loss_of_persistence_is_1(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(wave, np.cumsum(wave - 50), np.full(300, np.nan))

    report = fit(fresh(3), windows, scaler_of(windows), epochs=1, learning_rate=1e-12, batch_size=1000, seed=1)

    assert report.loss_first == pytest.approx(1, rel=1e-4)


def test_the_same_seed_gives_the_same_model(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(wave)
    models = [fresh(), fresh(), fresh()]

    for model, seed in zip(models, (7, 7, 8), strict=True):
        learn(model, windows, scaler_of(windows), seed=seed)

    first, same, other = (to_arrays(model) for model in models)
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_missing_target_takes_no_part(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    whole = windows_of(wave, wave[::-1])
    holes = np.zeros(whole.targets.shape, np.bool_)
    holes[::3, 0, 0] = holes[:, 1, 1] = True
    kept = Windows(whole.inputs, np.where(holes, np.nan, whole.targets), whole.last_times, (1, 4), whole.period_ns)
    model = fresh(2)

    report = learn(model, kept, scaler_of(whole))

    assert np.isfinite(report.loss_last)
    head = dict(model.named_parameters())["head.weight"].detach().reshape(2, 2, 16)
    assert bool((head[1, 1] == 0).all())  # never a target of this series at this horizon: nothing was learnt
    assert bool((head[0, 0] != 0).any())


def test_a_series_that_a_node_lacks_neither_hinders_nor_learns(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows, model = windows_of(wave, np.full(300, np.nan)), fresh(2)
    scaler = scaler_of(windows)

    report = learn(model, windows, scaler, epochs=8)
    forecasts = predict(model, scaler, windows.inputs)

    assert report.loss_last < 0.7
    assert np.isfinite(forecasts[:, :, 0]).all()
    assert np.isnan(forecasts[:, :, 1]).all()


def test_a_constant_series_is_forecast_as_constant(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows, model = windows_of(wave, np.full(300, 7.5)), fresh(2)
    scaler = scaler_of(windows)

    learn(model, windows, scaler)

    np.testing.assert_allclose(predict(model, scaler, windows.inputs)[:, :, 1], 7.5, atol=1e-3)


@pytest.mark.parametrize(
    "scaler", [Scaler(np.array([8e9]), np.array([1.0])), Scaler(np.array([4e10]), np.array([3e10]))]
)
def test_a_scaler_of_another_time_or_of_larger_nodes_costs_no_precision(
    scaler: Scaler, wave: np.ndarray, windows_of: MakeWindows
) -> None:
    windows = windows_of(8.5e9 + 1e5 * wave)  # bytes: once still at 8e9; a small node beside large ones

    forecasts = predict(fresh(), scaler, windows.inputs)

    np.testing.assert_allclose(forecasts, np.repeat(windows.inputs[:, -1:, :], 2, axis=1), rtol=0, atol=1e-3)


def test_a_series_that_was_still_when_the_scaler_was_made_can_be_learned_later(
    wave: np.ndarray, windows_of: MakeWindows
) -> None:
    still, windows, model = Scaler(np.array([8e9]), np.array([1.0])), windows_of(8.5e9 + 1e3 * wave), fresh()

    learn(model, windows, still, epochs=15)

    persistence = rmse(np.repeat(windows.inputs[:, -1:, :], 2, axis=1), windows.targets)
    assert rmse(predict(model, still, windows.inputs), windows.targets) < 0.5 * persistence


def test_series_that_never_change_leave_a_model_as_it_is(windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows, model = windows_of(np.full(50, 3.0)), fresh()
    before = to_arrays(model)

    report = learn(model, windows, scaler_of(windows))

    assert report.loss_first == report.loss_last == 0
    assert all(np.array_equal(a, b) for a, b in zip(before, to_arrays(model), strict=True))


def test_a_wild_value_does_not_make_the_loss_infinite(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    scaler, model = scaler_of(windows_of(wave)), fresh()
    wave[150] = 1e99

    report = learn(model, windows_of(wave), scaler)

    assert np.isfinite([report.loss_first, report.loss_last]).all()
    assert all(np.isfinite(array).all() for array in to_arrays(model))


def test_one_thread_is_used_and_the_setting_is_given_back(
    monkeypatch: pytest.MonkeyPatch, wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    used, forward = [], Forecaster.forward
    before = torch.get_num_threads()

    def watched(self: Forecaster, windows: torch.Tensor) -> torch.Tensor:
        used.append(torch.get_num_threads())
        return forward(self, windows)

    monkeypatch.setattr(Forecaster, "forward", watched)
    torch.set_num_threads(2)
    try:
        learn(fresh(), windows_of(wave), scaler_of(windows_of(wave)))
        assert set(used) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_no_windows_are_reported_as_not_ready(windows_of: MakeWindows) -> None:
    with pytest.raises(NotReady, match="no window to train on"):
        learn(fresh(), windows_of(np.zeros(5)), Scaler(np.zeros(1), np.ones(1)))


def test_windows_without_any_target_are_reported_as_not_ready(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows = windows_of(wave)
    nothing = Windows(
        windows.inputs, np.full_like(windows.targets, np.nan), windows.last_times, (1, 4), windows.period_ns
    )

    with pytest.raises(NotReady, match="no window has a target"):
        learn(fresh(), nothing, scaler_of(windows))


def test_a_training_that_diverges_says_so(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(wave)

    with pytest.raises(RunFailed, match="loss is not finite") as caught:
        fit(fresh(), windows, scaler_of(windows), epochs=5, learning_rate=1e30, batch_size=32, seed=1)

    assert "learning-rate" in caught.value.cure


def test_parts_of_other_shapes_are_refused(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    one, two = windows_of(wave), windows_of(wave, wave)

    with pytest.raises(SchemaMismatch, match="1 series"):
        learn(fresh(), two, scaler_of(two))
    with pytest.raises(SchemaMismatch, match="scaler of 2"):
        predict(fresh(), scaler_of(two), one.inputs)
    with pytest.raises(SchemaMismatch, match="3 horizons"):
        learn(build(ModelShape(1, 3, 4, 1), 1), one, scaler_of(one))


def test_forecasts_do_not_depend_on_the_other_windows_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows, model = windows_of(wave), fresh()
    rng = np.random.default_rng(1)
    load_arrays(model, [rng.normal(0, 0.3, array.shape).astype(np.float32) for array in to_arrays(model)])
    together = predict(model, scaler_of(windows), windows.inputs)

    monkeypatch.setattr(loop, "BATCH", 7)

    np.testing.assert_allclose(predict(model, scaler_of(windows), windows.inputs), together, rtol=1e-5)
    assert predict(model, scaler_of(windows), windows.inputs[:0]).shape == (0, 2, 1)


def test_fitting_does_not_load_the_compiler_and_the_package_does_not_load_torch() -> None:
    script = """
import sys
import icosfl.train, icosfl.train.local, icosfl.process
assert not {"torch", "flwr", "dataclay"} & set(sys.modules), "loaded with the package"
import numpy as np
from icosfl.process import Scaler, Windows
from icosfl.train.loop import fit
from icosfl.train.model import ModelShape, build
inputs = np.random.default_rng(1).normal(size=(8, 4, 1))
windows = Windows(inputs, inputs[:, -1:, :] + 1, np.arange(8), (1,), 1)
fit(build(ModelShape(1, 1, 4, 1), 1), windows, Scaler(np.zeros(1), np.ones(1)),
    epochs=1, learning_rate=0.01, batch_size=4, seed=1)
assert "torch._dynamo" not in sys.modules, "loaded by the optimiser"
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr
