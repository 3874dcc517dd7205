"""Whole runs in one process: the ServerApp's side as it is, the nodes' side as functions behind a fake grid."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from icosfl.aggregate import run as runs
from icosfl.aggregate.names import write_names
from icosfl.aggregate.progress import Absent, Failed, Finished, Ready, RoundDone, Started
from icosfl.aggregate.report import report
from icosfl.errors import ConfigError, IcosflError, RunFailed, StoreUnavailable
from icosfl.store.memory import MemoryStore
from icosfl.train import node
from icosfl.train.linear import fit_common
from icosfl.train.local import cut, cutoff_of
from icosfl.train.messages import Level, Standing, Task, Update
from icosfl.train.records import pack, pack_update, unpack
from icosfl.train.settings import TrainSettings
from icosfl.train.share import Share
from support import made_up
from support.fake_grid import FakeGrid
from support.one_process import Controller, Worker, claim_skill, spoil_training, update_in


def test_a_run_tells_each_step_and_every_node_has_the_model(controller: Controller) -> None:
    artifact = controller.run("1")

    started, ready, first, second, finished = controller.events("1")
    assert isinstance(started, Started)
    assert isinstance(ready, Ready)
    assert [candidate.host for candidate in ready.nodes] == ["worker-1", "worker-2"]
    assert [absent.host for absent in ready.left_out] == ["worker-3"]
    assert isinstance(first, RoundDone)
    assert isinstance(second, RoundDone)
    assert (first.round, second.round, second.nodes) == (1, 2, ("worker-1", "worker-2"))
    assert "scores" in second.evaluation
    assert isinstance(finished, Finished)
    assert finished.nodes == ("worker-1", "worker-2", "worker-3")
    hosts = ["controller", "worker-1", "worker-2", "worker-3"]
    latest = [controller.latest(host) for host in hosts]
    assert {model.digest for model in latest if model} == {artifact.digest}
    assert artifact.nodes == ("worker-1", "worker-2")
    assert artifact.round == finished.round
    result = controller.result("1")
    assert result["digest"] == artifact.digest
    assert [entry["scores"] is not None for entry in result["nodes"]] == [True, True, False]
    assert {(each["series"], each["horizon_steps"]) for each in result["summary"]} >= {
        ("cpu_usage", 1),
        ("cpu_usage", 5),
    }


def test_a_node_that_calls_itself_another_host_is_left_out_and_takes_nobody_s_place(controller: Controller) -> None:
    impostor = replace(controller.nodes[11], host="worker-2", rows=made_up.rows(200, seed=7))
    controller.nodes[14] = controller.grid.nodes[14] = impostor
    write_names(controller.directory / "controller" / "runs", {12: "worker-2", 14: "worker-4"})

    controller.run("1")

    ready = next(event for event in controller.events("1") if isinstance(event, Ready))
    assert [candidate.host for candidate in ready.nodes] == ["worker-1", "worker-2"]
    assert Absent("worker-4", "says that it is worker-2") in ready.left_out
    missing = {(each["host"], each["reason"]) for each in controller.result("1")["missing"]}
    assert ("worker-4", "says that it is worker-2") in missing


def test_the_average_weighs_nodes_by_their_examples(controller: Controller) -> None:
    sent: dict[str, Update] = {}

    def note(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type == "train":
            update = update_in(content)
            sent[update.trained.host] = update
        return content

    for worker in controller.nodes.values():
        worker.change = note

    artifact = controller.run("1", num_server_rounds=1)

    first, second = sent["worker-1"], sent["worker-2"]
    assert first.examples > second.examples
    total = first.examples + second.examples
    for average, left, right in zip(artifact.arrays, first.arrays, second.arrays, strict=True):
        expected = (left * first.examples + right * second.examples) / total
        np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-7)


def test_each_round_tells_the_nodes_its_number(controller: Controller) -> None:
    controller.run("1")

    tasks = [m for m in controller.grid.sent if m.metadata.message_type == "train"]
    assert [unpack(message.content, Task).round for message in tasks] == [1, 1, 2, 2]


def test_a_model_is_taught_the_series_that_any_member_has(controller: Controller) -> None:
    artifact = controller.run("1", num_server_rounds=1)
    assert artifact.taught == ("cpu_usage",)

    rows = controller.nodes[12].rows
    rows.values[:, 1] = rows.values[:, 0] / 10
    controller.nodes[13].rows.values[:, 1] = 15.0  # of a node that has too few rows to take part
    artifact = controller.run("2", num_server_rounds=1)

    assert artifact.taught == ("cpu_usage", "power")


def test_a_series_that_only_a_node_without_enough_rows_has_is_not_taught(controller: Controller) -> None:
    controller.nodes[13].rows.values[:, 1] = 15.0

    assert controller.run("1", num_server_rounds=1).taught == ("cpu_usage",)


def test_the_common_part_is_the_mean_of_the_nodes_own(controller: Controller) -> None:
    artifact = controller.run("1", num_server_rounds=1)

    settings = TrainSettings.from_run_config(made_up.RUN_CONFIG)
    own, counts = [], []
    for number in (11, 12):
        job = node.Job(made_up.node_config(controller.directory, "x"), settings, made_up.QUESTION)
        rows = controller.nodes[number].rows
        train = cut(rows, job.schema, job.plan, cutoff_of(rows, 0.75)).train
        own.append(fit_common(train).weights[0])
        counts.append(len(train))
    np.testing.assert_allclose(artifact.arrays[0][0], np.average(own, axis=0, weights=counts), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        artifact.arrays[0][1], 1 / 5, rtol=1e-6
    )  # nobody has power: the window's mean, as at first


def test_the_common_part_of_a_series_that_one_node_has_is_that_nodes_own(controller: Controller) -> None:
    rows = controller.nodes[12].rows
    rows.values[:, 1] = 100 + np.sin(np.arange(len(rows))) * 20
    sent: list[Update] = []

    def note(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type == "train":
            sent.append(update_in(content))
        return content

    controller.nodes[12].change = note

    artifact = controller.run("1", num_server_rounds=3)

    np.testing.assert_allclose(artifact.arrays[0][1], sent[-1].arrays[0][1], rtol=1e-6)
    np.testing.assert_allclose(artifact.arrays[0].sum(axis=1), 1, rtol=1e-5)


def grow_better(controller: Controller) -> None:
    """Let the nodes find each round's model better than the one before."""
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: number / 10)


def test_the_next_run_goes_on_from_the_best_model(controller: Controller) -> None:
    grow_better(controller)
    first = controller.run("1", num_server_rounds=1)

    second = controller.run("2", num_server_rounds=1, season="90s")

    assert (first.season, second.season) == (20, 30)
    assert second.parent == first.digest
    ready = controller.events("2")[1]
    assert ready.warm_start == first.digest


def test_a_run_of_another_shape_starts_afresh_and_says_why(controller: Controller) -> None:
    controller.run("1", num_server_rounds=1)

    second = controller.run("2", num_server_rounds=1, hidden_size=8)

    assert second.shape.hidden == 8
    assert second.parent is None
    ready = controller.events("2")[1]
    assert ready.warm_start is None
    assert "hidden=4" in ready.fresh_because


def test_an_update_that_is_not_finite_is_named_and_left_out(controller: Controller) -> None:
    controller.nodes[12].change = spoil_training(lambda update: update.arrays[0].fill(np.nan))

    artifact = controller.run("1", num_server_rounds=1, min_nodes=1)

    done = controller.events("1")[2]
    assert done.nodes == ("worker-1",)
    assert [(absent.host, "not finite" in absent.reason) for absent in done.left_out] == [("worker-2", True)]
    assert artifact.nodes == ("worker-1",)


def test_too_few_valid_updates_end_the_run_and_nothing_is_saved(controller: Controller) -> None:
    controller.nodes[12].change = spoil_training(lambda update: update.arrays.pop())

    with pytest.raises(RunFailed, match="round 1: 1 valid updates, at least 2 are needed: worker-2: a model of this"):
        controller.run("1")

    assert isinstance(controller.events("1")[-1], Failed)
    assert controller.latest("controller") is None
    assert not any(message.metadata.message_type == "evaluate" for message in controller.grid.sent)


class Echo(FakeGrid):
    """A grid that delivers each update twice, the second time with other weights."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for reply in super().pull_messages(message_ids):
            yield reply
            if reply.metadata.message_type == "train":
                again = spoil_training(lambda update: update.arrays[0].fill(1e6))(reply, reply.content)
                yield made_reply(again, reply)


def made_reply(content: Any, like: Message) -> Message:
    """Another reply to the message that a reply answers."""
    reply = copy(like)
    reply.content = content
    return reply


def test_only_a_nodes_first_reply_of_a_round_counts_and_the_second_is_named(controller: Controller) -> None:
    once = controller.run("1", num_server_rounds=1)
    (controller.directory / "controller" / "models" / "latest").unlink()
    controller.grid = Echo(controller.nodes)

    twice = controller.run("2", num_server_rounds=1)

    done = controller.events("2")[2]
    assert done.nodes == ("worker-1", "worker-2")
    reason = "replied 2 times, only the first reply counts"
    assert [str(absent) for absent in done.left_out] == [f"worker-1: {reason}", f"worker-2: {reason}"]
    for expected, array in zip(once.arrays, twice.arrays, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_node_that_does_not_reply_in_time_is_not_asked_again(controller: Controller) -> None:
    controller.nodes[12].change = lambda message, content: None if message.metadata.message_type == "train" else content

    controller.run("1", min_nodes=1)

    first, second = controller.events("1")[2:4]
    assert [absent.reason for absent in first.left_out] == ["no reply within 0.2 s"]
    assert [str(absent) for absent in second.left_out] == ["worker-2: still at round 1"]
    asked = [message.metadata.dst_node_id for message in controller.grid.sent if message.metadata.group_id == "2"]
    assert asked == [11]


class Late(FakeGrid):
    """A grid whose node 12 replies to the first round when the second is under way."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        groups = {message.metadata.group_id for message in self.sent}
        held = {
            message.metadata.message_id
            for message in self.sent
            if message.metadata.group_id == "1" and message.metadata.dst_node_id == 12 and "2" not in groups
        }
        return super().pull_messages([number for number in message_ids if number not in held])


def test_a_node_that_replied_too_late_is_asked_again_once_it_is_free_and_its_late_update_counts_for_nothing(
    controller: Controller,
) -> None:
    controller.grid = Late(controller.nodes)

    controller.run("1", num_server_rounds=3, min_nodes=1, straggler_rounds=1)

    rounds = [event for event in controller.events("1") if isinstance(event, RoundDone)]
    assert [event.nodes for event in rounds] == [("worker-1",), ("worker-1",), ("worker-1", "worker-2")]
    assert [[str(absent) for absent in event.left_out] for event in rounds] == [
        ["worker-2: no reply within 0.2 s"],
        ["worker-2: still at round 1"],
        [],
    ]


def test_a_node_whose_reply_was_an_error_is_asked_again(controller: Controller) -> None:
    controller.nodes[12].change = lambda message, content: (
        Error(8, "ClientApp stopped responding.") if message.metadata.group_id == "1" else content
    )

    controller.run("1", min_nodes=1)

    first, second = controller.events("1")[2:4]
    assert [str(absent) for absent in first.left_out] == ["worker-2: Flower says: ClientApp stopped responding."]
    assert second.nodes == ("worker-1", "worker-2")


def test_a_node_that_goes_offline_between_rounds_sits_out(controller: Controller) -> None:
    def leave(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type == "train":
            controller.grid.nodes.pop(12)
        return content

    controller.nodes[12].change = leave

    controller.run("1", min_nodes=1)

    second, finished = controller.events("1")[3:5]
    assert [str(absent) for absent in second.left_out] == ["worker-2: offline"]
    assert [str(absent) for absent in finished.left_out] == ["worker-2: offline"]


def test_too_few_ready_nodes_end_the_run_with_each_ones_reason(controller: Controller) -> None:
    with pytest.raises(RunFailed, match=r"2 of at least 3 nodes are ready: worker-3: .*there are 15 rows"):
        controller.run("1", min_nodes=3)

    assert [type(event) for event in controller.events("1")] == [Started, Failed]


def test_a_node_that_did_not_answer_is_asked_once_more_where_too_few_did(controller: Controller) -> None:
    worker, asked = controller.grid.nodes[12], list[Message]()

    def late(message: Message) -> Any:
        asked.append(message)
        return worker(message) if len(asked) > 1 else None

    controller.grid.nodes[12] = late

    controller.run("1", num_server_rounds=1, min_nodes=2)

    ready = controller.events("1")[1]
    assert [candidate.host for candidate in ready.nodes] == ["worker-1", "worker-2"]


def test_a_node_that_is_listed_but_gone_is_named_at_the_beginning_and_at_the_end(controller: Controller) -> None:
    controller.grid.nodes |= {98: lambda _: None, 99: lambda _: None}
    write_names(controller.directory / "controller" / "runs", {98: "worker-8"})

    controller.run("1", num_server_rounds=1)

    ready = controller.events("1")[1]
    assert ("SuperNode 99", "no reply within 0.2 s") in [(absent.host, absent.reason) for absent in ready.left_out]
    reason = "no reply, nor was there one when the run began"
    assert controller.result("1")["missing"] == [
        {"host": "SuperNode 99", "reason": reason},
        {"host": "worker-8", "reason": reason},
    ]


def test_a_node_that_was_silent_at_the_beginning_but_is_back_at_the_end_gets_the_model(controller: Controller) -> None:
    controller.nodes[13].change = lambda message, content: None if message.metadata.message_type == "query" else content

    artifact = controller.run("1", num_server_rounds=1)

    assert "worker-3" not in [candidate.host for candidate in controller.events("1")[1].nodes]
    kept = controller.latest("worker-3")
    assert kept is not None
    assert kept.digest == artifact.digest
    assert [entry["host"] for entry in controller.result("1")["nodes"]] == ["worker-1", "worker-2", "worker-3"]
    assert controller.result("1")["missing"] == []


def test_a_host_with_two_supernodes_counts_once(controller: Controller) -> None:
    controller.grid.nodes[14] = Worker(controller.directory, "worker-1", controller.nodes[11].rows)

    controller.run("1", num_server_rounds=1)

    ready = controller.events("1")[1]
    assert [candidate.host for candidate in ready.nodes] == ["worker-1", "worker-2"]
    assert "answers from a second SuperNode, 14" in [absent.reason for absent in ready.left_out]


def test_two_supernodes_that_share_a_host_take_part_each_with_its_own_rows(controller: Controller) -> None:
    rows = made_up.rows(400, seed=4)
    for number, part in ((14, 1), (15, 2)):
        controller.grid.nodes[number] = controller.nodes[number] = Worker(
            controller.directory, "worker-4", rows, share=Share(part, 2)
        )

    artifact = controller.run("1", num_server_rounds=1)

    _, ready, first, finished = controller.events("1")
    both = ("worker-4/1", "worker-4/2")
    assert [(node.host, node.rows) for node in ready.nodes if node.host in both] == [(name, 200) for name in both]
    assert set(both) <= set(first.nodes)
    assert set(both) <= set(finished.nodes)
    kept = controller.latest("worker-4")
    assert kept is not None
    assert kept.digest == artifact.digest
    scored = {entry["host"]: entry["scores"] for entry in controller.result("1")["nodes"]}
    assert all(scored[name] is not None for name in both)
    assert scored[both[0]] != scored[both[1]]


def test_a_node_whose_answer_is_no_answer_is_left_out(controller: Controller) -> None:
    controller.grid.nodes[15] = lambda _: RecordDict()

    controller.run("1", num_server_rounds=1)

    reasons = {absent.host: absent.reason for absent in controller.events("1")[1].left_out}
    assert reasons["SuperNode 15"] == "the message carries no Standing"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"newest": None}, "there is no row yet"),
        ({"cutoff_ns": None}, "there is no row yet"),
    ],
)
def test_a_node_that_says_impossible_things_is_left_out_by_name_and_the_others_train(
    controller: Controller, change: dict[str, Any], reason: str
) -> None:
    def spoil(message: Message, content: RecordDict) -> RecordDict:
        standing = unpack(content, Standing) if message.metadata.message_type == "query" else None
        return content if standing is None else pack(replace(standing, **change))

    controller.nodes[11].change = spoil

    controller.run("1", num_server_rounds=1, min_nodes=1)

    ready = controller.events("1")[1]
    assert [candidate.host for candidate in ready.nodes] == ["worker-2"]
    assert str(ready.left_out[0]) == f"worker-1: {reason}"


def test_a_model_that_reaches_too_few_nodes_fails_the_run_but_stays_with_the_controller(
    controller: Controller,
) -> None:
    controller.nodes[12].change = controller.nodes[13].change = lambda message, content: (
        None if message.metadata.message_type == "evaluate" else content
    )

    with pytest.raises(RunFailed, match=r"1 of at least 2 nodes took it: worker-2: no reply within .*; worker-3"):
        controller.run("1", num_server_rounds=1)

    assert controller.latest("controller") is not None
    assert [entry["host"] for entry in controller.result("1")["missing"]] == ["worker-2", "worker-3"]


def test_a_host_that_takes_the_model_twice_counts_once(controller: Controller) -> None:
    controller.grid.nodes.pop(13)
    controller.grid.nodes[14] = Worker(controller.directory, "worker-1", controller.nodes[11].rows)
    controller.nodes[12].change = lambda message, content: (
        None if message.metadata.message_type == "evaluate" else content
    )

    with pytest.raises(RunFailed, match="1 of at least 2 nodes took it: worker-1: answers from a second SuperNode, 14"):
        controller.run("1", num_server_rounds=1)

    assert [entry["host"] for entry in controller.result("1")["nodes"]] == ["worker-1"]


def test_a_controller_without_a_store_skips_its_evaluation_and_says_so(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("the store does not answer")

    monkeypatch.setattr(runs, "open_store", refuse)

    controller.run("1", num_server_rounds=1)

    assert controller.events("1")[2].evaluation == {"skipped": "the store of controller does not answer"}


def test_a_controller_with_too_few_rows_skips_its_evaluation_and_says_so(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "open_store", lambda _, schema, **__: MemoryStore(schema, 10))

    controller.run("1", num_server_rounds=1)

    assert controller.events("1")[2].evaluation["skipped"].startswith("controller: ")


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch-size", 0), ("keep-models", 1), ("keep-models", True), ("query-timeout-seconds", "soon")],
)
def test_a_wrong_run_configuration_fails_the_run_in_its_progress(
    controller: Controller, key: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: must be"):
        controller.run("1", **{key: value})

    (failed,) = controller.events("1")
    assert isinstance(failed, Failed)
    assert key in failed.reason


def test_a_series_that_the_controller_does_not_keep_fails_the_run(controller: Controller) -> None:
    with pytest.raises(IcosflError, match="no series is called 'gpu'"):
        controller.run("1", series="cpu_usage,gpu")


def test_what_nobody_foresaw_is_told_too(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.model, "after_round", lambda *_: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        controller.run("1")

    assert controller.events("1")[-1].reason == "ZeroDivisionError: division by zero"


def test_a_run_whose_progress_cannot_be_written_fails_with_the_path_and_a_cure(controller: Controller) -> None:
    (controller.directory / "controller").mkdir()
    (controller.directory / "controller" / "runs").write_text("no directory", encoding="utf-8")

    with pytest.raises(RunFailed, match=r"runs/1/lock: cannot be written") as caught:
        controller.run("1")

    assert "runs_dir" in caught.value.cure
    assert controller.grid.sent == []


def test_a_disk_that_fills_up_does_not_hide_why_a_run_failed(controller: Controller) -> None:
    def fill(message: Message, content: RecordDict) -> RecordDict:
        progress = controller.directory / "controller" / "runs" / "1" / "progress.jsonl"
        progress.unlink(missing_ok=True)
        progress.mkdir(exist_ok=True)
        return content

    controller.nodes[11].change = fill

    with pytest.raises(RunFailed, match="2 of at least 3 nodes are ready"):
        controller.run("1", min_nodes=3)


def test_old_models_and_runs_are_deleted_on_every_host_when_a_run_is_over(controller: Controller) -> None:
    grow_better(controller)
    for run in ("1", "2", "3"):
        controller.run(run, keep_models=2)

    runs_kept = sorted(path.name for path in (controller.directory / "controller" / "runs").iterdir())
    assert runs_kept == ["2", "3"]
    kept = {"controller": ["3-round-0001.npz", "3-round-0002.npz"]}
    kept |= {f"worker-{number}": ["2-round-0002.npz", "3-round-0002.npz"] for number in (1, 2, 3)}
    for host, names in kept.items():
        models = controller.directory / host / "models"
        assert sorted(path.name for path in models.glob("*.npz")) == names
        latest = controller.latest(host)
        assert latest is not None
        assert latest.run == "3"
    assert len(list((controller.directory / "worker-1" / "models").glob("*-evaluation.json"))) == 2


def test_runs_that_fail_leave_no_more_behind_than_others(controller: Controller) -> None:
    for run in ("1", "2", "3"):
        with pytest.raises(RunFailed):
            controller.run(run, min_nodes=3, keep_models=2)

    assert sorted(path.name for path in (controller.directory / "controller" / "runs").iterdir()) == ["2", "3"]


@pytest.fixture
def last_is_worst(controller: Controller) -> Controller:
    """Nodes that find the first round's model best, and that of the second bad."""
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: [0.2, 0.5, 0.1][number])
    return controller


def test_a_better_model_of_an_earlier_round_is_handed_out_after_the_last_and_stays(last_is_worst: Controller) -> None:
    last_is_worst.run("1")

    first, second, finished = last_is_worst.events("1")[-3:]
    assert (first.skill, second.skill) == pytest.approx((0.2, 0.5))  # of the models that the rounds began with
    assert (finished.round, finished.rounds, finished.skill) == (1, 2, pytest.approx(0.5))
    assert finished.digest == first.digest
    assert finished.why == "that of round 1: the last round's model has 0.400 less skill"
    for host in ("controller", "worker-1", "worker-2", "worker-3"):
        kept = last_is_worst.latest(host)
        assert kept is not None
        assert kept.digest == first.digest
    result = last_is_worst.result("1")
    assert (result["digest"], result["round"], result["why"]) == (first.digest, 1, finished.why)
    assert result["skills"] == {"worker-1": 0.5, "worker-2": 0.5, "worker-3": 0.5}
    assert result["controller"]["scores"] == first.evaluation["scores"]


def test_a_node_that_misses_the_better_model_is_said_to_have_the_worse_one(last_is_worst: Controller) -> None:
    handed: list[Message] = []
    claim = last_is_worst.nodes[13].change

    def miss_the_second(message: Message, content: RecordDict) -> Any:
        handed.extend([message] if message.metadata.message_type == "evaluate" else [])
        return None if len(handed) > 1 else claim(message, content)

    last_is_worst.nodes[13].change = miss_the_second

    last_is_worst.run("1")

    (absent,) = last_is_worst.events("1")[-1].left_out
    assert str(absent) == "worker-3: has round 2's model, which was measured worse: no reply within 0.2 s"


def test_a_run_that_makes_nothing_better_leaves_the_model_that_it_started_from(last_is_worst: Controller) -> None:
    before = last_is_worst.run("1", num_server_rounds=1)
    for worker in last_is_worst.nodes.values():
        worker.change = claim_skill(lambda number: -number / 10)

    # Of the parent the nodes claim the skill of its round, 1, when they get it, and that of round 0 in the rounds.
    after = last_is_worst.run("2")

    finished = last_is_worst.events("2")[-1]
    assert after.digest == before.digest == finished.digest
    assert (finished.round, finished.rounds) == (0, 2)
    assert finished.why.startswith("the one that the run started from stays: the last round's model has 0.200 less")
    assert last_is_worst.result("2")["round"] == 0
    third = last_is_worst.run("3", num_server_rounds=1)
    assert last_is_worst.events("3")[1].warm_start == before.digest
    assert third.digest == before.digest


def test_a_better_model_that_cannot_be_read_any_more_leaves_the_last(last_is_worst: Controller) -> None:
    claim = last_is_worst.nodes[11].change

    def lose(message: Message, content: RecordDict) -> Any:
        if message.metadata.message_type == "evaluate":
            (last_is_worst.directory / "controller" / "models" / "1-round-0001.npz").write_bytes(b"?")
        return claim(message, content)

    last_is_worst.nodes[11].change = lose

    artifact = last_is_worst.run("1")

    finished = last_is_worst.events("1")[-1]
    assert (artifact.round, finished.round) == (2, 2)
    assert "a better model cannot be read" in finished.why
    assert "1-round-0001.npz" in finished.why


def test_a_run_ends_early_when_nothing_gets_better(controller: Controller) -> None:
    for worker in controller.nodes.values():
        worker.change = claim_skill(lambda number: 0.5 - number / 10)

    controller.run("1", num_server_rounds=6, patience=1)

    *_, third, stopped, finished = controller.events("1")
    assert (third.round, stopped.round, stopped.of) == (3, 3, 6)
    assert (finished.round, finished.rounds) == (1, 3)


def test_each_round_has_the_learning_rate_of_the_schedule(controller: Controller) -> None:
    controller.run(
        "1", num_server_rounds=3, learning_rate=0.01, learning_rate_schedule="exponential", learning_rate_end=0.0001
    )

    sent = {
        message.metadata.group_id: unpack(message.content, Task).learning_rate
        for message in controller.grid.sent
        if message.metadata.message_type == "train"
    }
    assert sent == {"1": pytest.approx(0.01), "2": pytest.approx(0.001), "3": pytest.approx(0.0001)}
    told = [event.learning_rate for event in controller.events("1") if isinstance(event, RoundDone)]
    assert told == list(sent.values())


def test_a_round_takes_as_many_updates_as_it_is_told_and_asks_a_sample(controller: Controller) -> None:
    for number in (14, 15, 16):
        host = f"worker-{number}"
        controller.nodes[number] = Worker(controller.directory, host, made_up.rows(150, seed=number))
        controller.grid.nodes[number] = controller.nodes[number]

    controller.run("1", nodes_per_round=2, over_sampling=1.5, num_server_rounds=5)

    rounds = [event for event in controller.events("1") if isinstance(event, RoundDone)]
    assert [len(event.nodes) for event in rounds] == [2] * 5
    assert [[absent.reason for absent in event.left_out] for event in rounds] == [["came after the first 2"]] * 5
    asked = [
        {m.metadata.dst_node_id for m in controller.grid.sent if m.metadata.group_id == str(number)}
        for number in range(1, 6)
    ]
    assert [len(each) for each in asked] == [3] * 5
    assert len(set.union(*asked)) > 3


def test_a_round_without_its_quorum_fails_the_run_and_names_who_is_missing(controller: Controller) -> None:
    controller.nodes[12].change = lambda message, content: None if message.metadata.message_type == "train" else content

    with pytest.raises(RunFailed, match="round 1: 1 valid updates, at least 2 are needed: worker-2: no reply within"):
        controller.run("1", min_nodes=1, quorum=0.6)


def test_a_run_waits_for_nodes_says_whom_it_misses_and_goes_on_when_they_come(controller: Controller) -> None:
    worker = controller.grid.nodes.pop(12)
    write_names(controller.directory / "controller" / "runs", {11: "worker-1", 12: "worker-2", 13: "worker-3"})
    controller.grid.nodes.pop(13)
    looks = iter(range(100))
    see = controller.grid.get_node_ids

    def come() -> Iterable[int]:
        if next(looks) == 2:
            controller.grid.nodes[12] = worker
        return see()

    controller.grid.get_node_ids = come  # type: ignore[method-assign]

    controller.run("1", num_server_rounds=1, query_timeout_seconds=30)

    started, waiting, ready = controller.events("1")[:3]
    assert isinstance(started, Started)
    assert (waiting.online, waiting.needed, waiting.missing) == (1, 2, ("worker-2", "worker-3"))
    assert [node.host for node in ready.nodes] == ["worker-1", "worker-2"]


def test_nodes_that_leave_between_rounds_are_waited_for_but_not_for_ever(controller: Controller) -> None:
    worker = controller.nodes[12]

    def leave(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type == "train":
            controller.grid.nodes.pop(12)
        return content

    worker.change = leave

    with pytest.raises(RunFailed, match="round 2: 1 nodes online, at least 2 are needed: worker-2: offline"):
        controller.run("1", query_timeout_seconds=0.4)

    waiting = controller.events("1")[-2]
    assert (waiting.online, waiting.needed, waiting.missing) == (1, 2, ("worker-2",))


def test_a_node_that_never_answered_is_called_by_the_name_that_its_number_stands_for(controller: Controller) -> None:
    write_names(controller.directory / "controller" / "runs", {99: "worker-9"})
    controller.grid.nodes[99] = lambda _: None

    controller.run("1", num_server_rounds=1)

    ready = controller.events("1")[1]
    assert ("worker-9", "no reply within 0.2 s") in [(absent.host, absent.reason) for absent in ready.left_out]


def test_a_robust_rule_needs_as_many_nodes_as_it_can_hold_against_before_anything_is_trained(
    controller: Controller,
) -> None:
    with pytest.raises(RunFailed, match="2 of at least 5 nodes are ready"):
        controller.run("1", strategy="krum", malicious_nodes=2)

    assert not any(message.metadata.message_type == "train" for message in controller.grid.sent)


def test_what_a_node_claims_of_series_that_the_model_does_not_forecast_counts_for_nothing(
    controller: Controller,
) -> None:
    def boast(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type != "train":
            return content
        update = update_in(content)
        claims = (Level("gpu", 1, 10, 0.0, 1.0), Level("cpu_usage", 99, 10, 0.0, 1.0))
        return pack_update(replace(update, trained=replace(update.trained, validation=claims)))

    controller.nodes[12].change = boast

    controller.run("1", num_server_rounds=1)

    assert set(controller.events("1")[2].skills) == {"worker-1"}


def test_a_run_leaves_a_report_and_says_when_it_could_not(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "report", report)
    controller.run("1", num_server_rounds=1)
    monkeypatch.setattr(runs, "report", lambda *_: "OSError: full")
    controller.run("2", num_server_rounds=1)

    directory = controller.directory / "controller" / "runs"
    assert (directory / "1" / "report.html").stat().st_size > 10_000
    assert controller.result("1")["troubles"] == {"report": "", "records": ""}
    assert controller.result("2")["troubles"]["report"] == "OSError: full"


def test_a_check_of_the_model_trains_nothing(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    controller.run("1", num_server_rounds=1)
    controller.grid.sent.clear()
    checked: list[str] = []
    monkeypatch.setattr(runs, "check", lambda _, run, *__: checked.append(run))

    controller.run("2", purpose="check")

    assert (checked, controller.grid.sent) == (["2"], [])
    assert [event.event for event in controller.events("2")] == ["started"]
