from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError, NotReady, SchemaMismatch
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact
from icosfl.train.drift import least_seconds, least_windows, levels_of_test, made_ns, recheck
from icosfl.train.evaluation import Evaluation
from icosfl.train.messages import Checked
from icosfl.train.model import build, to_arrays
from icosfl.train.node import Job, measure
from icosfl.train.settings import TrainSettings
from icosfl.train.validation import skill_of
from support import made_up

SECOND = 1_000_000_000
HOUR = 3600.0


@pytest.fixture
def node(tmp_path: Path) -> NodeConfig:
    return made_up.node_config(tmp_path, "worker-1")


def iso(row: int) -> str:
    return datetime.fromtimestamp(made_up.rows(600).times[row] / SECOND, UTC).isoformat()


@pytest.fixture
def model(node: NodeConfig) -> Artifact:
    """A model that was made at the 300th row."""
    job = Job(node, TrainSettings.from_run_config(made_up.RUN_CONFIG), made_up.QUESTION)
    return Artifact(
        schema=job.schema,
        period_seconds=made_up.PERIOD,
        horizons=job.plan.horizons,
        season=job.plan.season,
        train_fraction=0.75,
        taught=("cpu_usage",),
        shape=job.shape,
        run="1",
        round=1,
        nodes=("worker-1",),
        created=iso(299),
        parent=None,
        arrays=tuple(to_arrays(build(job.shape, 1))),
    )


Look = Callable[..., Checked]


@pytest.fixture
def look(node: NodeConfig, model: Artifact) -> Look:
    def check(
        rows: Rows,
        *,
        model: Artifact = model,
        saved: Evaluation | None = None,
        seconds: float = HOUR,
        late: float = 0.0,
    ) -> Checked:
        now = int(made_up.rows(600).times[-1]) + round(late * SECOND)
        return recheck(model, saved, node, rows, seconds, now)

    return check


def changed(rows: Rows, first: int, last: int, value: float) -> Rows:
    values = rows.values.copy()
    values[first:last, 0] = value
    return Rows(rows.times, values)


def test_targets_from_before_the_model_was_made_do_not_count(look: Look, model: Artifact) -> None:
    rows, young = made_up.rows(600), replace(model, created=iso(499))

    found = look(rows, model=young)

    assert found.since_ns == rows.times[499]
    assert found.windows == 100 - 5 + 1
    assert [(level.series, level.horizon_steps, level.count) for level in found.levels] == [
        ("cpu_usage", 1, 96), ("cpu_usage", 5, 96)
    ]  # fmt: skip


def test_of_a_full_store_only_the_newest_part_that_was_asked_for_counts(look: Look) -> None:
    rows = made_up.rows(600)

    found = look(rows, seconds=180.0)

    assert found.since_ns == rows.times[-1] - 180 * SECOND
    assert found.windows == 60 - 5 + 1


def test_rows_that_the_linear_part_was_fitted_to_do_not_count(look: Look) -> None:
    rows = made_up.rows(600)

    found = look(rows)

    assert found.since_ns == rows.times[449]  # at 0.75 of the rows, later than the model's making


def test_rows_that_a_run_trained_on_here_do_not_count(look: Look, node: NodeConfig, model: Artifact) -> None:
    rows = made_up.rows(600)
    saved = measure(model, node, rows, int(rows.times[479]))

    assert look(rows, saved=saved).since_ns == rows.times[479]


def test_a_model_whose_rows_went_on_as_they_were_has_the_skill_that_it_had(
    look: Look, node: NodeConfig, model: Artifact
) -> None:
    rows = made_up.rows(600)
    saved = measure(model, node, Rows(rows.times[:300], rows.values[:300]), None)

    found = look(rows, saved=saved)

    now, before = skill_of(found.levels), skill_of(found.before)
    assert now is not None
    assert before is not None
    assert now == pytest.approx(before, abs=0.1)
    assert now > 0.3


def test_a_load_that_became_another_one_shows_as_a_lost_skill(look: Look, node: NodeConfig, model: Artifact) -> None:
    rows = made_up.rows(600)
    saved = measure(model, node, Rows(rows.times[:300], rows.values[:300]), None)
    walk = Rows(rows.times, rows.values.copy())
    walk.values[450:, 0] = 50 + np.cumsum(np.random.default_rng(3).normal(0, 5, 150))

    found = look(walk, saved=saved)

    now, before = skill_of(found.levels), skill_of(found.before)
    assert now is not None
    assert before is not None
    assert now < 0.05 < 0.3 < before


@pytest.mark.parametrize(("created", "there"), [(599, 0), (575, 20), (700, 0)])
def test_too_few_rows_since_the_model_was_made_give_no_verdict(
    look: Look, model: Artifact, created: int, there: int
) -> None:
    made = datetime.fromtimestamp((made_up.START + created * 3 * SECOND) / SECOND, UTC).isoformat()

    with pytest.raises(NotReady, match=rf"no verdict: {there} windows .*, when the model was made, at least 30 are"):
        look(made_up.rows(600), model=replace(model, created=made))


def test_too_few_rows_in_the_part_that_was_asked_for_give_no_verdict(look: Look) -> None:
    with pytest.raises(NotReady, match=r"no verdict: 16 windows of rows after \S+, at least 30 are needed"):
        look(made_up.rows(600), seconds=60.0)


def test_a_store_without_a_row_gives_no_verdict(look: Look) -> None:
    with pytest.raises(NotReady, match="there is no row yet"):
        look(Rows.empty(2))


def test_a_series_that_ended_since_tells_nothing_of_now(look: Look) -> None:
    rows = made_up.rows(600)
    rows.values[:, 1] = rows.values[:, 0] + 100
    rows.values[470:, 0] = np.nan

    found = look(rows)

    assert {level.series for level in found.levels} == {"power"}
    assert found.windows > 100


def test_a_series_that_stands_still_has_no_skill(look: Look) -> None:
    found = look(changed(made_up.rows(600), 0, 600, 7.0))

    assert [level.persistence for level in found.levels] == [0.0, 0.0]
    assert skill_of(found.levels) is None


def test_the_newest_row_s_age_is_told(look: Look) -> None:
    assert look(made_up.rows(600), late=12.5).age_seconds == 12.5


def test_a_model_that_the_node_cannot_use_is_refused(node: NodeConfig, model: Artifact) -> None:
    with pytest.raises(SchemaMismatch, match="power"):
        recheck(model, None, replace(node, series=node.series[:1]), made_up.rows(600), HOUR, 0)


def test_a_model_that_does_not_say_when_it_was_made_is_refused(model: Artifact) -> None:
    assert made_ns(replace(model, created="2026-01-02T03:04:05+00:00")) == 1767323045 * SECOND
    assert made_ns(replace(model, created="2026-01-02T03:04:05")) == 1767323045 * SECOND
    with pytest.raises(CheckpointError, match="'yesterday'"):
        made_ns(replace(model, created="yesterday"))


def test_what_was_measured_before_is_that_of_the_test_rows(node: NodeConfig, model: Artifact) -> None:
    scores = measure(model, node, made_up.rows(600), None).scores

    near, far = levels_of_test(scores)

    score = scores.of("cpu_usage", 5)
    assert score is not None
    assert (near.series, near.horizon_steps, far.horizon_steps) == ("cpu_usage", 1, 5)
    assert (far.count, far.rmse) == (score.count, score.errors["global"].rmse)
    assert far.persistence == score.errors["persistence"].rmse


def test_a_far_horizon_needs_more_rows() -> None:
    assert least_windows((1, 5)) == 30
    assert least_windows((1, 60)) == 240
    assert least_seconds((1, 60), 5.0) == (240 + 59) * 5.0
