from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from icosfl.aggregate.names import read_names
from icosfl.aggregate.progress import Failed, Finished, ProgressLog, Resumed, Stopped
from icosfl.errors import ConfigError, NotReady, RunFailed, UserError
from icosfl.fleet import awaiting, rounds, submission
from icosfl.fleet.flower import Node, RunStatus
from icosfl.fleet.rounds import answer, main, parse_overrides
from support.made_up_flower import PROJECT, RUNNING, STOPPED, MadeUpFlower, living, record, round_done

KEYS = {"worker-1": "key 1", "worker-2": "key 2", "worker-3": "key 3"}
FINISHED = Finished("now", 1, ("a",), (), "digest", 9.0)


@pytest.fixture
def flower(monkeypatch: pytest.MonkeyPatch) -> Iterator[MadeUpFlower]:
    """A SuperLink with three SuperNodes, of which two are online."""
    statuses = ("online", "online", "offline")
    made = MadeUpFlower(known=[Node(n, status, f"key {n}") for n, status in enumerate(statuses, 1)])
    monkeypatch.setattr(rounds, "Flower", lambda home, connection: made)
    monkeypatch.setattr(submission, "ENDING_SECONDS", 0)
    monkeypatch.setattr(awaiting, "POLL_SECONDS", 0.01)
    return made


def submission_of(tmp_path: Path, *more: str) -> list[str]:
    """The arguments that submit a run for three SuperNodes."""
    (tmp_path / "names.json").write_text(json.dumps(KEYS), encoding="utf-8")
    where = ["--connection", "fleet", "--flwr-home", str(tmp_path), "--app", str(PROJECT), "--timeout", "0"]
    files = ["--runs-dir", str(tmp_path / "runs"), "--names-file", str(tmp_path / "names.json")]
    return ["submit", *where, *files, "--expect-nodes", "3", *more]


def waiting_for(tmp_path: Path, *step: str) -> list[str]:
    """The arguments that wait for a step of run 7."""
    run = ["await", "--connection", "fleet", "--flwr-home", str(tmp_path), "--run-id", "7"]
    return [*run, "--runs-dir", str(tmp_path / "runs"), "--timeout", "5", *step]


def test_a_submission_says_who_is_missing_and_notes_who_each_node_is(tmp_path: Path, flower: MadeUpFlower) -> None:
    done = answer(submission_of(tmp_path, "--config", "num-server-rounds=4"))

    assert (done["run_id"], done["flower_run"], done["round"], done["rounds"]) == ("100", "100", 0, 4)
    assert done["line"] == "run 100 submitted, 2 of 3 SuperNodes are online; missing: worker-3 (offline)"
    assert done["missing"] == ["worker-3 (offline)"]
    assert read_names(tmp_path / "runs") == {1: "worker-1", 2: "worker-2", 3: "worker-3"}
    assert flower.submitted["100"] == {"num-server-rounds": 4}


def test_a_run_that_needs_a_missing_node_is_refused_by_its_name(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(submission_of(tmp_path, "--config", "min-nodes=3")) == NotReady.exit_code

    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "2 of 3 SuperNodes are online, and a run needs 3; missing: worker-3 (offline)"
    assert flower.submitted == {}


def test_a_second_run_is_not_submitted_while_one_is_under_way(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str]
) -> None:
    flower.runs["7"] = RunStatus("pending", "")

    assert main(submission_of(tmp_path)) == NotReady.exit_code

    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "run 7 is under way (pending)"
    assert told["cure"].endswith("FLWR_HOME=/flwr flwr stop 7 fleet")
    assert told["busy"] is True


def test_an_interrupted_run_that_flower_still_holds_for_running_goes_on(tmp_path: Path, flower: MadeUpFlower) -> None:
    flower.runs["7"] = RUNNING
    record(tmp_path / "runs", "7", round_done(1))

    done = answer(submission_of(tmp_path))

    assert (done["run_id"], done["flower_run"], done["round"], done["rounds"]) == ("7", "100", 1, 3)
    assert done["told"] == ["the ServerApp of run 7 died; Flower's run 7 was ended"]
    assert flower.runs["7"] == STOPPED


def test_a_fresh_run_goes_on_with_no_run_and_from_no_model(tmp_path: Path, flower: MadeUpFlower) -> None:
    record(tmp_path / "runs", "7", round_done(1))

    assert answer(submission_of(tmp_path, "--fresh", "--config", "warm-start=true"))["run_id"] == "100"
    assert flower.submitted["100"] == {"warm-start": False}


@pytest.mark.parametrize("how", [("--resume", "7"), ("--config", 'resume="7"')])
def test_a_run_may_be_named_as_an_option_or_as_flower_does(
    tmp_path: Path, flower: MadeUpFlower, how: tuple[str, str]
) -> None:
    record(tmp_path / "runs", "7", round_done(1), Failed("now", "too few nodes", "wait"))

    assert answer(submission_of(tmp_path, *how))["run_id"] == "7"
    assert flower.submitted["100"]["resume"] == "7"


def test_without_a_run_to_go_on_with_the_newest_is_an_error(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(submission_of(tmp_path, "--resume", "newest")) == UserError.exit_code

    assert json.loads(capsys.readouterr().out)["error"] == "there is no run to go on with"
    assert flower.submitted == {}


def test_a_wrong_value_is_refused_before_anything_is_asked(tmp_path: Path, flower: MadeUpFlower) -> None:
    flower.known.clear()

    with pytest.raises(ConfigError, match="quorum"):
        answer(submission_of(tmp_path, "--config", "quorum=2"))


def test_overrides_keep_their_types_and_pairs_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("num-server-rounds = 5\nseries = 'cpu_usage'\n", encoding="utf-8")

    pairs = ["num-server-rounds=2", "learning-rate=0.01", "window=2m", 'horizons="next,1m"', "series=a,b"]

    assert parse_overrides(pairs, file) == {
        "num-server-rounds": 2,
        "learning-rate": 0.01,
        "window": "2m",
        "horizons": "next,1m",
        "series": "a,b",
    }


@pytest.mark.parametrize("pair", ["rounds", "=3", "series=['a']", "x={a = 1}"])
def test_an_override_that_is_none_is_an_error(pair: str) -> None:
    with pytest.raises(ConfigError):
        parse_overrides([pair], None)


def test_a_value_cannot_bring_a_second_key() -> None:
    assert parse_overrides(["a=1\nb=2"], None) == {"a": "1\nb=2"}


@pytest.mark.parametrize("text", ["no toml", None])
def test_an_override_file_that_cannot_be_read_is_an_error(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "run.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")

    with pytest.raises(ConfigError, match=r"run\.toml"):
        parse_overrides([], file)


def test_the_command_prints_the_event_and_its_line_as_json(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path / "runs", "7", round_done(1, of=2), FINISHED)

    assert main(waiting_for(tmp_path, "--round", "1")) == 0
    assert main(waiting_for(tmp_path, "--finish")) == 0

    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["run_id"], first["round"], first["nodes"]) == ("7", 1, ["a"])
    assert first["line"] == "round 1/2: 1 node (a), loss 0.5, 3 s"
    assert second["line"] == "finished: model digest on 1 node (a), 9 s"


def test_the_command_prints_what_went_wrong_as_json_and_exits_with_its_code(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str]
) -> None:
    flower.runs["7"] = RunStatus("finished:failed", "RunFailed: too few nodes")
    record(tmp_path / "runs", "7", Failed("now", "too few nodes", "wait"))

    assert main(waiting_for(tmp_path, "--finish")) == RunFailed.exit_code

    output = capsys.readouterr()
    assert json.loads(output.out) == {"error": "too few nodes", "cure": "wait", "line": "too few nodes (wait)"}
    assert output.err == "too few nodes (wait)\n"


def test_a_run_whose_serverapp_died_goes_on_while_it_is_waited_for(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flower.runs["7"] = RUNNING
    directory = record(tmp_path / "runs", "7", round_done(1))
    take = flower.submit

    def take_and_run(*given: object) -> str:
        run = take(*given)  # type: ignore[arg-type]
        for event in (Resumed("now", "7", run, 1), round_done(2)):
            ProgressLog(directory).append(event)
        return run

    monkeypatch.setattr(flower, "submit", take_and_run)

    assert main(waiting_for(tmp_path, "--round", "2", "--app", str(PROJECT))) == 0

    output = capsys.readouterr()
    line = "run 7: its ServerApp died; goes on after round 1 of 3, in Flower's run 100 (1 of 3)"
    assert json.loads(output.out)["told"] == [line]
    assert output.err == f"{line}\n"


@pytest.mark.parametrize("how", [[], ["--app", str(PROJECT), "--resumes", "0"]])
def test_a_run_that_may_not_go_on_by_itself_fails_with_the_cure(
    tmp_path: Path, flower: MadeUpFlower, capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    flower.runs["7"] = RUNNING
    record(tmp_path / "runs", "7", round_done(1))

    assert main(waiting_for(tmp_path, "--finish", *how)) == RunFailed.exit_code

    told = json.loads(capsys.readouterr().out)
    assert "its ServerApp died" in told["error"]
    assert told["cure"] == "icosfl train --resume goes on with it"


def test_of_rounds_that_an_early_end_saved_only_the_first_tells_why(tmp_path: Path, flower: MadeUpFlower) -> None:
    directory = record(tmp_path / "runs", "7", round_done(1, of=4), Stopped("now", 1, 4, "no better for 2 rounds"))

    with living(directory):
        lines = [answer(waiting_for(tmp_path, "--round", str(number)))["line"] for number in (2, 3, 4)]

    assert lines == [
        "stopped after round 1 of 4: no better for 2 rounds",
        "round 3: not needed",
        "round 4: not needed",
    ]


def test_the_end_says_where_the_runs_report_is(tmp_path: Path, flower: MadeUpFlower) -> None:
    page = record(tmp_path / "runs", "7", FINISHED) / "report.html"
    page.touch()

    done = answer(waiting_for(tmp_path, "--finish"))

    assert done["page"] == str(page)
    assert done["line"] == f"finished: model digest on 1 node (a), 9 s\nreport on the controller: {page}"
