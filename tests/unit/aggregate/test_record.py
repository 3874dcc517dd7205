from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icosfl.aggregate import record
from icosfl.aggregate.progress import Event, Failed, Finished, ProgressLog, Resumed, RoundDone, Started
from icosfl.aggregate.record import hold, is_alive, look, newest, write_config
from icosfl.errors import RunFailed

TIME = "2026-11-22T03:00:00+00:00"
STARTED = Started(TIME, "7", 3, 2)
ROUND = RoundDone(TIME, 2, 3, ("a",), (), 0.5, 10, 3.0, "d", {})
FAILED = Failed(TIME, "too few", "wait")
FINISHED = Finished(TIME, 3, ("a",), (), "d", 9.0)


def told(directory: Path, *events: Event, purpose: str = "train") -> Path:
    write_config(directory, {"purpose": purpose, "seed": 1})
    for event in events:
        ProgressLog(directory).append(event)
    return directory


@pytest.mark.parametrize(
    ("events", "state", "resumable", "round_done"),
    [
        ((), "interrupted", True, 0),
        ((STARTED,), "interrupted", True, 0),
        ((STARTED, ROUND), "interrupted", True, 2),
        ((STARTED, ROUND, FAILED), "failed", True, 2),
        ((STARTED, ROUND, FAILED, Resumed(TIME, "7", "8", 2)), "interrupted", True, 2),
        ((STARTED, ROUND, FINISHED), "finished", False, 2),
    ],
)
def test_a_run_is_what_its_last_word_says_and_interrupted_when_it_died_without_one(
    tmp_path: Path, events: tuple[Event, ...], state: str, resumable: bool, round_done: int
) -> None:
    record = look(told(tmp_path / "7", *events))

    assert record is not None
    assert (record.run, record.state, record.resumable, record.round) == ("7", state, resumable, round_done)
    assert record.last_word == (events[-1].line if events else "")
    assert record.config == {"purpose": "train", "seed": 1}


def test_a_run_whose_server_app_lives_is_alive_and_dead_as_soon_as_that_is_killed(tmp_path: Path) -> None:
    directory = told(tmp_path / "7", STARTED)
    program = (
        "import sys, pathlib\n"
        "from icosfl.aggregate.record import hold\n"
        f"with hold(pathlib.Path({str(directory)!r})):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        alive, record = is_alive(directory), look(directory)
        process.kill()

    assert alive
    assert record is not None
    assert (record.state, record.resumable) == ("alive", False)
    assert not is_alive(directory)


def test_a_record_is_held_by_one_at_a_time_and_free_after(tmp_path: Path) -> None:
    with hold(tmp_path / "7"):
        with pytest.raises(RunFailed, match="run 7: another ServerApp is at it"), hold(tmp_path / "7"):
            pytest.fail("held twice")
        assert is_alive(tmp_path / "7")

    assert not is_alive(tmp_path / "7")


def test_where_there_is_no_run_there_is_no_record(tmp_path: Path) -> None:
    assert look(tmp_path / "7") is None
    assert newest(tmp_path / "none") is None


def test_the_newest_run_is_the_training_that_spoke_last(tmp_path: Path) -> None:
    for run, seconds, purpose in (("7", 300, "train"), ("8", 200, "train"), ("9", 400, "check")):
        directory = told(tmp_path / run, STARTED, purpose=purpose)
        os.utime(directory / "progress.jsonl", (seconds, seconds))

    found = newest(tmp_path)

    assert found is not None
    assert found.run == "7"


def test_a_run_that_died_before_its_first_word_counts_as_of_when_it_began(tmp_path: Path) -> None:
    os.utime(told(tmp_path / "7", STARTED) / "progress.jsonl", (200, 200))
    os.utime(told(tmp_path / "8") / "config.json", (300, 300))

    found = newest(tmp_path)

    assert found is not None
    assert (found.run, found.state, found.rounds) == ("8", "interrupted", 0)


def test_a_record_that_is_deleted_while_somebody_looks_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(tmp_path / "7", STARTED)
    gone = tmp_path / "8" / "progress.jsonl"
    monkeypatch.setattr(record, "_present", lambda _: [gone, tmp_path / "7" / "progress.jsonl"])

    found = newest(tmp_path)

    assert found is not None
    assert found.run == "7"


def test_a_record_that_nobody_can_look_at_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "8").write_text("no directory", encoding="utf-8")
    monkeypatch.setattr(record, "_present", lambda _: [tmp_path / "8" / "progress.jsonl"])

    with pytest.raises(RunFailed, match=r"progress\.jsonl: cannot be read: Not a directory"):
        newest(tmp_path)


def test_a_configuration_that_is_none_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    told(tmp_path / "7", STARTED)
    (tmp_path / "7" / "config.json").write_text("[1]", encoding="utf-8")

    with pytest.raises(RunFailed, match=r"config\.json: no run configuration"):
        look(tmp_path / "7")
