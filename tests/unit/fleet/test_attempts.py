from __future__ import annotations

from pathlib import Path

import pytest

from icosfl.errors import RunFailed
from icosfl.fleet.attempts import ATTEMPTS_FILE, Attempt, Attempts, note_attempt, note_given_up, read_attempts


def test_what_was_noted_comes_back_in_its_order(tmp_path: Path) -> None:
    note_given_up(tmp_path, "7")
    note_attempt(tmp_path, Attempt("8", automatic=True))
    note_attempt(tmp_path, Attempt("9", automatic=False, round=4))

    assert read_attempts(tmp_path) == Attempts((Attempt("8", True), Attempt("9", False, 4)), frozenset({"7"}))


def test_only_resumptions_since_somebody_asked_for_one_count_as_automatic() -> None:
    asked, automatic = Attempt("1", automatic=False), Attempt("2", automatic=True)

    assert Attempts().in_vain(0) == 0
    assert Attempts((automatic, automatic)).in_vain(0) == 2
    assert Attempts((automatic, asked)).in_vain(0) == 0
    assert Attempts((automatic, asked, automatic)).in_vain(0) == 1


def test_a_run_that_came_further_since_has_all_its_resumptions_again() -> None:
    first, second = Attempt("1", automatic=True, round=1), Attempt("2", automatic=True, round=2)

    assert Attempts((first, first, second)).in_vain(2) == 1
    assert Attempts((first, first, second)).in_vain(3) == 0


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    note_attempt(tmp_path, Attempt("8", automatic=True))
    with (tmp_path / ATTEMPTS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"flower_run": "9"')

    assert [attempt.flower_run for attempt in read_attempts(tmp_path).submitted] == ["8"]


@pytest.mark.parametrize("line", ["no json", "[]", "{}", '{"flower_run": "1"}', "7"])
def test_a_line_that_is_none_of_ours_is_told_with_its_file(tmp_path: Path, line: str) -> None:
    (tmp_path / ATTEMPTS_FILE).write_text(f"{line}\n", encoding="utf-8")

    with pytest.raises(RunFailed, match=ATTEMPTS_FILE):
        read_attempts(tmp_path)


def test_a_note_that_cannot_be_written_is_told_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=ATTEMPTS_FILE):
        note_given_up(tmp_path / "gone", "7")
