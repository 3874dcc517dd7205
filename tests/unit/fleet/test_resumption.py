from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icosfl.aggregate.record import RunRecord
from icosfl.errors import ConfigError, UserError
from icosfl.fleet.resumption import Choice, choose, demand, differences, resumed

CONFIG = {"num-server-rounds": 5, "warm-start": True, "resume": ""}


def run(state: Any = "interrupted", **config: object) -> RunRecord:
    return RunRecord("7", Path("/runs/7"), state, 2, 5, {**CONFIG, **config} if config or state else {}, "", "now")


def test_an_interrupted_run_with_the_wanted_configuration_is_gone_on_with() -> None:
    assert choose(run(), {**CONFIG, "resume": "3"}, stopped=False) == Choice(run())


@pytest.mark.parametrize("state", ["alive", "failed", "finished"])
def test_any_other_run_is_left_without_a_word(state: str) -> None:
    assert choose(run(state), CONFIG, stopped=False) == Choice()


def test_without_any_run_a_new_one_begins() -> None:
    assert choose(None, CONFIG, stopped=False) == Choice()


def test_another_configuration_begins_a_new_run_and_is_told() -> None:
    choice = choose(run(), {**CONFIG, "num-server-rounds": 3, "warm-start": False, "patience": 2}, stopped=False)

    assert choice.record is None
    assert choice.note == (
        "run 7 was interrupted after round 2 of 5, but had num-server-rounds=5 instead of 3, "
        "patience=nothing instead of 2, warm-start=true instead of false: "
        "a new run begins (to go on with it: icosfl train --resume)"
    )


def test_only_the_first_differences_are_told() -> None:
    choice = choose(run(), {**CONFIG, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5}, stopped=False)

    assert "a=nothing instead of 1, b=nothing instead of 2, c=nothing instead of 3 and 2 more:" in choice.note


def test_a_run_that_somebody_stopped_is_not_taken_up_by_itself() -> None:
    choice = choose(run(), CONFIG, stopped=True)

    assert choice.record is None
    assert "by `flwr stop`: a new run begins" in choice.note


def test_a_run_without_a_configuration_cannot_be_gone_on_with() -> None:
    bare = RunRecord("7", Path("/runs/7"), "interrupted", 0, 5, {}, "", "now")

    assert "has left no configuration" in choose(bare, CONFIG, stopped=False).note
    with pytest.raises(UserError, match="run 7 has left no configuration"):
        demand(bare)


@pytest.mark.parametrize("state", ["interrupted", "failed"])
def test_a_run_that_was_asked_for_may_have_failed(state: str) -> None:
    assert demand(run(state)) == run(state)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "there is no run to go on with"),
        (run("finished"), "there is no run to go on with: the newest, run 7, is finished"),
        (run("alive"), "run 7 goes on already"),
    ],
)
def test_a_run_that_cannot_be_gone_on_with_is_an_error_with_its_reason(record: RunRecord | None, words: str) -> None:
    with pytest.raises(UserError) as caught:
        demand(record)

    assert caught.value.message == words
    assert caught.value.cure


def test_numbers_are_the_same_however_they_are_written() -> None:
    assert differences({"quorum": 1.0}, {"quorum": 1}) == []


def test_a_resumed_run_keeps_its_configuration_whatever_the_app_says_now() -> None:
    app = {"num-server-rounds": 3, "warm-start": False, "resume": ""}

    assert resumed(run(), app) == {"num-server-rounds": 5, "warm-start": True, "resume": "7"}


def test_a_value_that_this_release_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match="run 7 has warm-start=True"):
        resumed(run(), {"num-server-rounds": 3, "resume": ""})


def test_a_value_that_the_run_lacks_is_named() -> None:
    with pytest.raises(ConfigError, match="run 7 began without patience, quorum, which this release wants"):
        resumed(run(), {**CONFIG, "patience": 0, "quorum": 0.5})
