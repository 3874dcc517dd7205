from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from icosfl.aggregate import model
from icosfl.train.artifact import LATEST, point_best, save
from icosfl.train.messages import Level
from icosfl.train.node import Job
from icosfl.train.settings import TrainSettings
from support import made_up


def job(directory: Path, train_fraction: float = 0.75, **changes: str) -> Job:
    settings = TrainSettings.from_run_config({**made_up.RUN_CONFIG, "train-fraction": train_fraction, **changes})
    return Job(made_up.node_config(directory, "controller"), settings, made_up.QUESTION)


def test_the_first_model_of_a_controller_is_fresh_and_says_so(tmp_path: Path) -> None:
    started = model.start(job(tmp_path), "1")

    assert (started.artifact.parent, started.artifact.round) == (None, 0)
    assert started.fresh_because == "there is no earlier model"


def test_a_damaged_model_is_not_gone_on_from_and_its_file_is_named(tmp_path: Path) -> None:
    own = job(tmp_path)
    path = save(model.start(own, "1").artifact, own.node.models_dir)
    path.write_bytes(path.read_bytes()[:-30])

    started = model.start(own, "2")

    assert started.artifact.parent is None
    assert path.name in started.fresh_because


def test_a_damaged_pointer_is_not_gone_on_from(tmp_path: Path) -> None:
    own = job(tmp_path)
    own.node.models_dir.mkdir(parents=True)
    (own.node.models_dir / LATEST).write_text("?", encoding="utf-8")

    assert LATEST in model.start(own, "2").fresh_because


def test_a_model_that_was_taught_rows_which_the_run_measures_on_is_not_gone_on_from(tmp_path: Path) -> None:
    taught_more = job(tmp_path, train_fraction=0.9)
    save(model.start(taught_more, "1").artifact, taught_more.node.models_dir)

    started = model.start(job(tmp_path, train_fraction=0.5), "2")

    assert (started.artifact.parent, started.artifact.train_fraction) == (None, 0.5)
    assert started.fresh_because == "the earlier model was taught 0.9 of the rows, this run measures on all after 0.5"


def test_a_model_that_was_taught_fewer_rows_is_gone_on_from_and_counts_as_taught_all_of_them(tmp_path: Path) -> None:
    taught_less = job(tmp_path, train_fraction=0.5)
    first = model.start(taught_less, "1").artifact
    save(first, taught_less.node.models_dir)

    second = model.start(job(tmp_path, train_fraction=0.9), "2").artifact

    assert (second.parent, second.train_fraction) == (first.digest, 0.9)


def test_a_model_is_taught_what_the_nodes_of_its_rounds_have_and_what_its_parent_was(tmp_path: Path) -> None:
    own = job(tmp_path)
    fresh = model.start(own, "1").artifact
    first = model.after_round(fresh, 1, ("worker-1",), {"cpu_usage", "unknown"}, list(fresh.arrays))
    save(first, own.node.models_dir)

    begun = model.start(own, "2").artifact
    second = model.after_round(begun, 1, ("worker-2",), {"power"}, list(begun.arrays))

    assert (fresh.taught, first.taught) == ((), ("cpu_usage",))
    assert (begun.parent, begun.taught) == (first.digest, ("cpu_usage",))
    assert second.taught == ("cpu_usage", "power")


def test_a_run_goes_on_from_the_best_model_and_from_the_newest_where_that_does_not_fit(tmp_path: Path) -> None:
    own, other = job(tmp_path), job(tmp_path, network="gru")
    best, newest = model.start(own, "1").artifact, model.start(other, "2").artifact
    for artifact in (best, newest):
        save(artifact, own.node.models_dir)
    point_best(best, own.node.models_dir)

    from_best, from_newest = model.start(own, "3"), model.start(other, "3")

    assert (from_best.artifact.parent, from_best.parent_file) == (best.digest, best.file_name)
    assert (from_newest.artifact.parent, from_newest.parent_file) == (newest.digest, newest.file_name)


def test_a_run_that_must_not_go_on_from_a_model_begins_afresh(tmp_path: Path) -> None:
    own = job(tmp_path)
    save(model.start(own, "1").artifact, own.node.models_dir)

    started = model.start(own, "2", warm=False)

    assert (started.artifact.parent, started.parent_file) == (None, "")
    assert started.fresh_because == "warm-start is false"


def test_of_what_a_node_says_of_a_model_only_what_the_model_forecasts_is_taken_and_each_once(tmp_path: Path) -> None:
    artifact = model.start(job(tmp_path), "1").artifact
    told = [
        Level("cpu_usage", 5, 10, 1.0, 2.0),
        Level("gpu", 1, 10, 0.0, 1.0),
        Level("cpu_usage", 2, 10, 0.0, 1.0),
        Level("cpu_usage", 5, 10, 1.5, 2.0),
    ]

    assert model.known_levels(told, artifact) == (told[3],)


def test_another_season_is_no_reason_to_begin_afresh(tmp_path: Path) -> None:
    first = model.start(job(tmp_path), "1").artifact
    save(first, job(tmp_path).node.models_dir)

    second = model.start(job(tmp_path, season="90s"), "2").artifact

    assert (first.season, second.season) == (20, 30)
    assert second.parent == first.digest


def test_a_model_of_another_network_is_not_gone_on_from(tmp_path: Path) -> None:
    save(model.start(job(tmp_path), "1").artifact, job(tmp_path).node.models_dir)

    started = model.start(job(tmp_path, network="gru"), "2")

    assert started.artifact.parent is None
    assert started.artifact.shape.network == "gru"
    assert "network='lstm'" in started.fresh_because


def test_a_model_of_the_first_format_is_not_gone_on_from_and_the_run_says_why(tmp_path: Path) -> None:
    own = job(tmp_path)
    path = save(model.start(own, "1").artifact, own.node.models_dir)
    with np.load(path) as file:
        parts = dict(file)
    meta = json.loads(parts["meta"].tobytes()) | {"format": 1}
    np.savez(path, **parts | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})

    started = model.start(own, "2")

    assert started.artifact.parent is None
    assert path.name in started.fresh_because
    assert "format 1, made by another release" in started.fresh_because


def test_an_evaluation_is_kept_beside_the_model_and_says_when_it_cannot_be(tmp_path: Path) -> None:
    own = job(tmp_path)
    artifact = model.start(own, "1").artifact

    scores = model.evaluate(artifact, own.node, made_up.rows(200))
    skipped = model.evaluate(replace(artifact, round=1), own.node, made_up.rows(5))

    assert set(scores) == {"scores"}
    assert len(list(own.node.models_dir.iterdir())) == 1
    assert skipped["skipped"].startswith("controller: 5 rows give ")
