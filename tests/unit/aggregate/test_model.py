from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from icosfl.aggregate import model
from icosfl.process.scale import Moments, Scaler
from icosfl.train.artifact import LATEST, save
from icosfl.train.node import Job
from icosfl.train.settings import TrainSettings
from support import made_up

MOMENTS = Moments.of(made_up.rows(100).values)


def job(directory: Path, train_fraction: float = 0.75) -> Job:
    settings = TrainSettings.from_run_config(made_up.RUN_CONFIG | {"train-fraction": train_fraction})
    return Job(made_up.node_config(directory, "controller"), settings, made_up.QUESTION)


def test_the_first_model_of_a_controller_is_fresh_and_says_so(tmp_path: Path) -> None:
    started = model.start(job(tmp_path), MOMENTS, "1")

    assert (started.artifact.parent, started.artifact.round) == (None, 0)
    assert started.fresh_because == "there is no earlier model"


def test_a_damaged_model_is_not_gone_on_from_and_its_file_is_named(tmp_path: Path) -> None:
    own = job(tmp_path)
    path = save(model.start(own, MOMENTS, "1").artifact, own.node.models_dir)
    path.write_bytes(path.read_bytes()[:-30])

    started = model.start(own, MOMENTS, "2")

    assert started.artifact.parent is None
    assert path.name in started.fresh_because


def test_a_damaged_pointer_is_not_gone_on_from(tmp_path: Path) -> None:
    own = job(tmp_path)
    own.node.models_dir.mkdir(parents=True)
    (own.node.models_dir / LATEST).write_text("?", encoding="utf-8")

    assert LATEST in model.start(own, MOMENTS, "2").fresh_because


def test_a_model_that_was_taught_rows_which_the_run_measures_on_is_not_gone_on_from(tmp_path: Path) -> None:
    taught_more = job(tmp_path, train_fraction=0.9)
    save(model.start(taught_more, MOMENTS, "1").artifact, taught_more.node.models_dir)

    started = model.start(job(tmp_path, train_fraction=0.5), MOMENTS, "2")

    assert (started.artifact.parent, started.artifact.train_fraction) == (None, 0.5)
    assert started.fresh_because == "the earlier model was taught 0.9 of the rows, this run measures on all after 0.5"


def test_a_model_that_was_taught_fewer_rows_is_gone_on_from_and_counts_as_taught_all_of_them(tmp_path: Path) -> None:
    taught_less = job(tmp_path, train_fraction=0.5)
    first = model.start(taught_less, MOMENTS, "1").artifact
    save(first, taught_less.node.models_dir)

    second = model.start(job(tmp_path, train_fraction=0.9), MOMENTS, "2").artifact

    assert (second.parent, second.train_fraction) == (first.digest, 0.9)


def test_a_series_that_the_earlier_model_never_saw_is_scaled_by_the_rows_of_now(tmp_path: Path) -> None:
    own = job(tmp_path)
    first = model.start(own, MOMENTS, "1").artifact
    save(first, own.node.models_dir)
    now = made_up.rows(100)
    now.values[:, 0] += 1000
    now.values[:, 1] = np.linspace(10, 20, 100)

    second = model.start(own, Moments.of(now.values), "2").artifact

    assert second.parent == first.digest
    assert second.scaler.mean[0] == first.scaler.mean[0]
    np.testing.assert_allclose(second.scaler.mean[1], 15)


def test_a_complete_scaler_stays_as_it_is() -> None:
    scaler = Scaler(np.array([1.0, 2.0]), np.array([3.0, 4.0]))

    completed = model.completed(scaler, Scaler(np.array([9.0, 9.0]), np.array([9.0, 9.0])))

    np.testing.assert_array_equal(completed.mean, scaler.mean)
    np.testing.assert_array_equal(completed.scale, scaler.scale)


def test_an_evaluation_is_kept_beside_the_model_and_says_when_it_cannot_be(tmp_path: Path) -> None:
    own = job(tmp_path)
    artifact = model.start(own, MOMENTS, "1").artifact

    scores = model.evaluate(artifact, own.node, made_up.rows(200))
    skipped = model.evaluate(replace(artifact, round=1), own.node, made_up.rows(5))

    assert set(scores) == {"scores"}
    assert len(list(own.node.models_dir.iterdir())) == 1
    assert skipped["skipped"].startswith("controller: 5 rows give ")
