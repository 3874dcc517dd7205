from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from icosfl.config import NodeConfig, schema_of
from icosfl.errors import CheckpointError, NotReady, SchemaMismatch
from icosfl.process.scale import Scaler
from icosfl.schema import Rows, Schema, Series
from icosfl.serve.predict import Outlook
from icosfl.serve.predictor import Predictor
from icosfl.serve.values import Forecast, to_datetime
from icosfl.train.artifact import Artifact

MakeRows = Callable[..., Rows]
MakeArtifact = Callable[..., Artifact]

NOW = datetime(2026, 3, 1, 13, 0, tzinfo=UTC)


def predictor(artifact: Artifact, node: NodeConfig) -> Predictor:
    return Predictor(artifact, schema_of(node.series), node, None)


def pick(outlook: Outlook, series: str, horizon: float) -> Forecast:
    return next(item for item in outlook.forecasts if (item.series, item.horizon_seconds) == (series, horizon))


def test_a_forecast_is_stated_in_real_units_for_each_series_and_horizon(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)

    outlook = predictor(make_artifact(), node).outlook(rows, None)

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
    node: NodeConfig, make_rows: MakeRows, shifting_artifact: MakeArtifact
) -> None:
    change = np.zeros((2, 3))
    change[1, 0] = 0.1

    outlook = predictor(shifting_artifact(change), node).outlook(make_rows(40), None)

    assert pick(outlook, "cpu_usage", 5).value > pick(outlook, "cpu_usage", 5).last + 0.5
    assert pick(outlook, "cpu_usage", 1).value == pytest.approx(pick(outlook, "cpu_usage", 1).last, abs=1e-3)
    assert pick(outlook, "memory_usage", 5).value == pytest.approx(1039, abs=1e-3)


def test_a_forecast_of_a_percentage_stays_between_0_and_100(
    node: NodeConfig, make_rows: MakeRows, shifting_artifact: MakeArtifact
) -> None:
    up = predictor(shifting_artifact(np.full((2, 3), 50.0)), node).outlook(make_rows(40), None)
    down = predictor(shifting_artifact(np.full((2, 3), -500.0)), node).outlook(make_rows(40), None)

    assert pick(up, "cpu_usage", 5).value == 100
    assert pick(down, "cpu_usage", 5).value == 0
    assert pick(down, "memory_usage", 5).value == 0


def test_a_series_that_the_node_lacks_is_left_out_and_named(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    outlook = predictor(make_artifact(), node).outlook(make_rows(40), None)

    assert [item.series for item in outlook.omitted] == ["power"]
    assert "no value of it in the newest 10 rows" in outlook.omitted[0].reason


def test_a_series_that_no_node_had_in_training_is_left_out_and_named(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[:, 2] = 80.0
    scaler = Scaler(np.array([50.0, 1000.0, np.nan]), np.array([20.0, 20.0, np.nan]))

    outlook = predictor(make_artifact(scaler=scaler), node).outlook(rows, None)

    assert [(item.series, item.reason) for item in outlook.omitted] == [
        ("power", "no node had it when the model was trained")
    ]


def test_a_gap_in_one_series_leaves_the_others_forecasts(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[-7:-2, 0] = np.nan

    outlook = predictor(make_artifact(), node).outlook(rows, None)

    assert {item.series for item in outlook.forecasts} == {"memory_usage"}
    assert "5 of the newest 10 rows have a value" in outlook.omitted[0].reason


def test_a_half_filled_newest_row_is_waited_for(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(40)
    rows.values[-1, 0] = np.nan

    outlook = predictor(make_artifact(), node).outlook(rows, None)

    assert {item.series for item in outlook.forecasts} == {"cpu_usage", "memory_usage"}
    assert outlook.last_time == rows.times[-2]


def test_too_few_rows_say_how_many_there_are_and_how_many_it_takes(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match=r"4 of the 10 rows .* about 6 s"):
        predictor(make_artifact(), node).outlook(make_rows(4), None)


def test_a_gap_in_all_series_is_not_forecast_over(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match="without a gap"):
        predictor(make_artifact(), node).outlook(make_rows(40, gap_after=35, gap=4), None)


def test_a_hole_that_is_short_enough_is_bridged(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    outlook = predictor(make_artifact(), node).outlook(make_rows(40, gap_after=35, gap=2), None)

    assert pick(outlook, "memory_usage", 1).last == 1041


def test_without_a_measurement_there_is_no_interval_no_skill_and_no_ar(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    forecast = pick(predictor(make_artifact(), node).outlook(make_rows(40), None), "memory_usage", 1)

    assert (forecast.lower, forecast.upper, forecast.coverage) == (None, None, None)
    assert forecast.baselines == {"persistence": 1039, "moving_average": pytest.approx(1036.5), "ar": None}
    assert set(forecast.skill) == {"persistence", "moving_average", "ar"}
    assert set(forecast.skill.values()) == {None}


def test_a_measurement_brings_interval_errors_and_skill(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(400), predictor(make_artifact(), node)

    memory = pick(model.outlook(rows, model.measure(rows, NOW)), "memory_usage", 5)

    # memory grows by 1 MiB a second, and this model says that it stays: 5 MiB too little, always
    assert memory.lower is not None
    assert memory.upper == pytest.approx(memory.value + 5, abs=1e-3)
    assert memory.lower <= memory.value
    assert memory.rmse["model"] == pytest.approx(5, abs=1e-3)
    assert memory.rmse["persistence"] == pytest.approx(5)
    assert memory.skill["persistence"] == pytest.approx(0, abs=1e-3)
    assert memory.baselines["ar"] == pytest.approx(1399 + 5, abs=0.1)
    assert memory.skill["ar"] is not None
    assert memory.skill["ar"] < -10


def test_the_interval_keeps_to_the_units_limits(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(400)
    rows.values[:, 0] = np.where(np.arange(400) % 7 < 3, 99.0, 1.0)
    model = predictor(make_artifact(), node)

    for forecast in model.outlook(rows, model.measure(rows, NOW)).forecasts:
        if forecast.series == "cpu_usage":
            assert forecast.lower is not None
            assert forecast.upper is not None
            assert 0 <= forecast.lower <= forecast.value <= forecast.upper <= 100


def test_few_validation_points_bear_no_interval(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows, model = make_rows(46), predictor(make_artifact(), node)

    measured = model.measure(rows, NOW)
    forecast = pick(model.outlook(rows, measured), "memory_usage", 5)

    assert 0 < measured.evaluation.validation_windows < 9
    assert (forecast.lower, forecast.upper) == (None, None)
    assert forecast.rmse["model"] is not None


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        (Schema((Series("cpu_usage", "1"),)), "cpu_usage in 1, this node keeps it in %"),
        (Schema((Series("gpu_usage", "%"),)), "gpu_usage in %, this node keeps it not at all"),
    ],
)
def test_a_model_of_other_series_or_units_is_refused(
    node: NodeConfig, make_artifact: MakeArtifact, schema: Schema, complaint: str
) -> None:
    with pytest.raises(SchemaMismatch, match=complaint):
        predictor(make_artifact(schema=schema), node)


def test_a_model_of_another_period_is_refused(node: NodeConfig, make_artifact: MakeArtifact) -> None:
    with pytest.raises(SchemaMismatch, match="rows every 3 s, this node keeps one every 1 s"):
        predictor(make_artifact(period_seconds=3.0), node)


def test_a_model_that_does_not_say_when_it_was_made_is_refused(node: NodeConfig, make_artifact: MakeArtifact) -> None:
    with pytest.raises(CheckpointError, match="yesterday"):
        predictor(make_artifact(created="yesterday"), node)


def test_a_model_may_forecast_some_of_the_nodes_series_in_another_order(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    schema = Schema((Series("memory_usage", "MiBy"), Series("cpu_usage", "%")))
    artifact = make_artifact(schema=schema, scaler=Scaler(np.array([1000.0, 50.0]), np.array([20.0, 20.0])))

    outlook = predictor(artifact, node).outlook(make_rows(40), None)

    assert pick(outlook, "memory_usage", 1).last == 1039
    assert 30 <= pick(outlook, "cpu_usage", 1).last <= 70


def test_a_value_that_is_not_finite_in_the_weights_never_reaches_a_forecast(
    node: NodeConfig, make_rows: MakeRows, shifting_artifact: MakeArtifact
) -> None:
    change = np.zeros((2, 3))
    change[0, 0] = 3e38

    outlook = predictor(replace(shifting_artifact(change)), node).outlook(make_rows(40), None)

    assert all(np.isfinite(item.value) for item in outlook.forecasts)
