from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from icosfl.errors import SchemaMismatch
from icosfl.process import Scaler, Windows
from icosfl.schema import Schema, Series
from icosfl.train import scores as scores_module
from icosfl.train.baselines import NAMES, PERSISTENCE
from icosfl.train.model import Forecaster, ModelShape, build
from icosfl.train.scores import Scores, evaluate, interval

MakeWindows = Callable[..., Windows]
MakeScaler = Callable[[Windows], Scaler]

CPU = Schema((Series("cpu_usage", "%"),))
CPU_AND_POWER = Schema((Series("cpu_usage", "%"), Series("power", "W")))


def fresh(series: int = 1) -> Forecaster:
    return build(ModelShape(series, 2, 8, 1), seed=1)


def without_targets(windows: Windows, missing: np.ndarray) -> Windows:
    return Windows(
        windows.inputs,
        np.where(missing, np.nan, windows.targets),
        windows.last_times,
        windows.horizons,
        windows.period_ns,
    )


def test_errors_are_in_the_series_own_unit(windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(np.arange(100.0) * 2)  # a fresh model is persistence: off by 2 a step

    scores = evaluate(fresh(), scaler_of(windows), CPU, windows, windows)

    near, far = scores.scores
    assert (near.series, near.unit, near.horizon_steps, near.horizon_seconds) == ("cpu_usage", "%", 1, 1.0)
    assert (far.horizon_steps, far.horizon_seconds) == (4, 4.0)
    assert near.count == far.count == len(windows)
    assert near.model is not None
    assert far.model is not None
    assert near.model.mae == pytest.approx(2, rel=1e-4)
    assert far.model.rmse == pytest.approx(8, rel=1e-4)
    assert near.baselines[PERSISTENCE].rmse == pytest.approx(2)
    assert near.skill[PERSISTENCE] == pytest.approx(0, abs=1e-4)
    assert near.skill["moving_average"] == pytest.approx(1 - 2 / 7, abs=1e-4)  # its six values lag 3.5 steps
    assert near.lower == pytest.approx(2, rel=1e-4)
    assert near.upper == pytest.approx(2, rel=1e-4)


def test_a_model_that_is_worse_than_a_baseline_is_reported_as_such(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows = windows_of(wave)

    scores = evaluate(fresh(), scaler_of(windows), CPU, windows, windows)

    for score in scores.scores:
        assert score.model is not None
        skill = score.skill["ar"]
        assert skill is not None
        assert skill == pytest.approx(1 - score.model.rmse / score.baselines["ar"].rmse)
        assert skill < -1


def test_model_and_baselines_are_measured_on_the_same_points(
    monkeypatch: pytest.MonkeyPatch, wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows = windows_of(wave)
    missing = np.zeros(windows.targets.shape, np.bool_)
    missing[:50, 0] = True
    given = without_targets(windows, missing)
    real = scores_module.predict

    def partly(model: Forecaster, scaler: Scaler, inputs: np.ndarray) -> np.ndarray:
        forecasts = real(model, scaler, inputs)
        forecasts[-30:] = np.nan
        return forecasts

    monkeypatch.setattr(scores_module, "predict", partly)
    near, far = evaluate(fresh(), scaler_of(windows), CPU, windows, given).scores

    assert (near.count, far.count) == (len(windows) - 80, len(windows) - 30)
    expected = np.abs(windows.targets[50:-30, 0, 0] - windows.inputs[50:-30, -1, 0]).mean()
    assert near.baselines[PERSISTENCE].mae == pytest.approx(expected)
    assert near.model is not None
    assert near.model.mae == pytest.approx(expected, rel=1e-4)


def test_a_series_without_points_has_no_numbers(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    windows = windows_of(wave, np.full(300, np.nan))

    scores = evaluate(fresh(2), scaler_of(windows), CPU_AND_POWER, windows, windows)

    power = scores.of("power", 4)
    assert power is not None
    assert power.count == 0
    assert power.unit == "W"
    assert (power.model, power.lower, power.upper, power.coverage) == (None, None, None, None)
    assert power.skill == power.baselines == {}
    cpu = scores.of("cpu_usage", 4)
    assert cpu is not None
    assert cpu.count == len(windows)


def test_against_a_perfect_baseline_there_is_no_skill_to_state(windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(np.full(60, 5.0))

    near, _ = evaluate(fresh(), scaler_of(windows), CPU, windows, windows).scores

    assert near.baselines[PERSISTENCE].rmse == 0
    assert near.skill == dict.fromkeys(NAMES)


def test_baselines_are_fitted_on_the_training_windows_alone(
    wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    train, validation = windows_of(wave[:200]), windows_of(wave[200:])
    other = windows_of(wave[:200][::-1] ** 2)

    own = evaluate(fresh(), scaler_of(train), CPU, train, validation).scores[0]
    foreign = evaluate(fresh(), scaler_of(train), CPU, other, validation).scores[0]

    assert own.baselines["ar"].rmse < foreign.baselines["ar"].rmse
    assert own.baselines[PERSISTENCE] == foreign.baselines[PERSISTENCE]


@pytest.mark.parametrize(
    ("count", "ends"),
    [(1, (0, 0)), (8, (0, 7)), (9, (0, 8)), (18, (0, 17)), (19, (1, 17)), (99, (9, 89))],
)
def test_the_interval_s_ends_are_order_statistics(count: int, ends: tuple[int, int]) -> None:
    residuals = np.random.default_rng(1).permutation(count).astype(np.float64)

    assert interval(residuals) == ends


@pytest.mark.parametrize("count", [9, 19, 50])
def test_the_interval_holds_at_least_80_percent_of_new_errors_of_the_same_kind(count: int) -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(2000):
        lower, upper = interval(rng.normal(size=count))
        held.append(lower <= rng.normal() <= upper)

    assert 0.78 <= np.mean(held) <= 0.88


def test_coverage_tells_what_the_interval_of_the_older_half_held_of_the_newer(
    windows_of: MakeWindows, scaler_of: MakeScaler
) -> None:
    rng = np.random.default_rng(1)
    calm = 50 + rng.normal(0, 1, 600)
    wild = np.concatenate([calm[:300], 50 + rng.normal(0, 20, 300)])

    found = []
    for values in (calm, wild):
        windows = windows_of(values)
        coverage = evaluate(fresh(), scaler_of(windows), CPU, windows, windows).scores[0].coverage
        assert coverage is not None
        found.append(coverage)

    assert 0.7 <= found[0] <= 0.9
    assert found[1] < 0.3


def test_a_few_points_are_too_few_for_a_coverage(windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(np.arange(32.0) % 5)

    near = evaluate(fresh(), scaler_of(windows), CPU, windows, windows).scores[0]

    assert near.count == 17
    assert near.coverage is None
    assert near.lower is not None


def test_scores_survive_the_way_through_json(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    windows = windows_of(wave, np.full(300, np.nan))
    scores = evaluate(fresh(2), scaler_of(windows), CPU_AND_POWER, windows, windows)

    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict(), allow_nan=False))) == scores


@pytest.mark.parametrize("data", [None, [], {}, {"scores": [{}]}, {"scores": [], "train_windows": 1, "more": 2}])
def test_something_else_is_refused(data: object) -> None:
    with pytest.raises(SchemaMismatch, match="no scores"):
        Scores.from_dict(data)


def test_there_is_no_score_of_an_unknown_series_or_horizon() -> None:
    assert Scores(0, 0, ()).of("cpu_usage", 1) is None


def test_parts_of_other_shapes_are_refused(wave: np.ndarray, windows_of: MakeWindows, scaler_of: MakeScaler) -> None:
    one, two = windows_of(wave), windows_of(wave, wave)

    with pytest.raises(SchemaMismatch, match="share their series"):
        evaluate(fresh(), scaler_of(one), CPU_AND_POWER, one, one)
    with pytest.raises(SchemaMismatch, match="share their series"):
        evaluate(fresh(), scaler_of(one), CPU, two, one)
    with pytest.raises(SchemaMismatch, match="3 horizons"):
        evaluate(build(ModelShape(1, 3, 4, 1), 1), scaler_of(one), CPU, one, one)
