from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from icosfl.schema import Schema, Series
from icosfl.train.artifact import LATEST, Artifact, load_best, load_latest, point_best, save
from icosfl.train.files import evaluation_path
from icosfl.train.prune import prune_models
from icosfl.train.shape import ModelShape

SHAPE = ModelShape("lstm", series=1, horizons=1, window=4, hidden=1, layers=1)
MODEL = Artifact(
    schema=Schema((Series("cpu_usage", "%"),)),
    period_seconds=3.0,
    horizons=(1,),
    season=0,
    train_fraction=0.75,
    taught=("cpu_usage",),
    shape=SHAPE,
    run="1",
    round=1,
    nodes=("worker-1",),
    created="2025-01-01T00:00:00+00:00",
    parent=None,
    arrays=tuple(np.zeros(dimensions, np.float32) for _, dimensions in SHAPE.arrays()),
)


def keep_model(directory: Path, run: str, number: int, created: str) -> Artifact:
    """A model in the directory, with its evaluation."""
    artifact = replace(MODEL, run=run, round=number, created=created)
    save(artifact, directory)
    evaluation_path(directory, artifact.digest).write_text("{}", encoding="utf-8")
    return artifact


def test_the_newest_models_and_their_evaluations_stay_and_older_ones_go(tmp_path: Path) -> None:
    # run ids say nothing of the order, and rounds may end within the same second
    keep_model(tmp_path, "9", 1, "2025-01-01T00:00:00+00:00")
    second = keep_model(tmp_path, "1", 1, "2025-01-02T00:00:00+00:00")
    third = keep_model(tmp_path, "1", 2, "2025-01-02T00:00:00+00:00")

    prune_models(tmp_path, 2)

    stay = [second, third]
    expected = {artifact.file_name for artifact in stay} | {LATEST}
    expected |= {evaluation_path(tmp_path, artifact.digest).name for artifact in stay}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_the_model_that_latest_names_stays_however_old_it_says_it_is(tmp_path: Path) -> None:
    for day in (2, 3, 4):
        keep_model(tmp_path, "1", day, f"2025-01-0{day}T00:00:00+00:00")
    latest = keep_model(tmp_path, "2", 1, "2025-01-01T00:00:00+00:00")

    prune_models(tmp_path, 2)

    found = load_latest(tmp_path)
    assert found is not None
    assert found.digest == latest.digest
    assert evaluation_path(tmp_path, latest.digest).is_file()
    assert len(list(tmp_path.glob("*.npz"))) == 3


def test_a_file_that_is_no_sound_model_stays_and_does_not_count(tmp_path: Path) -> None:
    damaged = tmp_path / keep_model(tmp_path, "1", 1, "2025-01-01T00:00:00+00:00").file_name
    damaged.write_bytes(damaged.read_bytes()[:-30])
    for number in (2, 3, 4):
        keep_model(tmp_path, "1", number, "2025-01-02T00:00:00+00:00")

    prune_models(tmp_path, 2)

    names = [f"1-round-000{number}.npz" for number in (1, 3, 4)]
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == names


def test_nothing_goes_while_latest_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in (1, 2, 3):
        keep_model(tmp_path, "1", number, "2025-01-01T00:00:00+00:00")
    (tmp_path / LATEST).write_text("?", encoding="utf-8")

    prune_models(tmp_path, 2)

    assert len(list(tmp_path.glob("*.npz"))) == 3
    assert "stay" in caplog.text


def test_a_directory_without_models_is_left_alone(tmp_path: Path) -> None:
    prune_models(tmp_path / "none", 2)

    assert not (tmp_path / "none").exists()


def test_the_best_model_and_those_that_a_run_still_needs_stay_however_old(tmp_path: Path) -> None:
    best, needed, old, new, newest = (
        keep_model(tmp_path, "1", day, f"2025-01-0{day}T00:00:00+00:00") for day in (1, 2, 3, 4, 5)
    )
    point_best(best, tmp_path)

    prune_models(tmp_path, 2, {needed.digest})

    kept = {path.name for path in tmp_path.glob("*.npz")}
    assert kept == {artifact.file_name for artifact in (best, needed, new, newest)}
    assert old.file_name not in kept
    found = load_best(tmp_path)
    assert found is not None
    assert found.digest == best.digest
