from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from icosfl.errors import CheckpointError, SchemaMismatch
from icosfl.process import Windows
from icosfl.schema import Schema, Series
from icosfl.train.baselines import Baselines
from icosfl.train.evaluation import Evaluation, load_evaluation, save_evaluation
from icosfl.train.linear import Linear, fit_blend
from icosfl.train.model import ModelShape, build
from icosfl.train.scores import evaluate

DIGEST = "ab" * 32


@pytest.fixture
def evaluation(wave: np.ndarray, windows_of: Callable[..., Windows]) -> Evaluation:
    """Of a model of two series, one of which the node lacks."""
    train, held_out = (windows_of(part, np.full(len(part), np.nan)) for part in (wave[:200], wave[200:]))
    schema = Schema((Series("cpu_usage", "%"), Series("power", "W")))
    linear = fit_blend(train)
    scores = evaluate(
        build(ModelShape("lstm", 2, 2, 12, 4, 1), 1), linear, Baselines.fit(train), schema, train, held_out
    )
    return Evaluation(DIGEST, "2025-01-01T00:00:00+00:00", 7, scores, Baselines.fit(train), linear)


def test_a_saved_evaluation_loads_as_it_was(tmp_path: Path, evaluation: Evaluation, wave: np.ndarray) -> None:
    save_evaluation(evaluation, tmp_path / "models")

    again = load_evaluation(tmp_path / "models", DIGEST)

    assert again is not None
    assert (again.digest, again.measured, again.cutoff_ns) == (DIGEST, evaluation.measured, 7)
    assert again.scores == evaluation.scores
    inputs, seasonal = np.stack([wave[:12], np.full(12, np.nan)], axis=1)[None], np.ones((1, 2, 2))
    np.testing.assert_array_equal(again.linear.predict(inputs), evaluation.linear.predict(inputs))
    np.testing.assert_array_equal(again.linear.noise, evaluation.linear.noise)
    for name, forecasts in evaluation.baselines.predict(inputs, seasonal).items():
        np.testing.assert_array_equal(again.baselines.predict(inputs, seasonal)[name], forecasts)


def test_there_is_none_of_a_model_that_was_not_measured(tmp_path: Path, evaluation: Evaluation) -> None:
    save_evaluation(evaluation, tmp_path)

    assert load_evaluation(tmp_path, "cd" * 32) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digest": "x", "measured": "y", "cutoff_ns": 1, "scores": 3}'])
def test_a_damaged_evaluation_is_reported(tmp_path: Path, evaluation: Evaluation, content: str) -> None:
    save_evaluation(evaluation, tmp_path).write_text(content)

    with pytest.raises(CheckpointError, match="no sound evaluation"):
        load_evaluation(tmp_path, DIGEST)


@pytest.mark.parametrize("part", ["scores", "baselines", "linear"])
def test_an_evaluation_that_lacks_a_part_is_reported(tmp_path: Path, evaluation: Evaluation, part: str) -> None:
    path = save_evaluation(evaluation, tmp_path)
    data = json.loads(path.read_text())
    del data[part]
    path.write_text(json.dumps(data))

    with pytest.raises(CheckpointError, match="no sound evaluation"):
        load_evaluation(tmp_path, DIGEST)


def test_a_linear_part_of_another_shape_than_the_baselines_is_refused(tmp_path: Path, evaluation: Evaluation) -> None:
    path = save_evaluation(evaluation, tmp_path)
    other = Linear(np.zeros((2, 9, 2)), np.zeros((2, 2)), np.zeros((2, 2)))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"linear": other.to_dict()}))

    with pytest.raises(CheckpointError, match="do not fit each other"):
        load_evaluation(tmp_path, DIGEST)
    with pytest.raises(SchemaMismatch, match="do not fit each other"):
        Evaluation(DIGEST, evaluation.measured, 7, evaluation.scores, evaluation.baselines, other)


def test_an_evaluation_of_another_model_is_not_taken(tmp_path: Path, evaluation: Evaluation) -> None:
    path = save_evaluation(evaluation, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": DIGEST[:16] + "0" * 48}))

    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_evaluation(tmp_path, DIGEST)
