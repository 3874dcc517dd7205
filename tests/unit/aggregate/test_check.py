from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from icosfl.aggregate.check import CheckResult, check, judge
from icosfl.aggregate.grid import BoundedGrid
from icosfl.aggregate.names import write_names
from icosfl.aggregate.progress import Absent, Event, Finished, read_progress
from icosfl.aggregate.record import purpose_of, write_config
from icosfl.aggregate.settings import RunSettings
from icosfl.errors import ConfigError, IcosflError, RunFailed
from icosfl.schema import Rows
from icosfl.train import client_app
from icosfl.train.artifact import Artifact, load_latest, point_best, save
from icosfl.train.messages import Checked, Level, Refused
from icosfl.train.node import Job
from icosfl.train.records import pack
from icosfl.train.settings import TrainSettings
from support import made_up
from support.fake_grid import FakeGrid, Node

SECOND = 1_000_000_000
Answer = Callable[[Message], RecordDict]


def iso(row: int) -> str:
    return datetime.fromtimestamp(made_up.rows(400).times[row] / SECOND, UTC).isoformat()


@pytest.fixture
def model() -> Artifact:
    """A model that was made at the 200th of 400 rows."""
    from icosfl.aggregate.model import start

    job = Job(made_up.node_config(Path(), "any"), TrainSettings.from_run_config(made_up.RUN_CONFIG), made_up.QUESTION)
    return replace(start(job, "9").artifact, round=3, created=iso(199))


@pytest.fixture
def controller(tmp_path: Path, model: Artifact) -> Path:
    """The directory of all hosts, of which the controller has the model."""
    save(model, made_up.node_config(tmp_path, "controller").models_dir)
    return tmp_path


def worker(directory: Path, host: str, model: Artifact | None, rows: Rows | None = None) -> Answer:
    """What a node with this model and these rows answers."""
    config = made_up.node_config(directory, host)
    if model is not None:
        save(model, config.models_dir)

    def answer(message: Message) -> RecordDict:
        try:
            return client_app.recheck(config, message.content, lambda: made_up.rows(400) if rows is None else rows)
        except IcosflError as error:
            return pack(Refused(host, error.message, error.cure))

    return answer


def run(directory: Path, nodes: dict[int, Node], **changes: object) -> CheckResult:
    config = made_up.RUN_CONFIG | {"purpose": "check"} | {key.replace("_", "-"): each for key, each in changes.items()}
    settings = RunSettings.from_run_config(config)
    grid = BoundedGrid(FakeGrid(nodes), poll_seconds=0.01)
    return check(grid, "7", made_up.node_config(directory, "controller"), settings)


def events(directory: Path) -> list[Event]:
    return read_progress(made_up.node_config(directory, "controller").runs_dir / "7")


def claims(host: str, rmse: float, before: float = 0.5, digest: str = "d") -> Checked:
    """What a node may say: errors in units of persistence's."""
    return Checked(
        host,
        digest,
        (Level("cpu_usage", 1, 50, rmse, 1.0),),
        (Level("cpu_usage", 1, 50, before, 1.0), Level("power", 1, 50, 0.0, 1.0)),
        50,
        1,
        2.0,
    )


def test_a_check_says_how_good_the_model_is_on_all_nodes_newest_rows(controller: Path, model: Artifact) -> None:
    nodes: dict[int, Node] = {n: worker(controller, f"worker-{n}", model) for n in (1, 2)}

    result = run(controller, nodes)

    assert result.digest == model.digest
    assert [each.host for each in result.nodes] == ["worker-1", "worker-2"]
    assert result.missing == ()
    assert result.verdict.skill is not None
    assert 0 < result.verdict.skill < 1
    assert result.verdict.reason == ""
    written = json.loads(
        (made_up.node_config(controller, "controller").runs_dir / "7" / "result.json").read_text(encoding="utf-8")
    )
    assert written["skill"] == result.verdict.skill
    assert [(each["host"], each["skill"] > 0) for each in written["nodes"]] == [("worker-1", True), ("worker-2", True)]
    (last,) = events(controller)
    assert isinstance(last, Finished)
    assert (last.nodes, last.rounds, last.round, last.skill) == (("worker-1", "worker-2"), 0, 3, result.verdict.skill)
    assert f"checked: skill {result.verdict.skill:.3f}" in last.line


def test_only_rows_that_came_after_the_model_was_made_count(controller: Path, model: Artifact) -> None:
    wild = made_up.rows(400)
    wild.values[:300, 0] = np.random.default_rng(2).normal(50, 30, 300)  # before the model was made, and since
    nodes: dict[int, Node] = {n: worker(controller, f"worker-{n}", replace(model, created=iso(320))) for n in (1, 2)}
    save(replace(model, created=iso(320)), made_up.node_config(controller, "controller").models_dir)

    result = run(controller, nodes)

    times = made_up.rows(400).times
    assert [each.since_ns for each in result.nodes] == [times[320] // SECOND * SECOND] * 2
    assert [each.windows for each in result.nodes] == [79 - 5 + 1] * 2


def test_of_a_model_that_is_old_only_the_newest_window_counts(controller: Path, model: Artifact) -> None:
    nodes: dict[int, Node] = {n: worker(controller, f"worker-{n}", model) for n in (1, 2)}

    result = run(controller, nodes, check_window="2m")

    newest = int(made_up.rows(400).times[-1])
    assert [each.since_ns for each in result.nodes] == [newest - 120 * SECOND] * 2
    assert [each.windows for each in result.nodes] == [40 - 5 + 1] * 2


def test_no_verdict_is_given_on_a_model_that_was_made_a_moment_ago(controller: Path, model: Artifact) -> None:
    fresh = replace(model, created=iso(390))
    save(fresh, made_up.node_config(controller, "controller").models_dir)
    nodes: dict[int, Node] = {n: worker(controller, f"worker-{n}", fresh) for n in (1, 2)}

    result = run(controller, nodes)

    assert result.verdict.skill is None
    assert result.verdict.reason.startswith("0 of at least 1 nodes could measure the model: worker-1: no verdict: ")
    assert f"windows of rows after {iso(390)}, when the model was made, at least 30 are needed" in result.verdict.reason
    (last,) = events(controller)
    assert isinstance(last, Finished)
    assert last.skill is None
    assert "checked: no verdict: 0 of at least 1 nodes" in last.line


def test_every_node_that_measured_nothing_is_named_with_the_reason(controller: Path, model: Artifact) -> None:
    write_names(made_up.node_config(controller, "controller").runs_dir, {4: "worker-4", 6: "worker-6"})
    other = replace(model, run="8")
    nodes: dict[int, Node] = {
        1: worker(controller, "worker-1", model),
        2: worker(controller, "worker-2", None),
        3: worker(controller, "worker-3", other),
        4: lambda _: None,
        5: lambda _: Error(1, "it broke"),
        7: lambda _: RecordDict(),
        8: worker(controller, "worker-8", model, Rows.empty(2)),
    }

    result = run(controller, nodes, quorum=0.1)

    assert [each.host for each in result.nodes] == ["worker-1"]
    assert {absent.host: absent.reason for absent in result.missing} == {
        "SuperNode 5": "Flower says: it broke",
        "SuperNode 7": "the message carries no Checked",
        "worker-2": f"has no model instead of {model.digest[:12]}",
        "worker-3": f"has model {other.digest[:12]} instead of {model.digest[:12]}",
        "worker-4": "no reply within 0.2 s",
        "worker-6": "offline",
        "worker-8": "there is no row yet",
    }
    assert result.verdict.skill is not None


def test_the_model_that_was_handed_out_is_checked_and_not_a_later_round_s(controller: Path, model: Artifact) -> None:
    directory = made_up.node_config(controller, "controller").models_dir
    save(replace(model, round=4), directory)
    point_best(model, directory)
    latest = load_latest(directory)
    nodes: dict[int, Node] = {n: worker(controller, f"worker-{n}", model) for n in (1, 2)}

    result = run(controller, nodes)

    assert latest is not None
    assert latest.round == 4
    assert result.digest == model.digest
    assert len(result.nodes) == 2


def test_without_a_model_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="there is no model on controller"):
        run(tmp_path, {})


def test_a_window_in_which_no_verdict_is_possible_is_refused_by_its_key(controller: Path, model: Artifact) -> None:
    with pytest.raises(ConfigError, match=r"check-window: 60 s is too short .* looks 15 s ahead, .* at least 102 s"):
        run(controller, {1: worker(controller, "worker-1", model)}, check_window="60s")


def test_a_window_that_is_no_duration_is_refused_by_its_key(controller: Path) -> None:
    with pytest.raises(ConfigError, match="check-window: must be a positive number with s, m or h, not 'an hour'"):
        run(controller, {}, check_window="an hour")


def test_a_host_that_answers_twice_counts_once(controller: Path, model: Artifact) -> None:
    nodes: dict[int, Node] = {n: worker(controller, "worker-1", model) for n in (1, 2)}

    result = run(controller, nodes)

    assert len(result.nodes) == 1
    assert result.missing == (Absent("worker-1", "answers from a second SuperNode, 2"),)


def test_what_a_node_claims_of_other_series_or_models_has_no_part(controller: Path, model: Artifact) -> None:
    honest = claims("worker-1", 0.5, digest=model.digest)
    foreign = replace(honest, host="worker-2", levels=(*honest.levels, Level("x", 1, 50, 0.0, 1.0)))
    another = replace(honest, host="worker-3", digest="x")
    nodes: dict[int, Node] = {
        n: (lambda _, told=told: pack(told)) for n, told in enumerate([honest, foreign, another], 1)
    }

    result = run(controller, nodes)

    assert result.verdict.skill == 0.5
    assert [each.levels for each in result.nodes] == [honest.levels] * 2
    assert [absent.host for absent in result.missing] == ["worker-3"]


def test_a_verdict_compares_with_what_the_same_levels_were_when_the_model_was_handed_out() -> None:
    verdict = judge([claims("a", 0.9), claims("b", 0.7, before=0.4)], [], 0.5)

    assert verdict.skill == pytest.approx(0.2)
    assert verdict.before == pytest.approx(0.55)  # of cpu_usage alone: power told nothing now


def test_too_few_nodes_give_no_verdict_and_two_supernodes_of_a_machine_are_one() -> None:
    away = [Absent(f"worker-{n}", "offline") for n in (2, 3, 4)]

    assert judge([claims("worker-1/2", 0.9)], [Absent("worker-1/1", "not its rows"), *away[:1]], 0.5).skill is not None
    verdict = judge([claims("worker-1/2", 0.9)], [Absent("worker-1/1", "not its rows"), *away], 0.5)
    assert verdict.skill is None
    assert verdict.reason.startswith(
        "1 of at least 2 nodes could measure the model: worker-1/1: not its rows; worker-2"
    )


def test_a_node_where_nothing_moves_tells_nothing() -> None:
    still = replace(claims("a", 0.0), levels=(Level("cpu_usage", 1, 50, 0.0, 0.0),))

    verdict = judge([still], [], 0.5)

    assert (verdict.skill, verdict.before) == (None, None)
    assert verdict.reason == "0 of at least 1 nodes could measure the model: a: nothing moved there"


def test_the_record_of_a_check_is_told_from_a_training_s(tmp_path: Path) -> None:
    write_config(tmp_path / "7", {"purpose": "check"})
    write_config(tmp_path / "8", {"purpose": "train"})
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "config.json").write_text("no JSON", encoding="utf-8")

    assert [purpose_of(tmp_path / run) for run in ("6", "7", "8", "9")] == ["train", "check", "train", "train"]
