from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from icosfl.config import NodeConfig, SeriesConfig
from icosfl.errors import CheckpointError, NotReady, SchemaMismatch
from icosfl.process import Windows
from icosfl.schema import Rows, Schema, Series
from icosfl.serve.measure import Measured
from icosfl.serve.predict import Outlook, Said, state, window_of
from icosfl.serve.predictor import Predictor
from icosfl.serve.values import Forecast, to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import NAMES
from icosfl.train.model import build, to_arrays
from icosfl.train.scores import score
from icosfl.train.shape import ModelShape

MakeRows = Callable[..., Rows]
MakeArtifact = Callable[..., Artifact]

SECOND = 1_000_000_000
SEASON = 60
MakeModel = Callable[[Artifact], Predictor]


def pick(outlook: Outlook, series: str, horizon: float) -> Forecast:
    return next(item for item in outlook.forecasts if (item.series, item.horizon_seconds) == (series, horizon))


def chosen(measured: Measured, **changes: Any) -> Measured:
    """The measurement with the same changes of all its scores."""
    evaluation = measured.evaluation
    scores = replace(evaluation.scores, scores=tuple(replace(each, **changes) for each in evaluation.scores.scores))
    return replace(measured, evaluation=replace(evaluation, scores=scores))


@pytest.fixture
def predictor(node: NodeConfig) -> MakeModel:
    """Makes a model ready for the node."""
    return lambda artifact: Predictor(artifact, node, None)


def test_a_forecast_is_stated_in_real_units_for_each_series_and_horizon(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)

    outlook = predictor(make_artifact()).outlook(rows, None)

    found = [(item.series, item.unit, item.horizon_seconds) for item in outlook.forecasts]
    assert found == [
        ("cpu_usage", "%", 1),
        ("cpu_usage", "%", 5),
        ("memory_usage", "MiBy", 1),
        ("memory_usage", "MiBy", 5),
    ]
    memory = pick(outlook, "memory_usage", 5)
    assert memory.last == 1039
    assert memory.value == pytest.approx(1039, abs=1e-3)
    assert memory.time == to_datetime(int(rows.times[-1])) + timedelta(seconds=5)


def test_a_models_change_is_added_to_the_last_value_of_its_own_series_and_horizon(
    predictor: MakeModel, make_rows: MakeRows, shifting_artifact: MakeArtifact
) -> None:
    change = np.zeros((2, 3))
    change[1, 0] = 0.1

    outlook = predictor(shifting_artifact(change)).outlook(make_rows(40), None)

    assert pick(outlook, "cpu_usage", 5).value > pick(outlook, "cpu_usage", 5).last + 0.5
    assert pick(outlook, "cpu_usage", 1).value == pytest.approx(pick(outlook, "cpu_usage", 1).last, abs=1e-3)
    assert pick(outlook, "memory_usage", 5).value == pytest.approx(1039, abs=1e-3)


def test_a_forecast_of_a_percentage_stays_between_0_and_100(
    predictor: MakeModel, make_rows: MakeRows, shifting_artifact: MakeArtifact
) -> None:
    up = predictor(shifting_artifact(np.full((2, 3), 50.0))).outlook(make_rows(40), None)
    down = predictor(shifting_artifact(np.full((2, 3), -500.0))).outlook(make_rows(40), None)

    assert pick(up, "cpu_usage", 5).value == 100
    assert pick(down, "cpu_usage", 5).value == 0
    assert pick(down, "memory_usage", 5).value == 0


def test_a_series_that_the_node_lacks_is_left_out_and_named(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    outlook = predictor(make_artifact()).outlook(make_rows(40), None)

    assert [item.series for item in outlook.omitted] == ["power"]
    assert "no value of it in the newest 10 rows" in outlook.omitted[0].reason


def test_a_series_that_no_node_had_in_training_is_left_out_and_named(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[:, 2] = 80.0

    outlook = predictor(make_artifact(taught=("cpu_usage", "memory_usage"))).outlook(rows, None)

    assert [(item.series, item.reason) for item in outlook.omitted] == [
        ("power", "no node had it when the model was trained")
    ]


def test_a_gap_in_one_series_leaves_the_others_forecasts(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[-7:-2, 0] = np.nan

    outlook = predictor(make_artifact()).outlook(rows, None)

    assert {item.series for item in outlook.forecasts} == {"memory_usage"}
    assert "5 of the newest 10 rows have a value" in outlook.omitted[0].reason


def test_a_half_filled_newest_row_is_waited_for(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[-1, 0] = np.nan

    outlook = predictor(make_artifact()).outlook(rows, None)

    assert {item.series for item in outlook.forecasts} == {"cpu_usage", "memory_usage"}
    assert outlook.last_time == rows.times[-2]


def test_too_few_rows_say_how_many_there_are_and_how_many_it_takes(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match=r"4 of the 10 rows .* about 6 s"):
        predictor(make_artifact()).outlook(make_rows(4), None)


def test_a_gap_in_all_series_is_not_forecast_over(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match="without a gap"):
        predictor(make_artifact()).outlook(make_rows(40, gap_after=35, gap=4), None)


def test_a_hole_that_is_short_enough_is_bridged(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    outlook = predictor(make_artifact()).outlook(make_rows(40, gap_after=35, gap=2), None)

    assert pick(outlook, "memory_usage", 1).last == 1041


def test_without_a_measurement_the_global_median_is_served_without_interval_errors_or_skill(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    forecast = pick(predictor(make_artifact()).outlook(make_rows(40), None), "memory_usage", 1)

    assert (forecast.model, forecast.value) == ("global", pytest.approx(1039, abs=1e-3))
    assert (forecast.lower, forecast.upper, forecast.coverage, forecast.width) == (None, None, None, None)
    assert forecast.candidates == {"global": forecast.value, **dict.fromkeys(NAMES)}
    assert forecast.errors == {}
    assert forecast.skill == dict.fromkeys(NAMES)


def test_a_measurement_brings_the_nodes_own_part_candidates_errors_and_skill(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())

    memory = pick(model.outlook(rows, model.measure(rows)), "memory_usage", 5)

    # memory grows by 1 MiB a second: the node's own linear part has seen that, and persistence is always 5 MiB behind
    assert memory.candidates["global"] == pytest.approx(1404, abs=0.5)
    assert memory.candidates["persistence"] == 1399
    assert memory.candidates["moving_average"] == pytest.approx(1396.5)
    assert memory.candidates["seasonal_naive"] == 1399 + 5 - SEASON
    assert memory.errors["persistence"].rmse == pytest.approx(5)
    assert memory.errors["persistence"].mae == pytest.approx(5)
    assert memory.errors["persistence"].mase == pytest.approx(5)
    assert memory.errors["persistence"].smape == pytest.approx(100 * 5 / 1375, rel=0.05)
    assert memory.errors["seasonal_naive"].rmse == pytest.approx(SEASON)
    assert set(memory.skill) == set(NAMES)
    skill = 1 - memory.errors["global"].rmse / 5
    assert memory.skill["persistence"] == pytest.approx(skill)
    assert skill > 0.8


@pytest.mark.parametrize("name", ["persistence", "moving_average", "seasonal_naive", "ar", "nlinear"])
def test_a_baseline_that_was_better_on_validation_is_served_in_the_interval_of_its_own_errors(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact, name: str
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())

    outlook = model.outlook(rows, chosen(model.measure(rows), chosen=name, lower=-2.0, upper=3.0))

    for item in outlook.forecasts:
        assert (item.model, item.value) == (name, item.candidates[name])
        low, high = (0, 100) if item.unit == "%" else (0, math.inf)
        assert (item.lower, item.upper) == (max(item.value - 2, low), min(item.value + 3, high))


def test_the_global_models_interval_is_its_own_quantiles_moved_by_what_validation_showed(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())
    measured = model.measure(rows)

    def ends(lower: float, upper: float) -> tuple[float, float]:
        item = pick(model.outlook(rows, chosen(measured, chosen="global", lower=lower, upper=upper)), "memory_usage", 1)
        assert item.model == "global"
        assert item.lower is not None
        assert item.upper is not None
        return item.value - item.lower, item.upper - item.value

    # memory's last 10 values lie 2.87 MiB around their mean; a fresh model adds softplus(0.7) of its unit
    below, above = ends(0.0, 0.0)
    unit = math.sqrt(2.87 * float(measured.linear.noise[1, 0]))
    assert (below, above) == (pytest.approx(1.103 * unit, rel=0.05), pytest.approx(1.103 * unit, rel=0.05))
    assert ends(-1.0, 2.0) == (pytest.approx(below + 1), pytest.approx(above + 2))
    assert ends(below / 2, -above / 4) == (pytest.approx(below / 2), pytest.approx(above * 3 / 4))


def test_an_interval_always_holds_what_is_served(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())
    measured = model.measure(rows)

    late = model.outlook(rows, chosen(measured, chosen="persistence", lower=5.0, upper=6.0))
    narrow = model.outlook(rows, chosen(measured, chosen="global", lower=1e6, upper=-1e6))

    memory = pick(late, "memory_usage", 5)
    assert (memory.lower, memory.value, memory.upper) == (1399, 1399, 1405)
    for item in narrow.forecasts:
        assert item.lower == item.value == item.upper


def test_where_the_chosen_baseline_has_nothing_to_say_the_next_best_stands_in_without_an_interval(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())
    errors = {
        "global": 3.0,
        "persistence": 4.0,
        "moving_average": 5.0,
        "seasonal_naive": 0.5,
        "ar": 1.0,
        "nlinear": 2.0,
    }
    measured = chosen(model.measure(rows), chosen="seasonal_naive", validation_rmse=errors, lower=-1.0, upper=1.0)

    outlook = model.outlook(rows.tail(30), measured)

    item = pick(outlook, "cpu_usage", 5)
    assert (item.model, item.value) == ("ar", item.candidates["ar"])
    assert (item.lower, item.upper, item.coverage, item.width) == (None, None, None, None)
    assert item.candidates["seasonal_naive"] is None
    assert (
        "cpu_usage in 5 s: seasonal_naive would be served, but lacks a value now; ar stands in, without an interval"
        in outlook.warnings
    )


def test_the_interval_keeps_to_the_units_limits(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(400)
    rows.values[:, 0] = np.where(np.arange(400) % 7 < 3, 99.0, 1.0)
    model = predictor(make_artifact())

    for forecast in model.outlook(rows, model.measure(rows)).forecasts:
        if forecast.series == "cpu_usage":
            assert forecast.lower is not None
            assert forecast.upper is not None
            assert 0 <= forecast.lower <= forecast.value <= forecast.upper <= 100


def test_only_the_calibrated_interval_is_clipped_not_the_ends_that_it_is_made_of(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, artifact = make_rows(400), make_artifact()
    model = predictor(artifact)
    measured, plan = model.measure(rows), artifact.plan(3.0)
    newest = window_of(rows, artifact.schema, plan)
    quantiles = np.full((2, 3, 3), [-6.0, -3.0, 2.5])
    said = Said(newest, quantiles, {"persistence": np.full((2, 3), -3.0)}, rows.values[-10:])

    quantile = chosen(measured, chosen="global", lower=7.0, upper=1.5)
    simple = chosen(measured, chosen="persistence", lower=-2.0, upper=5.0)
    own, late, ended = (
        pick(state(artifact, said, each), "cpu_usage", 1)
        for each in (quantile, simple, chosen(simple, lower=3.5, upper=5.0))
    )

    assert (own.value, own.candidates["global"], own.candidates["persistence"]) == (0, 0, 0)
    assert (own.lower, own.upper) == (0, 4)
    assert (late.lower, late.upper) == (0, 2)
    assert (ended.lower, ended.upper) == (0, 2)


def test_the_served_interval_holds_as_much_as_is_told_of_it(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, artifact = make_rows(400), make_artifact()
    rng = np.random.default_rng(1)
    outcomes = np.where(rng.random(4000) < 0.6, 0.0, rng.exponential(3.0, 4000))  # idle, mostly
    quantiles = np.stack([np.full(4000, -9.0), np.full(4000, 2.0), np.full(4000, 4.0)], axis=-1)[:, None, None]
    train = Windows(np.zeros((1, 2, 1)), np.zeros((1, 1, 1)), np.zeros(1, np.int64), (1,), SECOND)
    held_out = Windows(np.zeros((4000, 2, 1)), outcomes[:, None, None], np.arange(4000) * SECOND, (1,), SECOND)
    told = score(Schema((Series("cpu_usage", "%"),)), train, held_out, quantiles, {}).scores[0]
    measured = chosen(predictor(artifact).measure(rows), chosen="global", lower=told.lower, upper=told.upper)
    said = Said(
        window_of(rows, artifact.schema, artifact.plan(3.0)),
        np.full((2, 3, 3), quantiles[0, 0, 0]),
        {},
        rows.values[-10:],
    )

    served = pick(state(artifact, said, measured), "cpu_usage", 1)

    assert told.coverage is not None
    assert told.coverage > 0.75
    assert served.lower is not None
    assert served.upper is not None
    held = (outcomes[2000:] >= served.lower) & (outcomes[2000:] <= served.upper)
    assert held.mean() == pytest.approx(told.coverage)


def test_few_validation_points_bear_no_interval_and_that_is_said(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(46), predictor(make_artifact())

    measured = model.measure(rows)
    outlook = model.outlook(rows, measured)
    forecast = pick(outlook, "memory_usage", 5)

    assert 0 < measured.evaluation.scores.held_out_windows < 9
    assert (forecast.model, forecast.lower, forecast.upper) == ("global", None, None)
    assert forecast.errors["persistence"].rmse == pytest.approx(5)
    assert "memory_usage has too few rows yet to be checked on this node: it has no interval" in outlook.warnings


def test_a_series_that_began_after_the_training_part_is_served_by_the_common_part_without_an_interval(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())
    rows.values[350:, 2] = 80 + np.arange(50)

    outlook = model.outlook(rows, model.measure(rows))

    power = pick(outlook, "power", 5)
    assert (power.model, power.value) == ("global", pytest.approx(129, abs=1e-3))
    assert (power.lower, power.upper, power.coverage) == (None, None, None)
    assert "power has too few rows yet to be checked on this node: it has no interval" in outlook.warnings
    assert pick(outlook, "memory_usage", 5).lower is not None


@pytest.mark.parametrize("checked", [False, True])
def test_a_constant_series_is_named_with_its_value_and_rows(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact, checked: bool
) -> None:
    rows, model = make_rows(400), predictor(make_artifact())
    rows.values[:, 0] = 12.5

    outlook = model.outlook(rows, model.measure(rows) if checked else None)

    assert (
        "cpu_usage has the same value, 12.5 %, in all of its newest 10 rows: see whether its sensor hangs"
        in outlook.warnings
    )
    assert not any("memory_usage has the same value" in text for text in outlook.warnings)
    assert pick(outlook, "cpu_usage", 5).value == pytest.approx(12.5)


def test_a_series_that_moved_once_in_its_newest_rows_is_not_called_constant(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[:, 0] = 12.5
    rows.values[-9, 0] = 12.6

    assert predictor(make_artifact()).outlook(rows, None).warnings == ()


def test_a_forecast_takes_less_than_5_ms_of_one_core(node: NodeConfig, make_artifact: MakeArtifact) -> None:
    names = ("cpu_usage", "memory_usage", "load_1m", "power")
    schema = Schema(tuple(Series(name, "1") for name in names))
    shape = ModelShape(network="lstm", series=4, horizons=3, window=40, hidden=32, layers=1)
    artifact = make_artifact(
        schema=schema, taught=names, shape=shape, horizons=(1, 20, 100), season=1200,
        arrays=tuple(to_arrays(build(shape, seed=1))),
    )  # fmt: skip
    model = Predictor(artifact, replace(node, series=tuple(SeriesConfig(name, "1") for name in names)), None)
    values = np.random.default_rng(1).random((2600, 4)).cumsum(axis=0)
    rows = Rows(np.arange(2600, dtype=np.int64) * SECOND, values)
    measured, newest = model.measure(rows), rows.tail(model.rows_wanted)
    spent = []

    for _ in range(20):
        started = time.thread_time()
        model.outlook(newest, measured)
        spent.append(time.thread_time() - started)

    assert min(spent) < 0.005


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        (Schema((Series("cpu_usage", "1"),)), "cpu_usage in 1, this node keeps it in %"),
        (Schema((Series("gpu_usage", "%"),)), "gpu_usage in %, this node keeps it not at all"),
    ],
)
def test_a_model_of_other_series_or_units_is_refused(
    predictor: MakeModel, make_artifact: MakeArtifact, schema: Schema, complaint: str
) -> None:
    with pytest.raises(SchemaMismatch, match=complaint):
        predictor(make_artifact(schema=schema))


def test_a_model_of_another_period_is_refused(predictor: MakeModel, make_artifact: MakeArtifact) -> None:
    with pytest.raises(SchemaMismatch, match="rows every 3 s, this node keeps one every 1 s"):
        predictor(make_artifact(period_seconds=3.0))


def test_a_model_that_does_not_say_when_it_was_made_is_refused(
    predictor: MakeModel, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(CheckpointError, match="yesterday"):
        predictor(make_artifact(created="yesterday"))


def test_a_model_may_forecast_some_of_the_nodes_series_in_another_order(
    predictor: MakeModel, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    schema = Schema((Series("memory_usage", "MiBy"), Series("cpu_usage", "%")))
    artifact = make_artifact(schema=schema)

    outlook = predictor(artifact).outlook(make_rows(40), None)

    assert pick(outlook, "memory_usage", 1).last == 1039
    assert 30 <= pick(outlook, "cpu_usage", 1).last <= 70


def test_a_value_that_is_not_finite_never_reaches_a_forecast(
    predictor: MakeModel, make_rows: MakeRows, shifting_artifact: MakeArtifact
) -> None:
    change = np.zeros((2, 3))
    change[0, 0] = 3e38

    outlook = predictor(replace(shifting_artifact(change))).outlook(make_rows(40), None)

    assert all(np.isfinite(item.value) for item in outlook.forecasts)
