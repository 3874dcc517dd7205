from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from icosfl.errors import CheckpointError
from icosfl.process import Scaler, Windows
from icosfl.schema import Schema, Series
from icosfl.train.baselines import Baselines
from icosfl.train.evaluation import Evaluation, load_evaluation, save_evaluation
from icosfl.train.model import ModelShape, build
from icosfl.train.scores import evaluate

DIGEST = "ab" * 32


@pytest.fixture
def evaluation(
    wave: np.ndarray, windows_of: Callable[..., Windows], scaler_of: Callable[[Windows], Scaler]
) -> Evaluation:
    train, validation = windows_of(wave[:200]), windows_of(wave[200:])
    schema = Schema((Series("cpu_usage", "%"),))
    scores = evaluate(build(ModelShape(1, 2, 4, 1), 1), scaler_of(train), schema, train, validation)
    return Evaluation(DIGEST, "2025-01-01T00:00:00+00:00", 7, scores, Baselines.fit(train))


def test_a_saved_evaluation_loads_as_it_was(tmp_path: Path, evaluation: Evaluation, wave: np.ndarray) -> None:
    save_evaluation(evaluation, tmp_path / "models")

    again = load_evaluation(tmp_path / "models", DIGEST)

    assert again is not None
    assert (again.digest, again.measured, again.cutoff_ns) == (DIGEST, evaluation.measured, 7)
    assert again.scores == evaluation.scores
    inputs = wave[None, :12, None]
    for name, forecasts in evaluation.baselines.predict(inputs).items():
        np.testing.assert_array_equal(again.baselines.predict(inputs)[name], forecasts)


def test_there_is_none_of_a_model_that_was_not_measured(tmp_path: Path, evaluation: Evaluation) -> None:
    save_evaluation(evaluation, tmp_path)

    assert load_evaluation(tmp_path, "cd" * 32) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"digest": "x", "measured": "y", "cutoff_ns": 1, "scores": 3}'])
def test_a_damaged_evaluation_is_reported(tmp_path: Path, evaluation: Evaluation, content: str) -> None:
    save_evaluation(evaluation, tmp_path).write_text(content)

    with pytest.raises(CheckpointError, match="no sound evaluation"):
        load_evaluation(tmp_path, DIGEST)


def test_an_evaluation_of_another_model_is_not_taken(tmp_path: Path, evaluation: Evaluation) -> None:
    path = save_evaluation(evaluation, tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"digest": DIGEST[:16] + "0" * 48}))

    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_evaluation(tmp_path, DIGEST)
