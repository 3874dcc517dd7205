from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from icosfl.aggregate.progress import Event, Failed, Finished, ProgressLog, RoundDone, Started
from icosfl.errors import ConfigError, NotReady, RunFailed, Unavailable
from icosfl.fleet import rounds
from icosfl.fleet.flower import Flower, RunStatus
from icosfl.fleet.rounds import main, parse_overrides, wait_for, wait_for_nodes, wait_for_turn

RUNNING = RunStatus("running", "")
STARTED = Started("now", "7", 2, 1)


def done(number: int) -> RoundDone:
    return RoundDone("now", number, 2, ("a",), (), 0.5, 10, 3.0, "d", {})


def is_round(event: Event) -> bool:
    return isinstance(event, RoundDone)


def never() -> RunStatus:
    raise AssertionError("the SuperLink was asked")


def test_waiting_returns_the_wanted_event_as_soon_as_it_is_written(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    log.append(STARTED)
    later = threading.Timer(0.1, log.append, [done(1)])
    later.start()

    event = wait_for(is_round, tmp_path, never, 30)

    later.join()
    assert event == done(1)


def test_waiting_for_what_is_there_already_asks_nobody(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    log.append(done(1))
    log.append(Failed("now", "later trouble", ""))

    assert wait_for(is_round, tmp_path, never, 0) == done(1)


def test_a_run_that_fails_ends_the_wait_with_its_reason_and_cure(tmp_path: Path) -> None:
    ProgressLog(tmp_path).append(Failed("now", "too few nodes", "wait"))

    with pytest.raises(RunFailed, match="too few nodes") as caught:
        wait_for(is_round, tmp_path, never, 30)

    assert caught.value.cure == "wait"


def test_a_run_that_died_without_a_word_ends_the_wait_with_flowers_word(tmp_path: Path) -> None:
    status = RunStatus("finished:failed", "No heartbeat received from the task")

    with pytest.raises(RunFailed, match=r"ended without a word \(failed: No heartbeat"):
        wait_for(is_round, tmp_path, lambda: status, 30, look_every=0)


def test_what_a_run_wrote_just_before_its_end_still_counts(tmp_path: Path) -> None:
    def write_and_end() -> RunStatus:
        ProgressLog(tmp_path).append(done(1))
        return RunStatus("finished:completed", "")

    assert wait_for(is_round, tmp_path, write_and_end, 30, look_every=0) == done(1)


def test_a_superlink_that_is_away_for_a_moment_does_not_end_the_wait(tmp_path: Path) -> None:
    asked = []

    def away_once() -> RunStatus:
        asked.append(True)
        if len(asked) == 1:
            raise Unavailable("away")
        ProgressLog(tmp_path).append(done(1))
        return RUNNING

    assert wait_for(is_round, tmp_path, away_once, 30, look_every=0) == done(1)


def test_waiting_ends_and_repeats_the_last_word(tmp_path: Path) -> None:
    ProgressLog(tmp_path).append(STARTED)

    with pytest.raises(RunFailed, match="within 0 s; the last word was: run 7 started"):
        wait_for(is_round, tmp_path, lambda: RUNNING, 0)


def test_waiting_for_nodes_returns_how_many_there_are() -> None:
    counts = iter([0, 1, 3])

    assert wait_for_nodes(lambda: next(counts), 2, 2, 30) == 3


def test_missing_nodes_end_the_wait() -> None:
    with pytest.raises(NotReady, match="1 of 3 SuperNodes are online, and a run needs 2"):
        wait_for_nodes(lambda: 1, 3, 2, 0)


def test_a_missing_node_holds_no_run_up_that_does_not_need_it() -> None:
    assert wait_for_nodes(lambda: 2, 3, 2, 0) == 2


def test_a_superlink_that_stays_away_ends_the_wait_for_nodes() -> None:
    def away() -> int:
        raise Unavailable("away")

    with pytest.raises(Unavailable, match="away"):
        wait_for_nodes(away, 2, 2, 0)


def test_a_run_that_is_just_ending_is_waited_for() -> None:
    states = iter([{"7": RUNNING}, {"7": RUNNING}, {}])

    wait_for_turn(lambda: next(states), "wait", 30)

    assert next(states, None) is None


def test_a_second_run_is_not_submitted_while_one_is_under_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "ENDING_SECONDS", 0)
    monkeypatch.setattr(Flower, "online_nodes", lambda _: 2)
    monkeypatch.setattr(Flower, "open_runs", lambda _: {"7": RunStatus("pending", "")})
    where = ["--connection", "fleet", "--flwr-home", str(tmp_path), "--app", str(Path(__file__).parents[3])]

    assert main(["submit", *where, "--expect-nodes", "2"]) == NotReady.exit_code

    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "run 7 is under way (pending)"
    assert told["cure"].endswith(f"FLWR_HOME={tmp_path} flwr stop 7 fleet")


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


def arguments(tmp_path: Path, *step: str) -> list[str]:
    run = ["await", "--connection", "fleet", "--flwr-home", str(tmp_path), "--run-id", "7"]
    return [*run, "--runs-dir", str(tmp_path), "--timeout", "5", *step]


def test_the_command_prints_the_event_and_its_line_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ProgressLog(tmp_path / "7")
    log.append(done(1))
    log.append(Finished("now", 1, ("a",), (), "digest", 9.0))

    assert main(arguments(tmp_path, "--round", "1")) == 0
    assert main(arguments(tmp_path, "--finish")) == 0

    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["run_id"], first["round"], first["nodes"]) == ("7", 1, ["a"])
    assert first["line"] == "round 1/2: 1 node (a), loss 0.5, 3 s"
    assert second["line"] == "finished: model digest on 1 node (a), 9 s"


def test_the_command_prints_what_went_wrong_as_json_and_exits_with_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "STATUS_SECONDS", 0)
    ProgressLog(tmp_path / "7").append(Failed("now", "too few nodes", "wait"))

    assert main(arguments(tmp_path, "--finish")) == RunFailed.exit_code

    output = capsys.readouterr()
    assert json.loads(output.out) == {"error": "too few nodes", "cure": "wait", "line": "too few nodes (wait)"}
    assert output.err == "too few nodes (wait)\n"
