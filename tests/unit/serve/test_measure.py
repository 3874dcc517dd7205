from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from icosfl.config import NodeConfig, schema_of
from icosfl.errors import NotReady
from icosfl.schema import Rows
from icosfl.serve import measure
from icosfl.serve.measure import part_of
from icosfl.serve.predictor import Predictor
from icosfl.serve.values import to_datetime
from icosfl.train.artifact import Artifact
from icosfl.train.baselines import Baselines
from icosfl.train.evaluation import Evaluation
from icosfl.train.scores import Scores

MakeRows = Callable[..., Rows]
MakeArtifact = Callable[..., Artifact]

NOW = datetime(2026, 3, 1, 13, 0, tzinfo=UTC)


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


def test_ar_learns_nothing_from_rows_after_the_cutoff(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    model = Predictor(make_artifact(), schema_of(node.series), node, None)
    rows, other = make_rows(400), make_rows(400)
    other.values[300:] *= 0.5

    before, after = model.measure(rows, NOW).baselines, model.measure(other, NOW).baselines

    np.testing.assert_array_equal(before.weights, after.weights)
    np.testing.assert_array_equal(before.centre, after.centre)


def test_a_measurement_says_on_what_it_was_made(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    rows = make_rows(400)

    found = Predictor(make_artifact(), schema_of(node.series), node, None).measure(rows, NOW)

    assert found.evaluation.cutoff == to_datetime(int(rows.times[299]))
    assert found.evaluation.until == to_datetime(int(rows.times[-1]))
    assert found.evaluation.evaluated == NOW
    # 300 rows without a gap hold 286 windows of 10 steps and 5 ahead; the first target after the cutoff is row 300
    assert (found.evaluation.train_windows, found.evaluation.validation_windows) == (286, 96)
    assert found.interval == 0.8


def test_too_few_rows_on_one_side_of_the_cutoff_are_named(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match=r"0 windows up to the cutoff and \d+ after it"):
        Predictor(make_artifact(), schema_of(node.series), node, None).measure(make_rows(18), NOW)


def test_an_empty_store_cannot_be_measured_on(
    node: NodeConfig, make_rows: MakeRows, make_artifact: MakeArtifact
) -> None:
    with pytest.raises(NotReady, match="no row"):
        Predictor(make_artifact(), schema_of(node.series), node, None).measure(Rows.empty(3), NOW)


def saved(artifact: Artifact, horizons: tuple[int, ...], measured: str) -> Evaluation:
    width = len(artifact.schema)
    baselines = Baselines(np.zeros(width), np.ones((width, 1)), np.zeros((width, 1, len(horizons))), horizons)
    return Evaluation(artifact.digest, measured, 5_000_000_000, Scores(7, 3, ()), baselines)


def test_what_the_run_measured_here_serves_until_the_service_has_measured(
    node: NodeConfig, make_artifact: MakeArtifact
) -> None:
    artifact = make_artifact()

    handed = Predictor(
        artifact, schema_of(node.series), node, saved(artifact, artifact.horizons, "2026-03-01T12:30:00+00:00")
    ).handed

    assert handed is not None
    assert handed.evaluation.evaluated == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    assert (handed.evaluation.train_windows, handed.evaluation.validation_windows) == (7, 3)


@pytest.mark.parametrize(("horizons", "measured"), [((1,), "2026-03-01T12:30:00+00:00"), ((1, 5), "lately")])
def test_a_measurement_of_another_shape_or_without_a_time_is_left(
    node: NodeConfig, make_artifact: MakeArtifact, horizons: tuple[int, ...], measured: str
) -> None:
    artifact = make_artifact()

    predictor = Predictor(artifact, schema_of(node.series), node, saved(artifact, horizons, measured))

    assert predictor.handed is None
