from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icosfl.errors import SchemaMismatch
from icosfl.process import Grid, Windows, bridge_gaps
from icosfl.process.windows import make_windows
from icosfl.schema import Schema, Series
from icosfl.train.baselines import AR, GLOBAL, MOVING_AVERAGE, NAMES, PERSISTENCE, SEASONAL_NAIVE, Baselines
from icosfl.train.linear import Linear, fit_blend
from icosfl.train.model import Forecaster, ModelShape, build
from icosfl.train.scores import (
    FEWEST_POINTS,
    LARGEST_ERROR,
    SERVED,
    Errors,
    Score,
    Scores,
    evaluate,
    mean_steps,
    offsets,
    score,
    summary,
)

MakeWindows = Callable[..., Windows]

SECOND = 1_000_000_000
NAN = np.nan
CPU = Schema((Series("cpu_usage", "%"),))
CPU_AND_POWER = Schema((Series("cpu_usage", "%"), Series("power", "W")))

values_of_20 = hnp.arrays(np.float64, 20, elements=st.floats(-100, 100))


def moments(targets: np.ndarray, rise: float = 2.0) -> tuple[Windows, Windows]:
    """A training part that moves by `rise` a step, and held-out windows with these targets [n] or [n, h]."""
    told = np.asarray(targets, np.float64).reshape(len(targets), -1, 1)
    horizons = tuple(range(1, told.shape[1] + 1))
    line = np.arange(7.0)[:, None, None] * rise + np.arange(3.0)[None, :, None] * rise
    train = Windows(line, np.zeros((7, *told.shape[1:])), np.arange(7) * SECOND, horizons, SECOND)
    held_out = Windows(np.zeros((len(told), 3, 1)), told, np.arange(100, 100 + len(told)) * SECOND, horizons, SECOND)
    return train, held_out


def around(middle: np.ndarray, half: float = 1.0) -> np.ndarray:
    """Quantiles [n, h, 1, 3] with these medians [n] or [n, h]."""
    values = np.asarray(middle, np.float64).reshape(len(middle), -1, 1)
    return np.stack([values - half, values, values + half], axis=-1)


def judge(
    targets: np.ndarray, middle: np.ndarray, half: float = 1.0, rise: float = 2.0, **baselines: np.ndarray
) -> Score:
    """The score at the first horizon of forecasts [n] of targets [n]."""
    train, held_out = moments(targets, rise)
    given = {name: np.asarray(values, np.float64).reshape(held_out.targets.shape) for name, values in baselines.items()}
    return score(CPU, train, held_out, around(middle, half), given).scores[0]


def test_errors_are_those_of_the_newer_half_in_the_series_own_unit() -> None:
    targets = np.array([9.0, 9.0, 9.0, 1.0, 3.0, 0.0])

    found = judge(targets, np.zeros(6), persistence=np.full(6, 1.0))

    assert (found.series, found.unit, found.horizon_steps, found.horizon_seconds) == ("cpu_usage", "%", 1, 1.0)
    assert (found.validation_count, found.count) == (3, 3)
    assert found.errors[GLOBAL].mae == pytest.approx(4 / 3)
    assert found.errors[GLOBAL].rmse == pytest.approx(np.sqrt(10 / 3))
    assert found.errors[GLOBAL].smape == pytest.approx((200 + 200 + 0) / 3)  # nothing said of nothing is no error
    assert found.errors[GLOBAL].mase == pytest.approx(4 / 3 / 2)  # the training part moves by 2 a step
    assert found.errors[PERSISTENCE].smape == pytest.approx((0 + 200 * 2 / 4 + 200) / 3)
    assert found.errors[PERSISTENCE].rmse == pytest.approx(np.sqrt(5 / 3))
    assert found.skill == {PERSISTENCE: pytest.approx(1 - np.sqrt(2))}
    assert found.validation_rmse == {GLOBAL: pytest.approx(9), PERSISTENCE: pytest.approx(8)}


def test_each_horizon_has_its_own_score() -> None:
    train, held_out = moments(np.stack([np.full(20, 1.0), np.full(20, 3.0)], axis=1))

    near, far = score(CPU, train, held_out, around(np.zeros((20, 2))), {}).scores

    assert (near.horizon_steps, far.horizon_steps) == (1, 2)
    assert (near.errors[GLOBAL].rmse, far.errors[GLOBAL].rmse) == (1, 3)


def test_what_was_best_on_validation_is_chosen_even_if_it_is_not_on_test() -> None:
    targets = np.concatenate([np.full(10, 5.0), np.full(10, 0.0)])

    found = judge(targets, np.zeros(20), persistence=np.full(20, 4.0), ar=np.full(20, 5.5))

    assert found.chosen == AR
    assert found.errors[GLOBAL].rmse == 0 < found.errors[AR].rmse


@pytest.mark.parametrize("points", [2, 2 * FEWEST_POINTS - 1, 2 * FEWEST_POINTS])
def test_with_few_validation_points_nothing_is_chosen_or_calibrated(points: int) -> None:
    found = judge(np.full(points, 5.0), np.zeros(points), persistence=np.full(points, 5.0))

    enough = points // 2 >= FEWEST_POINTS
    assert found.validation_count == points // 2
    assert found.chosen == (PERSISTENCE if enough else GLOBAL)
    for number in (found.lower, found.upper, found.coverage, found.width):
        assert (number is not None) == enough
    assert found.errors[PERSISTENCE].rmse == 0  # what can be told is told all the same


def test_on_a_tie_the_global_model_serves() -> None:
    targets = np.arange(20.0)

    assert judge(targets, targets + 1, persistence=targets - 1).chosen == GLOBAL


@given(
    targets=values_of_20,
    middle=values_of_20,
    simple=values_of_20,
    others=hnp.arrays(np.float64, 10, elements=st.one_of(st.floats(-1e6, 1e6), st.just(NAN))),
)
def test_the_test_half_has_no_part_in_choice_or_calibration(
    targets: np.ndarray, middle: np.ndarray, simple: np.ndarray, others: np.ndarray
) -> None:
    changed = np.concatenate([targets[:10], others])

    before = judge(targets, middle, persistence=simple)
    after = judge(changed, middle, persistence=simple)

    told = [(found.chosen, found.validation_rmse, found.lower, found.upper) for found in (before, after)]
    assert told[0] == told[1]
    assert before.validation_count == after.validation_count == 10


@given(targets=values_of_20, middle=values_of_20, simple=values_of_20, others=values_of_20)
def test_the_forecasts_of_the_test_half_have_no_part_in_it_either(
    targets: np.ndarray, middle: np.ndarray, simple: np.ndarray, others: np.ndarray
) -> None:
    before = judge(targets, middle, persistence=simple)
    after = judge(
        targets,
        np.concatenate([middle[:10], others[:10]]),
        persistence=np.concatenate([simple[:10], others[10:]]),
    )

    told = [(found.chosen, found.validation_rmse, found.lower, found.upper) for found in (before, after)]
    assert told[0] == told[1]


@given(targets=values_of_20, middle=values_of_20, others=hnp.arrays(np.float64, 10, elements=st.floats(-1e6, 1e6)))
def test_the_validation_half_has_no_part_in_the_errors(
    targets: np.ndarray, middle: np.ndarray, others: np.ndarray
) -> None:
    before, after = judge(targets, middle), judge(np.concatenate([others, targets[10:]]), middle)

    assert before.errors == after.errors
    assert before.count == after.count == 10


def test_the_halves_are_cut_by_time_whatever_the_order_of_the_windows() -> None:
    rng = np.random.default_rng(1)
    targets, middle, order = rng.normal(size=40), rng.normal(size=40), rng.permutation(40)
    train, held_out = moments(targets)
    mixed = Windows(
        held_out.inputs[order], held_out.targets[order], held_out.last_times[order], held_out.horizons, SECOND
    )

    straight = score(CPU, train, held_out, around(middle), {}).scores[0]
    again = score(CPU, train, mixed, around(middle)[order], {}).scores[0]

    assert (again.lower, again.upper, again.coverage) == (straight.lower, straight.upper, straight.coverage)
    assert again.errors[GLOBAL].rmse == pytest.approx(straight.errors[GLOBAL].rmse)


def test_the_ends_of_the_global_model_s_quantiles_are_moved_each_for_itself() -> None:
    rng = np.random.default_rng(1)
    targets = rng.normal(0, 1, 4000)

    found = judge(targets, np.full(4000, 0.5), half=0.1)

    assert found.chosen == GLOBAL
    assert found.lower is not None
    assert found.upper is not None
    assert 0.4 + found.lower == pytest.approx(-1.28, abs=0.1)  # the normal distribution's tenth
    assert 0.6 + found.upper == pytest.approx(1.28, abs=0.1)
    assert found.width == pytest.approx(0.2 + found.upper - found.lower)
    assert found.coverage == pytest.approx(0.8, abs=0.03)


def test_quantiles_that_are_too_wide_are_drawn_in() -> None:
    targets = np.random.default_rng(1).normal(0, 1, 4000)

    found = judge(targets, np.zeros(4000), half=20.0)

    assert found.width == pytest.approx(2 * 1.28, abs=0.15)
    assert found.coverage == pytest.approx(0.8, abs=0.03)


def test_a_baseline_s_interval_lies_around_its_forecast() -> None:
    targets = np.random.default_rng(1).normal(7, 1, 4000)

    found = judge(targets, np.zeros(4000), persistence=np.full(4000, 7.0))

    assert found.chosen == PERSISTENCE
    assert found.lower == pytest.approx(-1.28, abs=0.1)
    assert found.upper == pytest.approx(1.28, abs=0.1)
    assert found.coverage == pytest.approx(0.8, abs=0.03)


def test_the_interval_never_leaves_out_the_forecast_itself() -> None:
    targets = np.concatenate([np.full(10, 5.0), np.full(10, 0.0)])  # on validation all lay 5 above the forecast

    found = judge(targets, np.zeros(20), half=1.0)

    assert (found.lower, found.upper) == (6, 4)  # P10 + 6 = P90 + 4 = 5
    assert (found.coverage, found.width) == (1, 5)  # from the forecast, 0, to 5


def test_coverage_tells_of_a_load_that_changed() -> None:
    rng = np.random.default_rng(1)
    targets = np.concatenate([rng.normal(0, 1, 300), rng.normal(0, 20, 300)])

    found = judge(targets, np.zeros(600))

    assert found.coverage is not None
    assert found.coverage < 0.3


@pytest.mark.parametrize(
    ("count", "ends"), [(0, None), (8, None), (9, (0, 8)), (18, (0, 17)), (19, (1, 17)), (99, (9, 89))]
)
def test_the_offsets_are_order_statistics(count: int, ends: tuple[float, float] | None) -> None:
    residuals = np.random.default_rng(1).permutation(count).astype(np.float64)

    assert offsets(residuals, residuals) == ends


@pytest.mark.parametrize("count", [9, 19, 50])
def test_an_interval_holds_at_least_80_percent_of_new_errors_of_the_same_kind(count: int) -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(2000):
        residuals = rng.normal(size=count)
        found = offsets(residuals, residuals)
        assert found is not None
        held.append(found[0] <= rng.normal() <= found[1])

    assert 0.78 <= np.mean(held) <= 0.88


@pytest.mark.parametrize("missing", [3, 17])
def test_a_baseline_that_lacks_a_forecast_is_left_out_and_takes_no_point_away(missing: int) -> None:
    targets = np.full(20, 5.0)
    seasonal = np.where(np.arange(20) == missing, NAN, 5.0)

    found = judge(targets, np.zeros(20), persistence=np.full(20, 4.0), seasonal_naive=seasonal)

    assert (found.validation_count, found.count) == (10, 10)
    for told in (found.errors, found.validation_rmse, found.skill):
        assert SEASONAL_NAIVE not in told
        assert PERSISTENCE in told
    assert found.chosen == PERSISTENCE


def test_a_baseline_may_lack_a_forecast_where_nothing_is_measured() -> None:
    targets = np.where(np.arange(20) == 3, NAN, 5.0)

    found = judge(targets, np.zeros(20), seasonal_naive=targets)

    assert found.chosen == SEASONAL_NAIVE
    assert (found.validation_count, found.count) == (9, 10)


def test_points_without_a_target_or_a_global_forecast_count_for_no_predictor() -> None:
    rng = np.random.default_rng(1)
    targets, middle = rng.normal(size=60), np.zeros(60)
    targets[:3] = NAN
    middle[-5:] = NAN

    found = judge(targets, middle, persistence=np.ones(60))

    assert (found.validation_count, found.count) == (27, 25)
    assert found.errors[PERSISTENCE].mae == pytest.approx(np.abs(targets[30:55] - 1).mean())
    assert found.validation_rmse[PERSISTENCE] == pytest.approx(np.sqrt(((targets[3:30] - 1) ** 2).mean()))


def test_a_series_without_points_has_no_numbers() -> None:
    found = judge(np.full(20, NAN), np.zeros(20), persistence=np.zeros(20))

    assert found.chosen == GLOBAL
    assert (found.validation_count, found.count) == (0, 0)
    assert (found.errors, found.validation_rmse, found.skill) == ({}, {}, {})
    assert (found.lower, found.upper, found.coverage, found.width) == (None, None, None, None)


def test_a_series_measured_in_the_older_half_alone_is_calibrated_but_not_scored() -> None:
    targets = np.where(np.arange(40) < 20, np.arange(40.0), NAN)

    found = judge(targets, np.arange(40.0))

    assert (found.validation_count, found.count) == (20, 0)
    assert found.lower is not None
    assert (found.errors, found.coverage, found.width) == ({}, None, None)


def test_without_held_out_windows_there_are_no_numbers() -> None:
    train, held_out = moments(np.zeros(1))
    nothing = held_out.pick(np.zeros(1, np.bool_))

    found = score(CPU, train, nothing, around(np.zeros(1))[:0], {}).scores[0]

    assert (found.validation_count, found.count, found.errors) == (0, 0, {})


def test_of_a_constant_series_there_is_no_skill_to_state() -> None:
    targets = np.full(40, 5.0)

    found = judge(targets, targets, half=0.0, rise=0.0, persistence=targets)

    assert found.chosen == GLOBAL
    assert found.errors == dict.fromkeys((GLOBAL, PERSISTENCE), Errors(0, 0, 0, None))
    assert found.skill == {PERSISTENCE: None}
    assert (found.lower, found.upper, found.coverage, found.width) == (0, 0, 1, 0)


def test_a_series_that_is_always_0_has_a_smape_of_0() -> None:
    assert judge(np.zeros(40), np.zeros(40)).errors[GLOBAL].smape == 0


def test_without_a_training_part_there_is_no_mase() -> None:
    train, held_out = moments(np.arange(20.0))

    found = score(CPU, train.pick(np.zeros(len(train), np.bool_)), held_out, around(np.zeros(20)), {}).scores[0]

    assert found.errors[GLOBAL].mase is None
    assert found.errors[GLOBAL].mae == pytest.approx(14.5)


@given(
    values=hnp.arrays(np.float64, st.integers(8, 60), elements=st.one_of(st.floats(-10, 10), st.just(NAN))),
    window=st.integers(1, 5),
    reach=st.integers(0, 3),
)
def test_the_mean_step_is_over_each_pair_of_neighbours_in_the_training_inputs_once(
    values: np.ndarray, window: int, reach: int
) -> None:
    column = values[:, None]
    measured = Grid(np.arange(len(values), dtype=np.int64), column, np.isfinite(column), 1)
    grid = bridge_gaps(measured, reach)
    train = make_windows(grid, window, (1, 2), np.array([True]))

    pairs = {last - back for last in train.last_times.tolist() for back in range(window - 1)}
    lasts = set(train.last_times.tolist())
    pairs |= {last for last in lasts if last - 1 in lasts}
    expected = [abs(grid.values[newer, 0] - grid.values[newer - 1, 0]) for newer in sorted(pairs)]
    found = mean_steps(train)
    if expected:
        np.testing.assert_allclose(found, [np.mean(expected)], rtol=1e-9, atol=1e-12)
    else:
        assert np.isnan(found).all()


def test_the_mean_step_of_a_series_is_over_the_windows_that_have_it() -> None:
    windows = np.array([[[0.0, 5.0], [2.0, 8.0]], [[2.0, NAN], [4.0, NAN]], [[4.0, 1.0], [6.0, 2.0]]])
    train = Windows(windows, np.zeros((3, 1, 2)), np.arange(3), (1,), 1)

    assert mean_steps(train).tolist() == [2, 2]  # 3 and 1 of the second, none across the hole
    assert np.isnan(mean_steps(train.pick(np.zeros(3, np.bool_)))).all()


def fresh(series: int = 1) -> Forecaster:
    return build(ModelShape("lstm", series, 2, 12, 8, 1), seed=1)


def test_a_model_is_measured_beside_the_baselines_of_the_training_part(
    wave: np.ndarray, windows_of: MakeWindows
) -> None:
    train, held_out = windows_of(wave[:200]), windows_of(wave[200:])
    linear = fit_blend(train)

    scores = evaluate(fresh(), linear, Baselines.fit(train), CPU, train, held_out)

    assert (scores.train_windows, scores.held_out_windows) == (len(train), len(held_out))
    newer = slice(len(held_out) // 2, None)
    for row, found in enumerate(scores.scores):
        assert set(found.errors) == {GLOBAL, *NAMES} - {SEASONAL_NAIVE}
        truth = held_out.targets[newer, row, 0]
        given = {GLOBAL: linear.predict(held_out.inputs)}  # a fresh model says what the linear part says
        given |= Baselines.fit(train).predict(held_out.inputs, held_out.seasonal)
        for name, errors in found.errors.items():
            distances = truth - given[name][newer, row, 0]
            assert errors.rmse == pytest.approx(np.sqrt((distances**2).mean()), rel=1e-3)
            assert errors.mae == pytest.approx(np.abs(distances).mean(), rel=1e-3)
            assert errors.mase is not None
            assert errors.mase == pytest.approx(errors.mae / np.abs(np.diff(wave[:196])).mean(), rel=1e-3)


def test_a_series_that_the_training_part_lacks_has_no_numbers(wave: np.ndarray, windows_of: MakeWindows) -> None:
    windows = windows_of(wave, np.full(300, NAN))

    scores = evaluate(fresh(2), fit_blend(windows), Baselines.fit(windows), CPU_AND_POWER, windows, windows)

    power, cpu = scores.of("power", 4), scores.of("cpu_usage", 4)
    assert power is not None
    assert (power.unit, power.count, power.errors) == ("W", 0, {})
    assert cpu is not None
    assert cpu.validation_count + cpu.count == len(windows)


def test_a_constant_series_is_served_by_what_makes_no_error(windows_of: MakeWindows) -> None:
    windows = windows_of(np.full(120, 0.1))

    for found in evaluate(fresh(), fit_blend(windows), Baselines.fit(windows), CPU, windows, windows).scores:
        assert found.errors[found.chosen] == Errors(0, 0, 0, None)
        assert found.lower == pytest.approx(0)
        assert found.upper == pytest.approx(0)
        assert found.coverage == 1
        assert set(found.skill.values()) == {None}


def test_scores_need_no_torch() -> None:
    program = "import sys, icosfl.train.evaluation; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_scores_survive_the_way_through_json(wave: np.ndarray, windows_of: MakeWindows) -> None:
    windows = windows_of(wave, np.full(300, NAN), np.full(300, 5.0))
    schema = Schema((*CPU_AND_POWER.series, Series("memory_usage", "MiBy")))
    scores = evaluate(fresh(3), fit_blend(windows), Baselines.fit(windows), schema, windows, windows)

    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict(), allow_nan=False))) == scores


def plain(**changes: object) -> dict[str, object]:
    """A sound score as plain JSON, but for these changes."""
    return {**judge_dict(), **changes}


def judge_dict() -> dict[str, object]:
    found = Scores(1, 20, (judge(np.arange(20.0), np.zeros(20), persistence=np.ones(20)),))
    fields: dict[str, object] = found.to_dict()["scores"][0]
    return fields


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"scores": [{}], "train_windows": 1, "held_out_windows": 1},
        {"scores": [], "train_windows": 1, "held_out_windows": 1, "more": 2},
        {"scores": [], "train_windows": "many", "held_out_windows": 1},
        {"scores": [plain(lower=float("nan"))], "train_windows": 1, "held_out_windows": 1},
        {"scores": [plain(chosen="oracle")], "train_windows": 1, "held_out_windows": 1},
        {"scores": [plain(errors={"global": 3})], "train_windows": 1, "held_out_windows": 1},
        {"scores": [], "train_windows": -1, "held_out_windows": 1},
        {"scores": [], "train_windows": 10**400, "held_out_windows": 1},
    ],
)
def test_something_else_is_refused(data: object) -> None:
    with pytest.raises(SchemaMismatch, match="no scores"):
        Scores.from_dict(data)


def erring(**changes: float) -> dict[str, object]:
    """Sound errors of all that `plain` has, but for these of the global model."""
    sound = {"mae": 1.0, "rmse": 1.0, "smape": 1.0, "mase": 1.0}
    return {GLOBAL: {**sound, **changes}, PERSISTENCE: sound}


@pytest.mark.parametrize(
    "changes",
    [
        {"errors": erring(rmse=1.7e308)},
        {"errors": erring(rmse=-1.0)},
        {"errors": erring(mae=-1.0)},
        {"errors": erring(mase=1e200)},
        {"errors": erring(smape=200.1)},
        {"errors": {**erring(), "oracle": erring()[GLOBAL]}},
        {"errors": {}, "chosen": "oracle"},
        {"validation_rmse": {"oracle": 1.0}},
        {"validation_rmse": {GLOBAL: -1.0}},
        {"skill": {GLOBAL: 0.5}},
        {"skill": {PERSISTENCE: 1.1}},
        {"skill": {PERSISTENCE: -1e200}},
        {"count": -1},
        {"validation_count": -1},
        {"horizon_steps": 0},
        {"horizon_steps": 10**400},
        {"horizon_seconds": 0},
        {"lower": -1e200},
        {"upper": 1e200},
        {"coverage": 1.01},
        {"coverage": -0.01},
        {"width": -1.0},
        {"width": 1e200},
    ],
)
def test_a_number_that_no_measurement_gives_is_refused(changes: dict[str, object]) -> None:
    sound = {"train_windows": 1, "held_out_windows": 20}
    assert Scores.from_dict({**sound, "scores": [plain(errors=erring())]}).scores

    with pytest.raises(SchemaMismatch, match="no scores"):
        Scores.from_dict({**sound, "scores": [plain(**changes)]})


def test_there_is_no_score_of_an_unknown_series_or_horizon() -> None:
    assert Scores(0, 0, ()).of("cpu_usage", 1) is None


def test_parts_of_other_shapes_are_refused(wave: np.ndarray, windows_of: MakeWindows) -> None:
    one, two = windows_of(wave), windows_of(wave, wave)
    three = Linear(np.zeros((1, 12, 3)), np.zeros((1, 3)), np.zeros((1, 3)))

    with pytest.raises(SchemaMismatch, match="share their series"):
        evaluate(fresh(), fit_blend(one), Baselines.fit(one), CPU_AND_POWER, one, one)
    with pytest.raises(SchemaMismatch):
        evaluate(fresh(), fit_blend(one), Baselines.fit(two), CPU, two, one)
    with pytest.raises(SchemaMismatch, match="quantiles"):
        evaluate(build(ModelShape("lstm", 1, 3, 12, 4, 1), 1), three, Baselines.fit(one), CPU, one, one)
    train, held_out = moments(np.zeros(4))
    with pytest.raises(SchemaMismatch, match="ar forecasts"):
        score(CPU, train, held_out, around(np.zeros(4)), {AR: np.zeros((3, 1, 1))})


def told(rmse: Mapping[str, float], chosen: str, coverage: float | None = 0.8, unit: str = "%") -> Scores:
    """Scores of a node whose predictors were off by this much at every point."""
    errors = {name: Errors(value / 2, value, min(10 * value, 200), value / 4 or None) for name, value in rmse.items()}
    one = judge(np.arange(20.0), np.zeros(20))
    width = None if coverage is None else 3.0
    return Scores(
        9,
        20,
        (replace(one, unit=unit, errors=errors, chosen=chosen, skill={}, coverage=coverage, width=width),),
    )


def test_a_summary_tells_of_all_nodes() -> None:
    (found,) = summary(
        {
            "a": told({GLOBAL: 1.0, PERSISTENCE: 2.0, SEASONAL_NAIVE: 5.0}, GLOBAL, 0.7),
            "b": told({GLOBAL: 4.0, PERSISTENCE: 2.0}, PERSISTENCE, None),
            "c": told({GLOBAL: 4.0, PERSISTENCE: 4.0}, GLOBAL, 0.9),
        }
    )

    assert (found.series, found.unit, found.horizon_steps, found.nodes) == ("cpu_usage", "%", 1, 3)
    assert {name: mean.rmse for name, mean in found.means.items()} == {
        GLOBAL: pytest.approx(3),
        PERSISTENCE: pytest.approx(8 / 3),
        SEASONAL_NAIVE: 5,
        SERVED: pytest.approx(7 / 3),
    }
    assert {name: mean.nodes for name, mean in found.means.items()} == {
        GLOBAL: 3,
        PERSISTENCE: 3,
        SEASONAL_NAIVE: 1,
        SERVED: 3,
    }
    assert found.means[GLOBAL].mae == pytest.approx(1.5)
    assert found.means[GLOBAL].smape == pytest.approx(30)
    assert found.means[GLOBAL].mase == pytest.approx(0.75)
    assert found.beats == {PERSISTENCE: pytest.approx(1 / 3), SEASONAL_NAIVE: 1}  # alike is not better
    assert found.served_beats == {PERSISTENCE: pytest.approx(1 / 3), SEASONAL_NAIVE: 1}
    assert found.chosen == {GLOBAL: 2, PERSISTENCE: 1, SEASONAL_NAIVE: 0}
    assert found.coverage == pytest.approx(0.8)
    assert found.width == 3


def test_what_is_served_may_beat_a_baseline_that_the_global_model_does_not() -> None:
    (found,) = summary({"a": told({GLOBAL: 4.0, AR: 1.0, MOVING_AVERAGE: 2.0}, AR)})

    assert found.beats == {AR: 0, MOVING_AVERAGE: 0}
    assert found.served_beats == {AR: 0, MOVING_AVERAGE: 1}


def test_a_node_without_a_test_point_has_no_part_in_a_summary() -> None:
    nothing = Scores(9, 20, (judge(np.full(20, NAN), np.zeros(20)),))

    assert summary({"a": nothing}) == ()
    (found,) = summary({"a": nothing, "b": told({GLOBAL: 1.0}, GLOBAL, None)})
    assert found.nodes == 1
    assert (found.coverage, found.width) == (None, None)


def test_a_summary_never_mixes_units() -> None:
    one, other = told({GLOBAL: 1.0}, GLOBAL), told({GLOBAL: 1000.0}, GLOBAL, unit="W")

    assert [found.unit for found in summary({"a": one, "b": other})] == ["%", "W"]


def test_a_mase_that_some_nodes_lack_is_that_of_the_others() -> None:
    (found,) = summary({"a": told({GLOBAL: 0.0}, GLOBAL), "b": told({GLOBAL: 4.0}, GLOBAL)})
    (alone,) = summary({"a": told({GLOBAL: 0.0}, GLOBAL)})

    assert found.means[GLOBAL].mase == 1
    assert alone.means[GLOBAL].mase is None


def test_a_summary_of_the_largest_errors_that_scores_may_tell_is_plain_json() -> None:
    nodes = {str(node): told({GLOBAL: LARGEST_ERROR, PERSISTENCE: 0.0}, GLOBAL) for node in range(3)}

    (found,) = summary(nodes)

    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["means"]["global"]["rmse"] == pytest.approx(LARGEST_ERROR)
    assert again["chosen"] == {"global": 3, "persistence": 0}


def test_forecasts_that_overflow_count_as_none() -> None:
    targets, huge = np.full(40, 5.0), np.where(np.arange(40) % 4 == 0, 1e200, 5.0)

    simple = judge(targets, np.zeros(40), persistence=huge)
    found = judge(targets, huge, persistence=np.zeros(40))

    assert set(simple.errors) == {GLOBAL}
    assert (found.validation_count, found.count) == (15, 15)
    assert found.errors[GLOBAL].rmse == 0


def test_a_ratio_to_next_to_nothing_is_not_told() -> None:
    targets = np.full(40, 5e90)

    found = judge(targets, np.zeros(40), rise=1e-300, persistence=targets * (1 + 1e-8))
    tiny = judge(np.full(40, 1e-200), np.full(40, 1e99), persistence=np.full(40, 2e-200))

    assert found.errors[GLOBAL].mase is None
    assert tiny.skill == {PERSISTENCE: None}


def test_an_error_of_rounding_is_none_and_decides_nothing(windows_of: MakeWindows) -> None:
    windows = windows_of(np.full(80, 4000.1))
    still = windows.targets.copy()
    rounded = dict.fromkeys(NAMES, still * (1 + 1e-13))

    found = score(CPU, windows, windows, np.repeat(still[..., None], 3, axis=-1), rounded).scores

    assert {item.chosen for item in found} == {GLOBAL}
    assert {value for item in found for value in item.skill.values()} == {None}
    assert {errors.rmse for item in found for errors in item.errors.values()} == {0.0}
