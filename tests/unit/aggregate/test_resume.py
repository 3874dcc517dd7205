"""A ServerApp dies at any moment, and another one goes on: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from icosfl.aggregate import run as runs
from icosfl.aggregate.checkpoint import CHECKPOINT_FILE, read_checkpoint
from icosfl.aggregate.names import write_names
from icosfl.aggregate.progress import (
    Event,
    Failed,
    Finished,
    ProgressLog,
    Ready,
    Resumed,
    RoundDone,
    Started,
    Stopped,
)
from icosfl.aggregate.record import hold, look, newest
from icosfl.errors import CheckpointError, RunFailed
from icosfl.train import files
from icosfl.train.artifact import load, load_latest
from icosfl.train.messages import Task
from icosfl.train.records import unpack
from icosfl.train.shape import Array
from support import made_up
from support.one_process import Controller, claim_skill, spoil_training

MakeController = Callable[[Path], Controller]


class Killed(BaseException):
    """What no code of ours catches: the process is gone."""


class Death:
    """Counts what a ServerApp writes, by name, and kills it before the write that it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, controller: Controller) -> None:
        self.writes: list[str] = []
        self.before: int | None = None
        self._directory = controller.directory / "controller"
        replace_file, append = files._replace, ProgressLog.append

        def dying_replace(path: Path, content: bytes) -> None:
            if path.is_relative_to(self._directory) and not path.name.endswith("-evaluation.json"):
                self._count(path.name)
            replace_file(path, content)

        def dying_append(log: ProgressLog, event: Event) -> None:
            self._count(event.event)
            append(log, event)

        monkeypatch.setattr(files, "_replace", dying_replace)
        monkeypatch.setattr(ProgressLog, "append", dying_append)
        for prune in ("prune_models", "prune_runs"):
            monkeypatch.setattr(runs, prune, lambda *_: None)  # a process that is killed tidies nothing up

    def _count(self, name: str) -> None:
        if self.before == len(self.writes):
            raise Killed
        self.writes.append(name)


WRITES = [
    "config.json",
    *("started", "checkpoint.npz", "ready"),
    *("1-round-0001.npz", "latest", "checkpoint.npz", "round"),
    *("1-round-0002.npz", "latest", "checkpoint.npz", "round"),
    *("1-round-0002.npz", "latest", "best"),  # what is handed out in the end
    *("result.json", "finished"),
]


def weights(controller: Controller, run: str, number: int) -> tuple[Array, ...]:
    return load(controller.directory / "controller" / "models" / f"{run}-round-{number:04d}.npz").arrays


def told(controller: Controller, kind: type[Any], run: str = "1") -> list[Any]:
    return [event for event in controller.events(run) if isinstance(event, kind)]


def grow_better(controller: Controller) -> None:
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: number / 10)


def test_a_run_writes_its_model_then_its_state_then_what_it_says(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow_better(controller)
    death = Death(monkeypatch, controller)

    controller.run("1")

    assert death.writes == WRITES


@pytest.mark.parametrize("before", range(1, len(WRITES)))
def test_a_run_that_is_killed_before_any_write_goes_on_and_comes_to_the_same(
    make_controller: MakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    whole, broken = make_controller(tmp_path / "whole"), make_controller(tmp_path / "broken")
    for controller in (whole, broken):
        grow_better(controller)
    whole.run("1", strategy="fedadam")
    death = Death(monkeypatch, broken)
    death.before = before
    with pytest.raises(Killed):
        broken.run("1", strategy="fedadam")
    death.before = None
    record = look(broken.directory / "controller" / "runs" / "1")
    assert record is not None
    assert (record.state, record.resumable) == ("interrupted", True)

    broken.run("2", strategy="fedadam", resume="1")

    for number in (1, 2):
        for expected, array in zip(weights(whole, "1", number), weights(broken, "1", number), strict=True):
            np.testing.assert_array_equal(array, expected)
    assert [event.round for event in told(broken, RoundDone)] == [1, 2]
    assert [len(told(broken, kind)) for kind in (Started, Resumed, Finished, Failed)] == [1, 1, 1, 0]
    done = [event.digest for event in told(broken, RoundDone)]
    latest = load_latest(broken.directory / "controller" / "models")
    assert latest is not None
    assert latest.digest == done[1] == told(broken, Finished)[0].digest == broken.result("1")["digest"]
    assert done[0] == load(broken.directory / "controller" / "models" / "1-round-0001.npz").digest
    assert not (broken.directory / "controller" / "runs" / "2").exists()


def killed_after_round_1(controller: Controller, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let run 1 of the controller die in round 2, when its nodes have been asked."""
    with monkeypatch.context() as patch:
        death = Death(patch, controller)
        death.before = WRITES.index("1-round-0002.npz")
        with pytest.raises(Killed):
            controller.run("1", **changes)


def test_a_run_that_goes_on_asks_the_same_nodes_for_the_same_rows(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow_better(controller)
    killed_after_round_1(controller, monkeypatch)
    asked = {
        message.metadata.dst_node_id: unpack(message.content, Task)
        for message in controller.grid.sent
        if message.metadata.message_type == "train"
    }
    controller.grid.sent.clear()
    for worker in controller.nodes.values():
        worker.rows = made_up.rows(len(worker.rows.times) + 100, seed=5)

    controller.run("2", resume="1")

    tasks = {
        message.metadata.dst_node_id: unpack(message.content, Task)
        for message in controller.grid.sent
        if message.metadata.message_type == "train"
    }
    assert tasks == asked  # round 2's, cutoffs and all
    assert not any(message.metadata.message_type == "query" for message in controller.grid.sent)
    assert len(told(controller, Ready)) == 1


def test_a_run_that_missed_a_node_goes_on_without_it(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    controller.nodes[12].change = lambda message, content: None if message.metadata.message_type == "train" else content
    killed_after_round_1(controller, monkeypatch, min_nodes=1, straggler_rounds=0)
    controller.nodes[12].change = lambda _, content: content

    controller.run("2", resume="1", min_nodes=1, straggler_rounds=0)

    first, second = told(controller, RoundDone)
    assert [str(absent) for absent in first.left_out] == ["worker-2: no reply within 0.2 s"]
    assert [str(absent) for absent in second.left_out] == [
        "worker-2: sits out the rest of the run, it missed 1 round in a row"
    ]


def test_a_run_that_was_about_to_stop_early_stops_where_it_would_have(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"num_server_rounds": 6, "patience": 2}
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: [0, 0.5, 0.4, 0.3, 0.2, 0.1, 0][number])
    death = Death(monkeypatch, controller)
    death.before = WRITES.index("ready") + 1 + 3 * 4  # in round 4, which finds out
    with pytest.raises(Killed):
        controller.run("1", **changes)
    assert death.writes[-1] == "round"
    death.before = None

    artifact = controller.run("2", resume="1", **changes)

    (stopped,) = told(controller, Stopped)
    assert (stopped.round, stopped.of) == (4, 6)
    assert stopped.reason == "no model was better than that of round 1, 2 measured rounds in a row"
    assert [event.round for event in told(controller, RoundDone)] == [1, 2, 3, 4]
    (finished,) = told(controller, Finished)
    assert (finished.round, finished.rounds, artifact.round) == (1, 4, 1)


@pytest.mark.parametrize("lost", ["round", "stopped"])
def test_what_a_run_could_not_say_before_it_died_is_said_when_it_goes_on(
    controller: Controller, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    changes = {"num_server_rounds": 4, "patience": 1}
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: 0.5 - number / 10)
    with monkeypatch.context() as patch:
        append = ProgressLog.append

        def die(log: ProgressLog, event: Event) -> None:
            if event.event == lost and getattr(event, "round", 0) == 3:
                raise Killed
            append(log, event)

        patch.setattr(ProgressLog, "append", die)
        with pytest.raises(Killed):
            controller.run("1", **changes)

    controller.run("2", resume="1", **changes)

    assert [event.round for event in told(controller, RoundDone)] == [1, 2, 3]
    assert [event.round for event in told(controller, Stopped)] == [3]


def test_a_failed_run_goes_on_when_what_failed_it_is_gone(controller: Controller) -> None:
    rounds = spoil_training(lambda update: update.arrays[0].fill(np.nan))
    controller.nodes[12].change = lambda message, content: (
        rounds(message, content) if message.metadata.group_id == "2" else content
    )
    with pytest.raises(RunFailed, match="round 2: 1 valid updates, at least 2 are needed: worker-2"):
        controller.run("1")
    record = look(controller.directory / "controller" / "runs" / "1")
    assert record is not None
    assert (record.state, record.round, record.resumable) == ("failed", 1, True)
    controller.nodes[12].change = lambda _, content: content

    controller.run("2", resume="1")

    assert [event.event for event in controller.events("1")][-4:] == ["failed", "resumed", "round", "finished"]


def test_models_that_a_failed_run_needs_to_go_on_are_not_deleted(controller: Controller) -> None:
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: 0.5 - number / 10)
    fail = controller.nodes[12].change

    def die(message: Message, content: RecordDict) -> Any:
        return None if message.metadata.group_id == "5" else fail(message, content)

    controller.nodes[12].change = die
    changes = {"num_server_rounds": 5, "keep_models": 2}
    with pytest.raises(RunFailed, match="round 5"):
        controller.run("1", **changes)
    controller.nodes[12].change = fail

    artifact = controller.run("2", resume="1", **changes)

    assert (artifact.run, artifact.round) == ("1", 1)


def test_a_host_that_has_another_number_by_now_is_asked_under_that(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow_better(controller)
    killed_after_round_1(controller, monkeypatch)
    for nodes in (controller.nodes, controller.grid.nodes):
        nodes[77] = nodes.pop(12)
    write_names(controller.directory / "controller" / "runs", {11: "worker-1", 13: "worker-3", 77: "worker-2"})

    controller.run("2", resume="1")

    assert told(controller, RoundDone)[1].nodes == ("worker-1", "worker-2")
    assert told(controller, Finished)[0].nodes == ("worker-1", "worker-2", "worker-3")


def test_two_server_apps_are_never_at_one_run(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after_round_1(controller, monkeypatch)
    directory = controller.directory / "controller" / "runs" / "1"
    before = controller.events("1")

    with hold(directory), pytest.raises(RunFailed, match="run 1: another ServerApp is at it"):
        controller.run("2", resume="1")

    assert controller.events("1") == before


def test_a_run_cannot_go_on_with_other_settings(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after_round_1(controller, monkeypatch)

    with pytest.raises(RunFailed, match="run 1 cannot go on with other settings: hidden-size was 4, and is 8"):
        controller.run("2", resume="1", hidden_size=8)

    assert isinstance(controller.events("1")[-1], Failed)


def test_a_run_that_is_over_or_was_never_begun_cannot_go_on(controller: Controller) -> None:
    controller.run("1", num_server_rounds=1)
    before = controller.events("1")

    with pytest.raises(RunFailed, match="run 1 cannot go on: it is finished"):
        controller.run("2", num_server_rounds=1, resume="1")
    with pytest.raises(RunFailed, match="run 9 cannot go on: there is no record"):
        controller.run("3", num_server_rounds=1, resume="9")

    assert controller.events("1") == before
    assert controller.events("9") == []


def test_a_state_that_is_damaged_is_named(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_after_round_1(controller, monkeypatch)
    path = controller.directory / "controller" / "runs" / "1" / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(CheckpointError, match=r"runs/1/checkpoint\.npz: no sound state of a run"):
        controller.run("2", resume="1")


def test_a_model_that_is_not_the_one_of_the_state_is_not_gone_on_from(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_round_1(controller, monkeypatch)
    models = controller.directory / "controller" / "models"
    files.write_atomically(models / "1-round-0001.npz", files_of_another(load(models / "1-round-0001.npz")))

    with pytest.raises(CheckpointError, match=r"1-round-0001\.npz: is not the model that checkpoint\.npz names"):
        controller.run("2", resume="1")


def files_of_another(artifact: Any) -> bytes:
    from icosfl.train.artifact import to_bytes

    return to_bytes(replace(artifact, created="2026-01-01T00:00:00+00:00"))


def test_a_line_that_was_half_written_when_the_machine_died_harms_nothing(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_after_round_1(controller, monkeypatch)
    with (controller.directory / "controller" / "runs" / "1" / "progress.jsonl").open("ab") as progress:
        progress.write(b'{"event":"rou')

    controller.run("2", resume="1")

    assert [event.round for event in told(controller, RoundDone)] == [1, 2]


def test_all_of_a_runs_state_comes_back_from_its_file(controller: Controller) -> None:
    grow_better(controller)
    controller.run("1", strategy="fedadam", num_server_rounds=3)

    found = read_checkpoint(controller.directory / "controller" / "runs" / "1")

    assert found is not None
    state, combiner = found
    assert (state.run, state.round, state.file) == ("1", 3, "1-round-0003.npz")
    assert [member.host for member in state.roster.members] == ["worker-1", "worker-2"]
    assert all(member.cutoff_ns < member.until_ns for member in state.roster.members)
    assert state.choice.best is not None
    assert (state.choice.best.round, sorted(state.choice.best.levels)) == (2, ["worker-1", "worker-2"])
    assert state.done == told(controller, RoundDone)[-1]
    assert len(combiner) == 3
    assert any(np.abs(moment).max() > 0 for name, moment in combiner.items() if moment.ndim)


def test_the_newest_run_is_found_and_a_check_is_none(controller: Controller) -> None:
    runs_dir = controller.directory / "controller" / "runs"
    assert newest(runs_dir) is None
    controller.run("1", num_server_rounds=1)
    directory = runs_dir / "2"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"purpose": "check"}), encoding="utf-8")

    found = newest(runs_dir)

    assert found is not None
    assert (found.run, found.state, found.round, found.rounds) == ("1", "finished", 1, 1)


def test_privacy_that_was_spent_before_a_kill_stays_spent(
    make_controller: MakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = {"noise_multiplier": 0.001, "clipping_norm": 0.1}
    whole, broken = make_controller(tmp_path / "whole"), make_controller(tmp_path / "broken")
    whole.run("1", **private)
    killed_after_round_1(broken, monkeypatch, **private)

    broken.run("2", resume="1", **private)

    spent = [[event.epsilon for event in told(controller, RoundDone)] for controller in (whole, broken)]
    assert spent[0] == spent[1]
    assert 0 < spent[1][0] < spent[1][1] == told(broken, Finished)[0].epsilon == broken.result("1")["epsilon"]


def test_latest_names_the_last_completed_round_also_when_a_later_model_was_saved(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        death = Death(patch, controller)
        death.before = WRITES.index("1-round-0002.npz") + 2  # its checkpoint
        with pytest.raises(Killed):
            controller.run("1")
    controller.nodes[12].change = lambda message, content: None if message.metadata.message_type == "train" else content

    with pytest.raises(RunFailed, match="round 2"):
        controller.run("2", resume="1")

    latest = controller.latest("controller")
    assert latest is not None
    assert (latest.round, latest.digest) == (1, told(controller, RoundDone)[0].digest)


def test_a_run_that_cannot_go_on_yet_keeps_all_models_that_it_may_need(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    death = Death(monkeypatch, controller)
    death.before = 4 + 4 * 4  # in the hand-out
    with pytest.raises(Killed):
        controller.run("1", num_server_rounds=4, keep_models=2)
    monkeypatch.undo()
    models = controller.directory / "controller" / "models"
    kept = set(models.glob("*.npz"))
    state = controller.directory / "controller" / "runs" / "1" / CHECKPOINT_FILE
    state.write_bytes(state.read_bytes()[:100])

    with pytest.raises(CheckpointError):
        controller.run("2", num_server_rounds=4, keep_models=2, resume="1")

    assert len(kept) == 4
    assert set(models.glob("*.npz")) == kept
