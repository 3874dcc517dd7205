from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from icosfl.aggregate.guards import Expected, fault
from icosfl.train.messages import Trained, Update
from icosfl.train.shape import ModelShape

SHAPE = ModelShape("lstm", series=2, horizons=1, window=5, hidden=3, layers=1)
EXPECTED = Expected("worker-1", "run/1", SHAPE, most_examples=12)


def update() -> Update:
    arrays = [np.zeros(dimensions, np.float32) for _, dimensions in SHAPE.arrays()]
    arrays[0][:, -1] = 1  # a linear part that forecasts the last value
    return Update(Trained("worker-1", "run/1", 0.5, 1.0, ()), list(arrays), 10)


def test_a_sound_update_has_no_fault() -> None:
    assert fault(update(), EXPECTED) is None


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_update_with_a_number_that_is_not_finite_is_refused(number: float) -> None:
    bad = update()
    bad.arrays[0][0, 0] = number

    assert "not finite" in str(fault(bad, EXPECTED))


def test_an_update_of_another_shape_is_refused() -> None:
    bad = update()
    bad.arrays[1] = bad.arrays[1][:, :-1]

    assert "must be of shape" in str(fault(bad, EXPECTED))


def test_an_update_that_lacks_an_array_is_refused() -> None:
    bad = update()
    bad.arrays.pop()

    assert "arrays, not" in str(fault(bad, EXPECTED))


def test_an_update_of_whole_numbers_is_refused() -> None:
    bad = update()
    bad.arrays[0] = np.zeros(bad.arrays[0].shape, np.int64)

    assert "floating type" in str(fault(bad, EXPECTED))


@pytest.mark.parametrize("examples", [0, -5, 13, 2**62])
def test_an_update_of_other_than_the_examples_that_there_can_be_is_refused(examples: int) -> None:
    assert f"trained on {examples} examples" in str(fault(replace(update(), examples=examples), EXPECTED))


def test_an_update_with_a_weight_that_no_training_gives_is_refused() -> None:
    bad = update()
    bad.arrays[1][0, 0] = -1e6

    assert fault(bad, EXPECTED) == "network.weight_ih_l0 holds 1e+06, no weight is larger than 1000"


def test_an_update_whose_linear_part_does_not_keep_the_level_is_refused() -> None:
    bad = update()
    bad.arrays[0][1] *= 2

    assert fault(bad, EXPECTED) == "its linear part's weights do not sum to 1, they are 1 off"


def test_an_update_from_another_version_of_the_model_is_refused() -> None:
    assert fault(update(), replace(EXPECTED, version="run/2")) == "trained version run/1 instead of run/2"


def test_an_update_in_the_name_of_another_host_is_refused() -> None:
    assert fault(update(), replace(EXPECTED, host="worker-2")) == "the reply comes from worker-1"
