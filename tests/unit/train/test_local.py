from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import NotReady, SchemaMismatch
from icosfl.process.windows import split_by_time
from icosfl.schema import Rows, Schema, Series
from icosfl.train.linear import fit_blend
from icosfl.train.local import (
    Plan,
    cut,
    cutoff_of,
    newest_window,
    prepare,
    rows_for_training,
    select,
    survey,
)
from icosfl.train.loop import fit
from icosfl.train.model import build, to_arrays
from icosfl.train.settings import TrainSettings
from icosfl.train.shape import ModelShape

MakeRows = Callable[..., Rows]
SECOND = 1_000_000_000


@pytest.fixture
def plan(settings: TrainSettings, schema: Schema) -> Plan:
    return Plan.of(settings, schema.names, 1.0, 3.0)


def altered(rows: Rows, after_ns: int) -> Rows:
    """The same rows with other values, and some without any, after a time."""
    later = rows.times > after_ns
    values = rows.values.copy()
    values[later] = values[later][::-1] * 3 + 1000
    values[np.flatnonzero(later)[::4]] = np.nan
    return Rows(rows.times, values)


def test_a_plan_holds_the_run_s_durations_in_steps_of_the_node(settings: TrainSettings) -> None:
    plan = Plan.of(settings, ["power"], 2.0, 5.0)

    assert plan == Plan(("power",), 5, (1, 2), 10, 2.0, 5.0)
    assert (plan.period_ns, plan.max_gap_ns) == (2 * SECOND, 5 * SECOND)


def test_nothing_after_the_cutoff_has_a_part_in_training(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    cutoff = cutoff_of(rows, settings.train_fraction)
    changed = altered(rows, cutoff)

    before, after = (cut(given, schema, plan, cutoff) for given in (rows, changed))
    linears = [fit_blend(prepared.train) for prepared in (before, after)]
    models = [build(ModelShape("lstm", 3, 2, 10, 4, 1), 1) for _ in linears]
    for model, prepared, linear in zip(models, (before, after), linears, strict=True):
        fit(model, prepared.train, linear, epochs=1, learning_rate=0.01, batch_size=32, seed=1)

    np.testing.assert_array_equal(before.train.inputs, after.train.inputs)
    np.testing.assert_array_equal(before.train.targets, after.train.targets)
    np.testing.assert_array_equal(before.train.last_times, after.train.last_times)
    np.testing.assert_array_equal(before.train.seasonal, after.train.seasonal)
    np.testing.assert_array_equal(linears[0].weights, linears[1].weights)
    np.testing.assert_array_equal(linears[0].noise, linears[1].noise)
    assert before.present == after.present
    assert all(np.array_equal(a, b) for a, b in zip(*(to_arrays(model) for model in models), strict=True))
    assert not np.array_equal(before.held_out.targets, after.held_out.targets)


def test_a_hole_across_the_cutoff_is_not_bridged_into_the_training_part(
    make_rows: MakeRows, schema: Schema, plan: Plan
) -> None:
    rows = make_rows(200)
    rows.values[100:102] = np.nan

    prepared = cut(rows, schema, plan, int(rows.times[101]))
    bridged = cut(rows, schema, plan, int(rows.times[-1]))

    # the values up to the hole, 100 rows, give 86 windows of 10 + 5 rows; none reaches into it
    assert len(prepared.train) == 86
    assert prepared.train.last_times.max() == rows.times[94]
    assert {int(rows.times[95]), int(rows.times[98])} <= set(bridged.train.last_times.tolist())


def test_held_out_targets_all_lie_after_the_cutoff_and_its_inputs_reach_back(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    cutoff = int(rows.times[179])

    prepared = cut(rows, schema, plan, cutoff)

    assert len(prepare(rows, schema, plan, settings, cutoff, cutoff).train) == len(prepared.train)
    assert len(prepared.train) == 180 - 10 - 5 + 1
    assert (prepared.train.last_times + 5 * SECOND).max() == cutoff
    assert len(prepared.held_out) == 60 - (5 - 1)
    assert (prepared.held_out.last_times + 1 * SECOND).min() == rows.times[180]
    assert prepared.held_out.last_times.max() == rows.times[-1] - 5 * SECOND
    np.testing.assert_array_equal(prepared.held_out.inputs[0, :, 0], rows.values[170:180, 0])


@given(
    horizons=st.sampled_from([(1,), (1, 4), (3, 7)]),
    window=st.integers(2, 6),
    at=st.integers(5, 85),
    holes=st.sets(st.integers(0, 89), max_size=8),
    season=st.sampled_from([0, 2, 5, 30]),
)
def test_held_out_windows_are_those_of_the_whole_history(
    horizons: tuple[int, ...], window: int, at: int, holes: set[int], season: int
) -> None:
    schema = Schema((Series("a", "1"),))
    values = np.arange(90.0)[:, None]
    values[sorted(holes)] = np.nan
    rows = Rows(np.arange(90, dtype=np.int64) * SECOND, values)
    plan = Plan(schema.names, window, horizons, season, 1.0, 2.0)

    prepared = cut(rows, schema, plan, at * SECOND)

    if not prepared.has.any():
        assert len(prepared.held_out) == len(prepared.train) == 0
        return
    whole = cut(rows, schema, plan, 89 * SECOND).train
    _, later = split_by_time(whole, at * SECOND)
    np.testing.assert_array_equal(prepared.held_out.last_times, later.last_times)
    np.testing.assert_array_equal(prepared.held_out.inputs, later.inputs)
    np.testing.assert_array_equal(prepared.held_out.targets, later.targets)
    np.testing.assert_array_equal(prepared.held_out.seasonal, later.seasonal)


def test_windows_are_in_real_units_of_the_series_asked_for_in_their_order(
    make_rows: MakeRows, schema: Schema, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    plan = Plan.of(settings, ["memory_usage", "cpu_usage"], 1.0, 3.0)

    prepared = cut(rows, schema, plan, int(rows.times[179]))

    assert prepared.schema.units == ("MiBy", "%")
    np.testing.assert_array_equal(prepared.train.inputs[0], rows.values[:10, [1, 0]])
    np.testing.assert_array_equal(prepared.train.targets[0], rows.values[[10, 14]][:, [1, 0]])


def test_a_survey_tells_what_a_node_has_without_its_values(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)

    found = survey(rows, schema, plan, settings)

    assert found.reason is None
    assert (found.rows, found.newest, found.cutoff_ns) == (240, rows.times[-1], rows.times[179])
    assert found.present == ("cpu_usage", "memory_usage")
    assert found.train_windows == 166


def test_an_empty_store_is_surveyed_as_not_ready(schema: Schema, plan: Plan, settings: TrainSettings) -> None:
    found = survey(Rows.empty(3), schema, plan, settings)

    assert found.reason == "there is no row yet"
    assert found.newest is None
    assert found.present == ()
    with pytest.raises(NotReady, match="no row yet"):
        cutoff_of(Rows.empty(3), 0.75)


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_too_few_rows_are_not_ready_and_the_reason_has_the_numbers(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings, count: int
) -> None:
    rows = make_rows(count)

    found = survey(rows, schema, plan, settings)

    needed = rows_for_training(plan, settings)
    assert found.reason is not None
    assert "of 30 training windows" in found.reason
    assert f"need {needed} rows, one every 1 s" in found.reason
    assert f"there are {count} rows, with a value in cpu_usage {count}, memory_usage {count}, power 0" in found.reason
    with pytest.raises(NotReady) as caught:
        prepare(rows, schema, plan, settings, cutoff_of(rows, settings.train_fraction), int(rows.times[-1]))
    assert caught.value.message == re.sub(r" and \d+ of \d+ held-out windows", "", found.reason)
    assert caught.value.cure


@given(
    window=st.integers(2, 9),
    far=st.integers(2, 30),
    min_windows=st.integers(1, 40),
    share=st.sampled_from([0.1, 0.5, 0.7, 0.75, 0.8, 0.9]),
)
def test_a_node_becomes_ready_with_exactly_the_rows_that_it_is_said_to_need(
    window: int, far: int, min_windows: int, share: float
) -> None:
    config = {
        "num-server-rounds": 1, "min-nodes": 1, "local-epochs": 1, "learning-rate": 0.1, "batch-size": 1,
        "network": "gru", "hidden-size": 1, "num-layers": 1, "series": "a", "window": f"{window}s",
        "horizons": f"next,{far}s", "season": "60s",
        "train-fraction": share, "min-windows": min_windows, "round-timeout-seconds": 1, "seed": 1,
    }  # fmt: skip
    settings, schema = TrainSettings.from_run_config(config), Schema((Series("a", "1"),))
    plan = Plan.of(settings, schema.names, 1.0, 3.0)
    needed = rows_for_training(plan, settings)

    def reason(count: int) -> str | None:
        rows = Rows(np.arange(count, dtype=np.int64) * SECOND, np.arange(count, dtype=np.float64)[:, None])
        return survey(rows, schema, plan, settings).reason

    assert reason(needed) is None
    assert reason(needed + 7) is None
    assert reason(needed - 1) is not None


def test_gaps_leave_too_few_windows_however_many_rows_there_are(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(400)
    kept = np.arange(400) % 15 < 11

    found = survey(Rows(rows.times[kept], rows.values[kept]), schema, plan, settings)

    assert found.train_windows == 0
    assert found.reason is not None
    assert "without a gap longer than 3 s" in found.reason


def test_a_series_that_is_there_too_rarely_counts_as_absent_and_costs_no_window(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    rows.values[100:140, 2] = 15.0

    found = survey(rows, schema, plan, settings)

    assert found.present == ("cpu_usage", "memory_usage")
    assert found.train_windows == 166


@pytest.mark.parametrize(("ends", "whole"), [(176, 0), (180, 0), (200, 16), (220, 36)])
def test_a_series_that_died_costs_the_others_no_held_out_window(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings, ends: int, whole: int
) -> None:
    rows = make_rows(240)
    rows.values[ends:, 1] = np.nan
    cutoff = int(rows.times[179])

    prepared = cut(rows, schema, plan, cutoff)

    assert survey(rows, schema, plan, settings).reason is None
    assert prepared.present == ("cpu_usage", "memory_usage")
    assert len(prepared.held_out) == 60 - (5 - 1)
    assert np.isfinite(prepared.held_out.inputs[:, :, 0]).all()
    assert np.isfinite(prepared.held_out.inputs[:, :, 1]).all(axis=1).sum() == whole
    assert np.isfinite(prepared.held_out.targets[:, :, 1]).all(axis=1).sum() == whole


def test_a_season_before_the_cutoff_keeps_no_dead_series_alive(
    make_rows: MakeRows, schema: Schema, settings: TrainSettings
) -> None:
    rows, plan = make_rows(240), Plan(schema.names, 10, (1, 5), 100, 1.0, 3.0)
    rows.values[180:, 1] = np.nan

    assert len(cut(rows, schema, plan, int(rows.times[179])).held_out) == 60 - (5 - 1)


def test_a_series_that_died_before_the_cutoff_costs_the_others_no_window(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    rows.values[120:, 1] = np.nan

    prepared = cut(rows, schema, plan, int(rows.times[179]))

    assert prepared.present == ("cpu_usage", "memory_usage")
    assert (len(prepared.train), len(prepared.held_out)) == (166, 56)
    assert np.isfinite(prepared.train.inputs[:, :, 1]).all(axis=1).sum() == 120 - 14
    assert np.isnan(prepared.held_out.inputs[:, :, 1]).all()
    assert survey(rows, schema, plan, settings).train_windows == 166


def test_a_node_that_lacks_windows_names_the_series_that_ended(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    rows.values[180:, :2] = np.nan

    found = survey(rows, schema, plan, settings)

    assert found.reason is not None
    assert "0 of 10 held-out windows" in found.reason
    assert "cpu_usage 180 (none in the newest 60), memory_usage 180 (none in the newest 60), power 0" in found.reason


def test_nan_and_infinite_values_are_gaps(
    make_rows: MakeRows, schema: Schema, plan: Plan, settings: TrainSettings
) -> None:
    rows = make_rows(240)
    rows.values[50, 0], rows.values[60:80, 0], rows.values[120, 1] = np.inf, np.nan, -np.inf

    train = prepare(rows, schema, plan, settings, int(rows.times[179]), int(rows.times[-1])).train

    assert np.isfinite(train.inputs[:, :, :2]).all()
    spanned = (train.last_times >= rows.times[60] - 5 * SECOND) & (train.last_times <= rows.times[79] + 9 * SECOND)
    assert not spanned.any()


def test_the_newest_window_starts_a_forecast_from_the_newest_rows(
    make_rows: MakeRows, schema: Schema, plan: Plan
) -> None:
    rows = make_rows(50)

    latest = newest_window(rows, schema, plan)

    assert latest.last_time == rows.times[-1]
    assert latest.present.tolist() == [True, True, False]
    np.testing.assert_array_equal(latest.inputs[0, :, :2], rows.values[-10:, :2])
    # a season is 20 rows: what was measured that long before the next row, and before that in 5 rows
    np.testing.assert_array_equal(latest.seasonal[0, :, :2], rows.values[[30, 34], :2])
    assert np.isnan(latest.seasonal[0, :, 2]).all()


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_rows_start_no_forecast(make_rows: MakeRows, schema: Schema, plan: Plan, count: int) -> None:
    with pytest.raises(NotReady, match=f"10 rows without a gap.*cpu_usage {count}, memory_usage {count}, power 0"):
        newest_window(make_rows(count), schema, plan)


def test_a_series_that_the_store_does_not_have_is_named(
    make_rows: MakeRows, schema: Schema, settings: TrainSettings
) -> None:
    plan = Plan.of(settings, ["cpu_usage", "fan_speed"], 1.0, 3.0)

    with pytest.raises(SchemaMismatch, match="fan_speed"):
        survey(make_rows(100), schema, plan, settings)
    with pytest.raises(SchemaMismatch, match="rows of 2 columns"):
        select(Rows.empty(2), schema, ["cpu_usage"])
