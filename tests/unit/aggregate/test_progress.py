from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from icosfl.aggregate.progress import (
    PROGRESS_FILE,
    Absent,
    Candidate,
    Failed,
    Finished,
    ProgressLog,
    Ready,
    Resumed,
    RoundDone,
    Started,
    Stopped,
    prune_runs,
    read_progress,
)
from icosfl.errors import RunFailed

TIME = "2026-11-22T03:00:00+00:00"
EVENTS = [
    Started(TIME, "7", 3, 2),
    Ready(TIME, (Candidate("a", 500, TIME, 300),), (Absent("b", "40 rows"),), None, "there is no earlier model"),
    RoundDone(TIME, 2, 3, ("a", "b"), (), 0.4142, 600, 12.6, "d1", {"scores": {"scores": [{"model": None}]}}),
    Finished(TIME, 3, ("a",), (Absent("b", "offline"),), "0123456789abcdef", 61.4),
    Failed(TIME, "1 of at least 2 nodes are ready", "wait"),
    Resumed(TIME, "7", "8", 2),
    Resumed(TIME, "7", "8", 0),
    Stopped(TIME, 2, 3, "no model was better"),
    RoundDone(TIME, 3, 3, ("a",), (), 0.4, 600, 12.6, "d1", {}, {"a": 0.25}, 0.25, {"a": 9.5}, 0.01, 1.5),
    Finished(TIME, 3, ("a",), (), "0123456789abcdef", 61.4, 0, 0.25, 1.5, "the one before stays"),
]


def test_events_come_back_as_they_were_appended(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path / "7")

    for event in EVENTS:
        log.append(event)

    assert read_progress(tmp_path / "7") == EVENTS


def test_an_event_says_what_happened_in_one_line() -> None:
    assert [event.line for event in EVENTS] == [
        "run 7 started: 3 rounds, at least 2 nodes",
        "1 node (a) ready, starting from a fresh model (there is no earlier model); without b: 40 rows",
        "round 2/3: 2 nodes (a, b), loss 0.414, 13 s",
        "finished: model 0123456789ab on 1 node (a), 61 s; without b: offline",
        "run failed: 1 of at least 2 nodes are ready",
        "run 7 goes on after round 2, as Flower's run 8",
        "run 7 goes on from its beginning, as Flower's run 8",
        "stopped after round 2 of 3: no model was better",
        "round 3/3: 1 node (a), loss 0.4, began with skill 0.250, ε 1.5, 13 s",
        "finished: model 0123456789ab (the one before stays) on 1 node (a), 61 s",
    ]


def test_a_run_that_has_not_started_has_no_events(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "none") == []


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    ProgressLog(tmp_path).append(EVENTS[0])
    with (tmp_path / PROGRESS_FILE).open("ab") as file:
        file.write(b'{"event":"rou')

    assert read_progress(tmp_path) == EVENTS[:1]


def test_a_whole_line_that_is_no_event_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / PROGRESS_FILE).write_text('{"event":"unheard"}\n', encoding="utf-8")

    with pytest.raises(RunFailed, match=PROGRESS_FILE):
        read_progress(tmp_path)


def test_a_line_that_was_begun_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    log.mend()
    log.append(EVENTS[0])
    with (tmp_path / PROGRESS_FILE).open("ab") as file:
        file.write(b'{"event":"rou')

    log.mend()
    log.append(EVENTS[2])

    assert read_progress(tmp_path) == [EVENTS[0], EVENTS[2]]


def test_records_of_an_earlier_release_are_read(tmp_path: Path) -> None:
    (tmp_path / PROGRESS_FILE).write_text(
        f'{{"time":"{TIME}","rounds":3,"nodes":["a"],"left_out":[],"digest":"d","seconds":6.5,"event":"finished"}}\n',
        encoding="utf-8",
    )

    (finished,) = read_progress(tmp_path)

    assert isinstance(finished, Finished)
    assert (finished.rounds, finished.round, finished.why) == (3, None, "")


def test_a_directory_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    (tmp_path / PROGRESS_FILE).mkdir()

    with pytest.raises(RunFailed, match=PROGRESS_FILE):
        log.append(EVENTS[0])


def told(directory: Path, run: str, time: int) -> None:
    """A run whose last word was at this time, in seconds since the epoch."""
    ProgressLog(directory / run).append(EVENTS[0])
    os.utime(directory / run / PROGRESS_FILE, (time, time))


def test_the_newest_runs_stay_and_of_older_ones_nothing(tmp_path: Path) -> None:
    for run, time in (("9", 1_000), ("3", 2_000), ("5", 3_000), ("1", 4_000)):
        told(tmp_path, run, time)
    (tmp_path / "notes").mkdir()
    (tmp_path / ".gone-2").mkdir()

    prune_runs(tmp_path, 3, "1")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "5", "notes"]


def test_the_run_that_is_under_way_stays_whatever_the_clock_says(tmp_path: Path) -> None:
    for run, time in (("7", 1_000), ("8", 2_000), ("9", 3_000)):
        told(tmp_path, run, time)

    prune_runs(tmp_path, 2, "7")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "9"]


def test_many_checks_do_not_push_the_trainings_out(tmp_path: Path) -> None:
    for time, run in enumerate(("1-train", "2-train", "3-check", "4-check", "5-check"), 1):
        told(tmp_path, run, 1_000 * time)

    prune_runs(tmp_path, 2, "5-check", lambda directory: directory.name.partition("-")[2])

    assert sorted(path.name for path in tmp_path.iterdir()) == ["1-train", "2-train", "4-check", "5-check"]


def test_runs_that_cannot_be_deleted_are_told_and_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for run, time in (("7", 1_000), ("8", 2_000), ("9", 3_000)):
        told(tmp_path, run, time)
    (tmp_path / ".gone-7").write_text("in the way", encoding="utf-8")

    prune_runs(tmp_path, 2, "9")

    assert f"old runs in {tmp_path} stay" in caplog.text


def test_half_a_line_is_cut_off_again_so_that_the_next_event_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, write = ProgressLog(tmp_path), os.write
    log.append(EVENTS[0])
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda file, line: write(file, line[:20]))
        with pytest.raises(RunFailed, match="no space left for a whole line"):
            log.append(EVENTS[2])

    log.append(EVENTS[4])

    assert read_progress(tmp_path) == [EVENTS[0], EVENTS[4]]


@pytest.mark.parametrize("loss", [float("inf"), float("nan")])
def test_an_event_with_a_number_that_json_has_not_is_none(loss: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        RoundDone(TIME, 2, 3, ("a",), (), loss, 600, 12.6, "d1", {})
