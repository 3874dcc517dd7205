from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.aggregate.guards import Contribution, Expected, bound, counted, fault
from icosfl.aggregate.settings import CLIP, REJECT, CombineSettings, RunSettings
from icosfl.config import run_config
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


def test_a_node_that_claims_many_examples_counts_as_the_factor_times_the_median_and_is_named() -> None:
    arrays, has = update().arrays, np.array([True, True])
    said = {"a": 100, "b": 120, "c": 80, "d": 90, "liar": 2**60}
    nodes = [Contribution(host, arrays, examples, has) for host, examples in said.items()]

    kept, notes = counted(nodes, CLIPPING)

    assert [one.examples for one in kept] == [100, 120, 80, 90, 300]
    assert [(note.host, "counts as 300 windows" in note.reason) for note in notes] == [("liar", True)]
    assert counted(nodes, NO_LIMIT) == (nodes, [])


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


NO_LIMIT = replace(RunSettings.from_run_config(run_config(Path(__file__).parents[3])).combine, norm_factor=0.0)
CLIPPING, REJECTING = (replace(NO_LIMIT, norm_factor=3.0, norm_action=action) for action in (CLIP, REJECT))


def moved(host: str, distance: float) -> Contribution:
    """An update of the model that is so far from it, in one number."""
    arrays = [array.copy() for array in update().arrays]
    arrays[2][0, 0] += distance
    return Contribution(host, arrays, 10, np.ones(2, bool))


def near_and_far() -> list[Contribution]:
    return [moved("worker-1", 1.0), moved("worker-2", 2.0), moved("worker-3", -80.0)]


def test_an_update_that_is_too_far_is_brought_nearer_in_its_direction() -> None:
    kept, notes = bound(update().arrays, near_and_far(), CLIPPING)

    assert [float(one.arrays[2][0, 0]) for one in kept] == [1.0, 2.0, -6.0]
    assert [str(note) for note in notes] == ["worker-3: clipped: 80 from the round's model, 3 times the median are 6"]


def test_an_update_that_is_too_far_can_be_rejected_instead() -> None:
    kept, notes = bound(update().arrays, near_and_far(), REJECTING)

    assert [one.host for one in kept] == ["worker-1", "worker-2"]
    assert [note.host for note in notes] == ["worker-3"]


def test_a_linear_part_that_was_brought_nearer_still_sums_to_1() -> None:
    arrays = [array.copy() for array in update().arrays]
    arrays[0][:, 0] += 50
    arrays[0][:, 1] -= 50

    kept, _ = bound(update().arrays, [*near_and_far()[:2], Contribution("w", arrays, 10, np.ones(2, bool))], CLIPPING)

    assert fault(replace(update(), arrays=kept[2].arrays), EXPECTED) is None


@pytest.mark.parametrize("settings", [NO_LIMIT, CLIPPING])
def test_updates_without_a_limit_or_within_it_stay_as_they_are(settings: CombineSettings) -> None:
    updates = near_and_far() if settings is NO_LIMIT else near_and_far()[:2]

    kept, notes = bound(update().arrays, updates, settings)

    assert all(one is other for one, other in zip(kept, updates, strict=True))
    assert notes == []


def test_where_most_did_not_move_at_all_nobody_is_too_far() -> None:
    updates = [moved("worker-1", 0.0), moved("worker-2", 0.0), moved("worker-3", 5.0)]

    assert bound(update().arrays, updates, REJECTING) == (updates, [])


def test_no_update_is_bounded_by_none() -> None:
    assert bound(update().arrays, [], CLIPPING) == ([], [])


@given(st.lists(st.floats(0, 500), min_size=1, max_size=9), st.floats(0.01, 20), st.sampled_from([CLIP, REJECT]))
def test_no_update_is_left_beyond_the_limit_and_those_within_are_untouched(
    distances: list[float], factor: float, action: str
) -> None:
    updates = [moved(f"worker-{number}", distance) for number, distance in enumerate(distances)]
    limit = factor * float(np.median([float(one.arrays[2][0, 0]) for one in updates]))

    kept, notes = bound(update().arrays, updates, replace(NO_LIMIT, norm_factor=factor, norm_action=action))

    if limit > 0:
        assert all(float(one.arrays[2][0, 0]) <= limit * (1 + 1e-6) for one in kept)
    assert len(kept) + (len(notes) if action == REJECT else 0) == len(updates)
    told = {note.host for note in notes}
    assert all(one in updates for one in kept if one.host not in told)
