from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from icosfl.config import NodeConfig
from icosfl.errors import NotReady
from icosfl.schema import Rows
from icosfl.serve import measure
from icosfl.serve.measure import part_of
from icosfl.serve.predictor import Predictor
from icosfl.serve.values import to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import Baselines
from icosfl.train.evaluation import Evaluation
from icosfl.train.linear import Linear
from icosfl.train.node import measure as run_measure

MakeRows = Callable[..., Rows]
MakeArtifact = Callable[..., Artifact]


def test_the_cutoff_stands_at_the_share_of_rows_that_the_run_trained_on(
    make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(400)

    kept, cutoff = part_of(rows, make_artifact(), 0)

    assert cutoff == rows.times[299]
    assert len(kept) == 400


def test_the_cutoff_never_moves_back_while_rows_come_and_go(make_rows: MakeRows, make_artifact: MakeArtifact) -> None:
    history, capacity = make_rows(900), 400
    cutoffs = []

    for end in range(50, 900, 25):
        start = max(end - capacity, 0)
        window = Rows(history.times[start:end], history.values[start:end])
        cutoffs.append(part_of(window, make_artifact(), 0)[1])

    assert cutoffs == sorted(cutoffs)


def test_the_runs_own_cutoff_counts_where_it_is_later(make_rows: MakeRows, make_artifact: MakeArtifact) -> None:
    rows = make_rows(400)

    assert part_of(rows, make_artifact(), int(rows.times[350]))[1] == rows.times[350]
    assert part_of(rows, make_artifact(), int(rows.times[10]))[1] == rows.times[299]


def test_a_measurement_is_bounded_however_many_rows_there_are(
    make_rows: MakeRows, make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "MOST_NUMBERS", 10 * 3 * 50)
    rows, span = make_rows(4000), 15

    kept, cutoff = part_of(rows, make_artifact(), 0)

    before, after = int((kept.times <= cutoff).sum()), int((kept.times > cutoff).sum())
    assert before == 50 + span
    assert after == 50 + span - 1
    assert kept.times[-1] == rows.times[-1]


def test_nothing_that_is_fitted_learns_from_rows_after_the_cutoff(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    model = Predictor(make_artifact(), node, None)
    rows, other = make_rows(400), make_rows(400)
    other.values[300:] *= 0.5

    before, after = model.measure(rows), model.measure(other)

    assert before.baselines.to_dict() == after.baselines.to_dict()
    assert before.linear.to_dict() == after.linear.to_dict()
    assert before.evaluation.scores != after.evaluation.scores


def test_the_baselines_are_fitted_once_a_measurement(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = []
    fit = Baselines.fit
    monkeypatch.setattr(Baselines, "fit", lambda train: fits.append(train) or fit(train))

    Predictor(make_artifact(), node, None).measure(make_rows(400))

    assert len(fits) == 1


def test_a_measurement_says_on_what_it_was_made(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(400)

    found = Predictor(make_artifact(), node, None).measure(rows)

    assert found.evaluation.cutoff == to_datetime(int(rows.times[299]))
    assert found.evaluation.until == to_datetime(int(rows.times[-1]))
    assert abs(found.evaluation.evaluated - datetime.now(UTC)) < timedelta(minutes=1)
    # 300 rows without a gap hold 286 windows of 10 steps and 5 ahead; the first target after the cutoff is row 300
    assert (found.evaluation.scores.train_windows, found.evaluation.scores.held_out_windows) == (286, 96)


def test_too_few_rows_on_one_side_of_the_cutoff_are_named(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match=r"0 windows up to the cutoff and \d+ after it"):
        Predictor(make_artifact(), node, None).measure(make_rows(18))


def test_an_empty_store_cannot_be_measured_on(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match="no row"):
        Predictor(make_artifact(), node, None).measure(Rows.empty(3))


@pytest.fixture
def saved(node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact) -> Evaluation:
    """What a run measured of the model on this node."""
    rows = make_rows(400)
    found = run_measure(make_artifact(), node, rows, int(rows.times[350]))
    return replace(found, measured="2026-03-01T12:30:00+00:00")


def test_what_the_run_measured_here_serves_until_the_service_has_measured(
    node: NodeConfig, make_artifact: MakeArtifact, saved: Evaluation
) -> None:
    handed = Predictor(make_artifact(), node, saved).handed

    assert handed is not None
    assert handed.evaluation.evaluated == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert handed.evaluation.scores.train_windows == 351 - 14
    assert handed.linear is saved.linear


def test_the_runs_own_cutoff_is_kept_by_later_measurements(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact, saved: Evaluation
) -> None:
    found = Predictor(make_artifact(), node, saved).measure(make_rows(400))

    assert found.evaluation.cutoff == to_datetime(saved.cutoff_ns)


def test_a_measurement_of_another_shape_is_left(
    node: NodeConfig, make_artifact: MakeArtifact, saved: Evaluation
) -> None:
    narrow = Linear(saved.linear.weights[:, 1:], saved.linear.bias, saved.linear.noise)

    other = replace(saved, linear=narrow, baselines=Baselines(narrow, narrow))

    assert Predictor(make_artifact(), node, other).handed is None


def test_a_measurement_without_a_time_is_left(node: NodeConfig, make_artifact: MakeArtifact, saved: Evaluation) -> None:
    assert Predictor(make_artifact(), node, replace(saved, measured="lately")).handed is None
