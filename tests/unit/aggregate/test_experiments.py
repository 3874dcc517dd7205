from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icosfl.aggregate import experiments
from icosfl.aggregate.experiments import Recorder, check_records, flat, last_points, open_recorder, points
from icosfl.aggregate.progress import Absent, Failed, Finished, RoundDone
from icosfl.aggregate.settings import RunSettings
from icosfl.errors import ConfigError
from support.made_up import RUN_CONFIG
from support.one_process import Controller
from support.recorded import READERS, mlflow_run

# tensorboard and mlflow use what their own dependencies deprecate
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning")

RUN = "1234567890"
TIME = "2026-11-22T10:00:0{}+00:00"
FAILED = Failed(TIME.format(9), "no more nodes", "start them")


def round_done(number: int, **changes: Any) -> RoundDone:
    errors = {"global": {"mae": 1.0, "rmse": 2.0 / number, "smape": 3.0, "mase": None}}
    score = {"series": "cpu_usage", "horizon_seconds": 60.0, "errors": errors, "coverage": None}
    event = RoundDone(
        time=TIME.format(number),
        round=number,
        of=3,
        nodes=("alpha", "../beta"),
        left_out=(Absent("gamma", "no reply"),),
        loss=1.0 / number,
        examples=100,
        seconds=2.0,
        digest="d" * 64,
        evaluation={"scores": {"scores": [score]}},
        skills={"alpha": 0.1 * number, "../beta": 0.3},
        skill=0.2 * number,
        seconds_by_node={"alpha": 1.5},
        learning_rate=0.01,
    )
    return replace(event, **changes)


def finished(rounds: int = 3, **changes: Any) -> Finished:
    event = Finished(TIME.format(8), rounds, ("alpha",), (), "d" * 64, 9.0, round=rounds, skill=0.8)
    return replace(event, **changes)


def settings(records: str) -> RunSettings:
    return RunSettings.from_run_config(RUN_CONFIG | {"experiment-records": records})


@pytest.mark.parametrize("records", READERS)
def test_the_store_s_own_reader_finds_what_the_rounds_said(tmp_path: Path, records: str) -> None:
    recorder = open_recorder(settings(records), RUN, tmp_path / RUN)
    for number in (1, 2, 3):
        recorder.round(round_done(number))
    recorder.finish(finished())
    assert recorder.trouble == ""
    found = READERS[records](tmp_path, RUN)
    assert found["loss"] == [(1, 1.0), (2, 0.5), (3, 0.333333)]
    assert found["skill"] == [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8)]  # each of the model after that round
    assert found["skill_by_node/alpha"] == [(0, 0.1), (1, 0.2), (2, 0.3)]
    assert found["skill_by_node/___beta"] == [(0, 0.3), (1, 0.3), (2, 0.3)]
    assert found["seconds_by_node/alpha"] == [(1, 1.5), (2, 1.5), (3, 1.5)]
    assert found["left_out"] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert found["controller/cpu_usage_60s/global_rmse"] == [(1, 2.0), (2, 1.0), (3, 0.666667)]
    assert found["handed_out/round"] == [(3, 3.0)]
    assert "epsilon" not in found


@pytest.mark.parametrize("records", READERS)
def test_a_resumed_run_is_one_run_whose_rounds_are_there_once(tmp_path: Path, records: str) -> None:
    died = open_recorder(settings(records), RUN, tmp_path / RUN)
    died.round(round_done(1))
    died.finish(None)
    resumed = open_recorder(settings(records), RUN, tmp_path / RUN, [round_done(1), round_done(2)])
    resumed.round(round_done(3))
    resumed.finish(finished())
    assert (died.trouble, resumed.trouble) == ("", "")
    found = READERS[records](tmp_path, RUN)
    assert found["loss"] == [(1, 1.0), (2, 0.5), (3, 0.333333)]
    assert found["skill"] == [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8)]


@pytest.mark.parametrize("records", READERS)
def test_a_whole_run_is_recorded_round_by_round(controller: Controller, records: str) -> None:
    controller.run(RUN, num_server_rounds=2, experiment_records=records)

    found = READERS[records](controller.directory / "controller" / "runs", RUN)
    rounds = [event for event in controller.events(RUN) if isinstance(event, RoundDone)]
    assert found["loss"] == [(event.round, round(event.loss, 6)) for event in rounds]
    assert [step for step, _ in found["skill_by_node/worker-1"]] == [0, 1]
    assert controller.result(RUN)["troubles"]["records"] == ""


def test_mlflow_keeps_the_settings_and_how_the_run_ended(tmp_path: Path) -> None:
    recorder = open_recorder(settings("mlflow"), RUN, tmp_path / RUN)
    recorder.round(round_done(1))
    recorder.finish(FAILED)
    _, run = mlflow_run(tmp_path, RUN)
    assert (run.info.status, run.info.run_name) == ("FAILED", RUN)
    assert run.data.params["policy.quorum"] == "0.5"
    assert run.data.params["train.hidden_size"] == "4"


def test_without_records_nothing_is_written(tmp_path: Path) -> None:
    recorder = open_recorder(settings("none"), RUN, tmp_path / RUN)
    recorder.round(round_done(1))
    recorder.finish(finished())
    assert recorder.trouble == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("records", ["mlflow", "wandb", "tensorboard"])
def test_a_release_without_the_package_says_which_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: str
) -> None:
    monkeypatch.setitem(sys.modules, experiments._PACKAGES[records], None)
    with pytest.raises(ConfigError, match=f"experiment-records: '{records}' needs the package") as caught:
        open_recorder(settings(records), RUN, tmp_path / RUN)
    assert f"icosfl_release_extras: [{records}]" in caught.value.cure
    check_records("none")


class Broken:
    """A store whose disk is full."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def write(self, points: Sequence[Any]) -> None:
        self.calls.append("write")
        raise OSError("no space left")

    def close(self, good: bool) -> None:
        self.calls.append("close")
        raise RuntimeError("not open")


def test_a_store_that_fails_is_told_of_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    store = Broken()
    recorder = Recorder(lambda: store, [])
    recorder.round(round_done(1))
    recorder.round(round_done(2))
    recorder.finish(FAILED)
    recorder.finish(FAILED)
    assert recorder.trouble == "OSError: no space left"
    assert store.calls == ["write", "close"]
    assert "the rounds are no longer recorded: OSError: no space left" in caplog.text


def test_a_store_that_cannot_be_opened_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "experiments").write_text("in the way", encoding="utf-8")
    recorder = open_recorder(settings("mlflow"), RUN, tmp_path / RUN)
    recorder.round(round_done(1))
    recorder.finish(finished())
    assert recorder.trouble.startswith("FileExistsError")


def test_what_is_not_there_is_no_value() -> None:
    event = round_done(2, skill=None, skills={}, learning_rate=None, evaluation={"skipped": "x"})
    (at_round,) = points(event)
    assert at_round.step == 2
    assert set(at_round.values) == {"loss", "examples", "seconds", "nodes", "left_out", "seconds_by_node/alpha"}


def test_the_last_model_s_skill_is_not_taken_for_that_of_another_that_is_handed_out() -> None:
    (kept,) = last_points(finished(round=1, skill=0.9))
    assert kept.values == {"handed_out/round": 1.0, "handed_out/skill": 0.9}
    assert kept.step == 3


def test_settings_become_plain_values_by_path() -> None:
    assert flat({"a": {"b": 1, "c": {"d": None}}, "e": (1, 2)}) == {"a.b": 1, "a.c.d": "None", "e": "(1, 2)"}
