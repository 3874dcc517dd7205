from __future__ import annotations

from pathlib import Path

import pytest

from icosfl.aggregate.progress import (
    PROGRESS_FILE,
    Absent,
    Candidate,
    Failed,
    Finished,
    ProgressLog,
    Ready,
    RoundDone,
    Started,
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


def test_a_directory_that_cannot_be_written_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    (tmp_path / PROGRESS_FILE).mkdir()

    with pytest.raises(RunFailed, match=PROGRESS_FILE):
        log.append(EVENTS[0])
