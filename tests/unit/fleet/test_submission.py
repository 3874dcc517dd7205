from __future__ import annotations

import fcntl
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from icosfl.aggregate.progress import Failed, Finished, ProgressLog, Resumed
from icosfl.errors import NotReady, RunFailed, UserError
from icosfl.fleet import submission
from icosfl.fleet.attempts import Attempt, Attempts, note_attempt, note_given_up, read_attempts
from icosfl.fleet.awaiting import see
from icosfl.fleet.flower import COMMAND_SECONDS, Flower, RunStatus
from icosfl.fleet.resumption import AUTO, NEVER, NEWEST
from icosfl.fleet.submission import Reviver, Site, Submission, submit, wait_for_turn
from support.made_up_flower import APP, PROJECT, RUNNING, STOPPED, MadeUpFlower, living, record, round_done

DIED = "its ServerApp died"
FINISHED = Finished("now", 3, ("a",), (), "digest", 9.0)
LONGEST_SUBMISSION = COMMAND_SECONDS + submission.ENDING_SECONDS
LONGEST_WAIT_FOR_IT = submission.SUBMITTING_SECONDS


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(submission, "ENDING_SECONDS", 0.2)
    monkeypatch.setattr(submission, "SUBMITTING_SECONDS", 0.2)


@pytest.fixture
def flower() -> MadeUpFlower:
    return MadeUpFlower()


@pytest.fixture
def site(flower: MadeUpFlower, tmp_path: Path) -> Site:
    return Site(cast(Flower, flower), PROJECT, tmp_path)


def unheard(line: str) -> None:
    raise AssertionError(f"somebody was told: {line}")


class TestSubmit:
    def test_a_new_run_is_submitted_with_its_overrides(self, site: Site, flower: MadeUpFlower) -> None:
        done = submit(site, {"num-server-rounds": 5}, AUTO, unheard)

        assert done == Submission("100", "100", 0, 5)
        assert done.line == "run 100 submitted"
        assert flower.submitted == {"100": {"num-server-rounds": 5}}

    def test_an_interrupted_run_goes_on_under_its_own_number(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        directory = record(tmp_path, "7", round_done(1), round_done(2), num_server_rounds=5)

        done = submit(site, {"num-server-rounds": 5}, AUTO, unheard)

        assert done == Submission("7", "100", 2, 5)
        assert done.line == "run 7 goes on after round 2 of 5, in Flower's run 100"
        assert flower.submitted["100"] == APP | {"num-server-rounds": 5, "resume": "7"}
        assert read_attempts(directory).submitted == (Attempt("100", automatic=False, round=2),)

    def test_a_run_that_was_interrupted_in_its_first_round_begins_anew_under_its_own_number(
        self, site: Site, tmp_path: Path
    ) -> None:
        record(tmp_path, "7")

        assert submit(site, {}, AUTO, unheard).line == "run 7 goes on from its beginning, in Flower's run 100"

    def test_another_configuration_begins_a_new_run_and_is_told(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        record(tmp_path, "7", round_done(1))
        told: list[str] = []

        assert submit(site, {"num-server-rounds": 5}, AUTO, told.append).run == "100"
        assert ["num-server-rounds=3 instead of 5" in line for line in told] == [True]
        assert "resume" not in flower.submitted["100"]

    def test_never_means_never(self, site: Site, tmp_path: Path) -> None:
        record(tmp_path, "7", round_done(1))

        assert submit(site, {}, NEVER, unheard).run == "100"

    def test_a_check_of_the_model_goes_on_with_no_training(self, site: Site, tmp_path: Path) -> None:
        record(tmp_path, "7", round_done(1))

        assert submit(site, {"purpose": "check"}, AUTO, unheard).run == "100"

    def test_a_damaged_record_keeps_nobody_from_training(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        (record(tmp_path, "7") / "progress.jsonl").write_text("no event\n", encoding="utf-8")
        looks = iter([{"50": RUNNING}])
        flower.open_runs = lambda: next(looks, {})  # type: ignore[method-assign]
        told: list[str] = []

        assert submit(site, {}, AUTO, told.append).run == "100"
        assert [line.endswith("holds a line that is no event of a run: a new run begins") for line in told] == [True]
        with pytest.raises(RunFailed, match="no event of a run"):
            submit(site, {}, NEWEST, unheard)

    def test_a_run_that_failed_goes_on_when_somebody_wants_it_whatever_the_configuration_is_now(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        record(tmp_path, "7", round_done(1), Failed("now", "too few nodes", "wait"))

        assert submit(site, {"num-server-rounds": 9}, AUTO, unheard).run == "100"
        assert submit_later(site, flower, {"num-server-rounds": 9}, NEWEST) == Submission("7", "101", 1, 3)

    def test_a_run_may_be_named(self, site: Site, tmp_path: Path) -> None:
        record(tmp_path, "7", round_done(1))
        record(tmp_path, "8", FINISHED)

        assert submit(site, {}, "7", unheard).run == "7"

    @pytest.mark.parametrize(
        ("resume", "words"),
        [
            (NEWEST, "the newest, run 8, is finished"),
            ("9", "there is no run to go on with"),
            ("../8", "'../8' is not auto, newest, never or a run"),
        ],
    )
    def test_a_run_that_is_not_there_to_go_on_with_is_told(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path, resume: str, words: str
    ) -> None:
        record(tmp_path, "8", FINISHED)

        with pytest.raises(UserError) as caught:
            submit(site, {}, resume, unheard)

        assert words in caught.value.message
        assert flower.submitted == {}

    def test_where_records_are_unknown_nothing_is_gone_on_with(self, site: Site) -> None:
        blind = Site(site.flower, site.app, None)

        assert submit(blind, {}, AUTO, unheard).run == "100"
        with pytest.raises(UserError, match="not known where runs have their records"):
            submit(Site(cast(Flower, MadeUpFlower()), site.app, None), {}, NEWEST, unheard)

    def test_a_run_that_somebody_stopped_stays_so_until_somebody_wants_it(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        record(tmp_path, "7", round_done(1))
        flower.runs["7"] = STOPPED
        told: list[str] = []

        assert submit(site, {}, AUTO, told.append).run == "100"
        assert ["by `flwr stop`" in line for line in told] == [True]

    def test_a_dead_run_that_we_ended_ourselves_goes_on(self, site: Site, flower: MadeUpFlower, tmp_path: Path) -> None:
        note_given_up(record(tmp_path, "7", round_done(1)), "7")
        flower.runs["7"] = STOPPED

        assert submit(site, {}, AUTO, unheard).run == "7"

    def test_two_never_submit_at_the_same_time(self, site: Site, flower: MadeUpFlower, tmp_path: Path) -> None:
        other = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(NotReady, match="somebody else has been submitting"):
                submit(site, {}, AUTO, unheard)
        finally:
            os.close(other)

        assert flower.submitted == {}
        assert submit(site, {}, AUTO, unheard).run == "100"


def test_nobody_gives_up_while_somebody_elses_submission_may_still_succeed() -> None:
    assert LONGEST_WAIT_FOR_IT >= LONGEST_SUBMISSION + 10


def submit_later(site: Site, flower: MadeUpFlower, overrides: dict[str, int], resume: str) -> Submission:
    """Submit when what was submitted before is over."""
    flower.runs = {run: RunStatus("finished:completed", "") for run in flower.runs}
    return submit(site, overrides, resume, unheard)


class TestTurn:
    def test_a_run_that_is_just_ending_is_waited_for(self, site: Site, flower: MadeUpFlower) -> None:
        states = iter([{"7": RUNNING}, {"7": RUNNING}, {}])
        flower.open_runs = lambda: next(states)  # type: ignore[method-assign]

        wait_for_turn(site, unheard)

        assert next(states, None) is None

    def test_a_run_that_flower_still_holds_for_running_though_it_died_is_ended(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        directory = record(tmp_path, "7", round_done(1))
        flower.runs["7"] = RUNNING
        told: list[str] = []

        wait_for_turn(site, told.append)

        assert flower.runs["7"] == STOPPED
        assert told == ["the ServerApp of run 7 died; Flower's run 7 was ended"]
        assert read_attempts(directory).given_up == {"7"}

    def test_a_dead_run_is_found_by_the_number_under_which_it_went_on(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        directory = record(tmp_path, "7", round_done(1), Resumed("now", "7", "12", 1))
        note_attempt(directory, Attempt("12", automatic=True))
        flower.runs["12"] = RUNNING
        told: list[str] = []

        wait_for_turn(site, told.append)

        assert flower.runs["12"] == STOPPED
        assert told == ["the ServerApp of run 7 died; Flower's run 12 was ended"]

    def test_a_living_run_is_never_ended(self, site: Site, flower: MadeUpFlower, tmp_path: Path) -> None:
        flower.runs["7"] = RUNNING

        with living(record(tmp_path, "7")), pytest.raises(NotReady) as caught:
            wait_for_turn(site, unheard)

        assert caught.value.message == "run 7 is under way (running)"
        assert caught.value.cure.endswith("FLWR_HOME=/flwr flwr stop 7 fleet")
        assert flower.runs["7"] == RUNNING

    @pytest.mark.parametrize("status", ["pending", "starting", "running"])
    def test_a_run_of_which_nothing_is_known_yet_is_never_ended(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path, status: str
    ) -> None:
        note_attempt(record(tmp_path, "7", round_done(1)), Attempt("12", automatic=True))
        flower.runs |= {"12": RunStatus(status, "")}

        with pytest.raises(NotReady, match="run 12 is under way"):
            wait_for_turn(site, unheard)

        assert flower.runs["12"].status == status

    def test_a_run_that_has_said_its_last_word_is_ended_only_when_it_does_not_end_itself(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path
    ) -> None:
        record(tmp_path, "7", FINISHED)
        flower.runs["7"] = RUNNING
        told: list[str] = []

        wait_for_turn(site, told.append, timeout=0.1)

        assert len(told) == 1
        assert flower.runs["7"] == STOPPED


class TestReviver:
    @pytest.fixture
    def directory(self, tmp_path: Path, flower: MadeUpFlower) -> Path:
        flower.runs["7"] = RUNNING
        return record(tmp_path, "7", round_done(1), min_nodes=1)

    @pytest.fixture
    def revive(self, site: Site, directory: Path) -> Reviver:
        return Reviver(site, directory, 3, unheard)

    def test_a_dead_run_is_ended_for_flower_and_goes_on_with_its_configuration(
        self, revive: Reviver, flower: MadeUpFlower, directory: Path
    ) -> None:
        line = revive(see(directory), DIED)

        assert line == "run 7: its ServerApp died; goes on after round 1 of 3, in Flower's run 100 (1 of 3)"
        assert flower.runs == {"7": STOPPED, "100": RUNNING}
        assert flower.submitted["100"] == APP | {"min-nodes": 1, "resume": "7"}
        assert read_attempts(directory) == Attempts((Attempt("100", automatic=True, round=1),), frozenset({"7"}))

    def test_only_one_of_two_who_wait_revives_it(self, revive: Reviver, flower: MadeUpFlower, directory: Path) -> None:
        both_saw = see(directory)
        revive(both_saw, DIED)

        assert revive(both_saw, DIED) == ""
        assert list(flower.submitted) == ["100"]

    def test_it_dies_for_good_after_so_many_times(self, revive: Reviver, flower: MadeUpFlower, directory: Path) -> None:
        for time in range(3):
            revive(see(directory), DIED)
            ProgressLog(directory).append(Resumed("now", "7", str(100 + time), 1))

        with pytest.raises(
            RunFailed, match="run 7: its ServerApp died after round 1 and was resumed 3 times"
        ) as caught:
            revive(see(directory), DIED)

        assert "--resume" in caught.value.cure
        assert flower.open_runs() == {}

    def test_a_run_that_comes_further_each_time_is_revived_as_often_as_it_dies(
        self, revive: Reviver, flower: MadeUpFlower, directory: Path
    ) -> None:
        for number in range(1, 6):
            ProgressLog(directory).append(round_done(number))
            assert "(1 of 3)" in revive(see(directory), DIED)
            ProgressLog(directory).append(Resumed("now", "7", str(99 + number), number))

    def test_a_run_that_flower_does_not_know_any_more_goes_on(
        self, revive: Reviver, flower: MadeUpFlower, directory: Path
    ) -> None:
        flower.runs.clear()

        assert "goes on after round 1 of 3, in Flower's run 100" in revive(see(directory), DIED)

    def test_whoever_asks_for_it_gives_it_all_its_times_again(
        self, revive: Reviver, flower: MadeUpFlower, directory: Path
    ) -> None:
        for attempt in (True, True, True, False):
            note_attempt(directory, Attempt("12", automatic=attempt, round=1))
        flower.runs["12"] = RUNNING
        ProgressLog(directory).append(Resumed("now", "7", "12", 1))

        told: list[str] = []

        assert "(1 of 3)" in replace(revive, tell=told.append)(see(directory), DIED)
        assert told == ["the ServerApp of run 7 died; Flower's run 7 was ended"]

    def test_a_run_that_somebody_stopped_is_not_revived(
        self, revive: Reviver, flower: MadeUpFlower, directory: Path
    ) -> None:
        flower.runs["7"] = STOPPED

        with pytest.raises(RunFailed, match="run 7 was stopped after round 1"):
            revive(see(directory), DIED)

        assert flower.submitted == {}

    def test_a_run_of_somebody_else_that_began_meanwhile_is_left_alone(
        self, revive: Reviver, flower: MadeUpFlower, directory: Path
    ) -> None:
        flower.runs["50"] = RUNNING

        with pytest.raises(NotReady, match="run 50 is under way"):
            revive(see(directory), DIED)

        assert flower.runs["50"] == RUNNING
        assert flower.submitted == {}

    def test_a_run_that_lives_again_is_left_alone(self, revive: Reviver, flower: MadeUpFlower, directory: Path) -> None:
        found = see(directory)

        with living(directory):
            assert revive(found, DIED) == ""
        assert flower.submitted == {}

    @pytest.mark.parametrize("purpose", ["check", None])
    def test_a_check_and_a_run_without_configuration_stay_dead(
        self, site: Site, flower: MadeUpFlower, tmp_path: Path, purpose: str | None
    ) -> None:
        directory = record(tmp_path, "8", purpose=purpose)
        if purpose is None:
            (directory / "config.json").unlink()

        with pytest.raises(RunFailed, match=r"ended without a word \(its ServerApp died\)"):
            Reviver(site, directory, 3, unheard)(see(directory), DIED)
        assert flower.submitted == {}
