from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from icosfl.config import ScheduleConfig
from icosfl.errors import ConfigError
from icosfl.fleet.schedule import (
    RESUMES,
    Memory,
    Outcome,
    Run,
    Schedule,
    begun,
    checked,
    decide,
    ended,
    summary,
    taken_in,
)

HOUR, DAY = 3600.0, 86400.0
NOON = datetime(2030, 5, 1, 12, tzinfo=UTC).timestamp()
EVERY_DAY = Schedule(DAY, None, HOUR, 0.1, 3, retry=300, retry_most=6000, grace=120)
ONLY_CHECKS = dataclasses.replace(EVERY_DAY, train_every=None)
TRAINED = Memory(training=Outcome("1", NOON, good=True, words="finished"), trained=NOON)
FINISHED = Run("1", "finished", NOON, "finished")
INTERRUPTED = Run("2", "interrupted", NOON, "round 1/3", resumable=True, quiet_since=NOON)


def good(time: float, run: str = "9") -> Outcome:
    return Outcome(run, time, good=True, words="well")


def bad(time: float, run: str = "9") -> Outcome:
    return Outcome(run, time, good=False, words="too few nodes")


def after_checks(*skills: float | None, memory: Memory = TRAINED, schedule: Schedule = EVERY_DAY) -> Memory:
    for number, skill in enumerate(skills, 1):
        memory = checked(memory, good(NOON + number * HOUR), skill, schedule)
    return memory


def after_failures(count: int, run: str = "9") -> Memory:
    memory = TRAINED
    for _ in range(count):
        memory = ended(memory, bad(NOON + DAY, run))
    return memory


class TestTrainingByTheClock:
    def test_a_fleet_that_never_trained_trains_at_once(self) -> None:
        decision = decide(NOON, Memory(), None, EVERY_DAY)

        assert (decision.act, decision.why) == ("train", "no training is on record")

    def test_it_waits_for_what_is_due_first_and_says_what_comes_after(self) -> None:
        decision = decide(NOON + 1, TRAINED, FINISHED, EVERY_DAY)

        assert (decision.act, decision.until) == ("wait", NOON + HOUR)
        assert decision.then == "check 2030-05-01 13:00 UTC, training 2030-05-02 12:00 UTC"

    def test_it_trains_once_the_time_is_over_and_says_when_the_last_one_was(self) -> None:
        memory = checked(TRAINED, good(NOON + 23.5 * HOUR), 0.5, EVERY_DAY)

        assert decide(NOON + DAY - 1, memory, FINISHED, EVERY_DAY).act == "wait"
        decision = decide(NOON + DAY, memory, FINISHED, EVERY_DAY)
        assert (decision.act, decision.why) == (
            "train",
            "it is due every 24h, and the last one ended 2030-05-01 12:00 UTC",
        )

    def test_many_missed_times_are_one_training(self) -> None:
        late = NOON + 10 * DAY
        assert decide(late, TRAINED, FINISHED, EVERY_DAY).act == "train"

        memory = ended(TRAINED, good(late))

        assert decide(late + 1, memory, FINISHED, EVERY_DAY).act == "wait"

    def test_a_clock_that_was_set_back_delays_a_training_by_no_more_than_its_period(self) -> None:
        decision = decide(NOON - 100 * DAY, TRAINED, FINISHED, dataclasses.replace(EVERY_DAY, check_every=None))

        assert decision.until == NOON - 99 * DAY

    @pytest.mark.parametrize(
        ("last", "due"),
        [(NOON, NOON + 15.5 * HOUR), (NOON - 8.5 * HOUR, NOON + 15.5 * HOUR), (NOON - 9 * HOUR, NOON - 8.5 * HOUR)],
    )
    def test_a_time_of_day_is_the_first_one_after_the_last_training(self, last: float, due: float) -> None:
        at_half_past_three = dataclasses.replace(EVERY_DAY, train_every=None, train_at=3.5 * HOUR, check_every=None)
        memory = ended(Memory(), good(last))

        assert decide(due - 1, memory, FINISHED, at_half_past_three).act == "wait"
        assert decide(due, memory, FINISHED, at_half_past_three).act == "train"


class TestOneRunAtATime:
    @pytest.mark.parametrize("memory", [Memory(), TRAINED, after_checks(0.0, 0.0, 0.0)])
    def test_somebody_elses_run_is_waited_for_whatever_is_due(self, memory: Memory) -> None:
        alive = Run("7", "alive", NOON, "round 1/3")

        decision = decide(NOON + 9 * DAY, memory, alive, EVERY_DAY)

        assert (decision.act, decision.until) == ("wait", None)
        assert "run 7 is under way: round 1/3" in decision.why

    @pytest.mark.parametrize("state", ["alive", "interrupted", "finished", "failed"])
    def test_its_own_run_is_awaited_however_it_stands(self, state: str) -> None:
        run = dataclasses.replace(INTERRUPTED, run="7", state=state)

        decision = decide(NOON + 9 * DAY, begun(TRAINED, "train", "7"), run, EVERY_DAY)

        assert (decision.act, decision.run) == ("await", "7")


class TestInterruptedRuns:
    def test_one_is_gone_on_with_before_anything_else_once_it_was_left_to_its_owner(self) -> None:
        early = decide(NOON + 119, after_checks(0, 0, 0), INTERRUPTED, EVERY_DAY)
        assert (early.act, early.until) == ("wait", NOON + 120)

        decision = decide(NOON + 120, after_checks(0, 0, 0), INTERRUPTED, EVERY_DAY)

        assert (decision.act, decision.run) == ("resume", "2")
        assert "round 1/3" in decision.why

    def test_after_a_failure_it_waits_as_for_any_other_try(self) -> None:
        decision = decide(NOON + DAY + 1, after_failures(1), INTERRUPTED, EVERY_DAY)

        assert (decision.act, decision.until) == ("wait", NOON + DAY + 300)

    def test_one_that_cannot_be_gone_on_with_again_and_again_is_followed_by_a_new_one(self) -> None:
        late = NOON + 9 * DAY

        assert decide(late, after_failures(RESUMES - 1, "2"), INTERRUPTED, EVERY_DAY).act == "resume"
        assert decide(late, after_failures(RESUMES, "2"), INTERRUPTED, EVERY_DAY).act == "train"

    @pytest.mark.parametrize("other", ["9", ""])
    def test_failures_of_other_runs_do_not_count_against_it(self, other: str) -> None:
        memory = after_failures(RESUMES, other)
        assert decide(NOON + 9 * DAY, memory, INTERRUPTED, EVERY_DAY).act == "resume"

        memory = ended(memory, bad(NOON + DAY, "2"))

        assert decide(NOON + 9 * DAY, memory, INTERRUPTED, EVERY_DAY).act == "resume"

    def test_one_that_failed_is_none_and_is_left_alone(self) -> None:
        run = dataclasses.replace(INTERRUPTED, state="failed")

        assert decide(NOON + 120, TRAINED, run, EVERY_DAY).act == "wait"
        assert decide(NOON + DAY, TRAINED, run, EVERY_DAY).act == "train"

    def test_one_without_a_configuration_is_left_alone(self) -> None:
        run = dataclasses.replace(INTERRUPTED, resumable=False)

        assert decide(NOON + DAY, TRAINED, run, EVERY_DAY).act == "train"


class TestFailures:
    @pytest.mark.parametrize(("failures", "pause"), [(1, 300), (2, 600), (3, 1200), (5, 4800), (6, 6000), (600, 6000)])
    def test_each_failure_doubles_the_pause_up_to_the_longest(self, failures: int, pause: float) -> None:
        memory, failed = after_failures(failures), NOON + DAY
        no_checks = dataclasses.replace(EVERY_DAY, check_every=None)

        assert decide(failed + pause - 1, memory, FINISHED, no_checks).act == "wait"
        assert decide(failed + pause, memory, FINISHED, no_checks).act == "train"

    def test_a_good_training_ends_the_pauses(self) -> None:
        memory = ended(ended(after_failures(5), good(NOON + 2 * DAY)), bad(NOON + 3 * DAY))

        assert memory.failures == 1

    def test_a_failed_training_does_not_keep_the_checks_from_their_time(self) -> None:
        decision = decide(NOON + DAY + 1, after_failures(5), FINISHED, EVERY_DAY)

        assert decision.act == "check"

    def test_a_failed_check_is_tried_again_sooner_than_the_next_is_due(self) -> None:
        memory = checked(TRAINED, bad(NOON + HOUR), None, EVERY_DAY)

        assert decide(NOON + HOUR + 299, memory, FINISHED, EVERY_DAY).act == "wait"
        assert decide(NOON + HOUR + 300, memory, FINISHED, EVERY_DAY).act == "check"

    def test_the_wait_says_how_often_it_failed(self) -> None:
        memory = checked(TRAINED, bad(NOON + HOUR), None, EVERY_DAY)

        assert "1 try in a row failed" in decide(NOON + HOUR, memory, FINISHED, EVERY_DAY).why


class TestDrift:
    def test_a_check_is_due_so_long_after_the_last_one_or_the_training(self) -> None:
        assert decide(NOON + HOUR, TRAINED, FINISHED, EVERY_DAY).act == "check"
        memory = after_checks(0.5)
        assert decide(NOON + 2 * HOUR - 1, memory, FINISHED, EVERY_DAY).act == "wait"
        assert decide(NOON + 2 * HOUR, memory, FINISHED, EVERY_DAY).act == "check"

    def test_too_little_skill_in_enough_checks_in_a_row_calls_for_a_training_and_names_them(self) -> None:
        assert decide(NOON + 2 * HOUR, after_checks(0.05, 0.0), FINISHED, ONLY_CHECKS).act == "wait"

        decision = decide(NOON + 3 * HOUR, after_checks(0.05, 0.0, -0.2), FINISHED, ONLY_CHECKS)

        assert decision.act == "train"
        assert decision.why == "the skill was below 0.1 in 3 checks in a row: 0.05, 0, -0.2"

    @pytest.mark.parametrize("skills", [(0.0, 0.0, 0.1, 0.0, 0.0), (0.0, 0.5, 0.0, 0.5, 0.0)])
    def test_a_check_that_finds_enough_skill_starts_the_count_anew(self, skills: tuple[float, ...]) -> None:
        assert decide(NOON + 5 * HOUR, after_checks(*skills), FINISHED, ONLY_CHECKS).act == "wait"

    def test_a_check_that_measured_nothing_counts_neither_way(self) -> None:
        assert decide(NOON + 4 * HOUR, after_checks(0.0, 0.0, None, None), FINISHED, ONLY_CHECKS).act == "wait"
        assert decide(NOON + 4 * HOUR, after_checks(0.0, None, 0.0, 0.0), FINISHED, ONLY_CHECKS).act == "train"

    def test_nor_does_one_that_failed_whatever_it_says(self) -> None:
        memory = checked(after_checks(0.0, 0.0), bad(NOON + 3 * HOUR), 0.0, ONLY_CHECKS)

        assert decide(NOON + 3 * HOUR, memory, FINISHED, ONLY_CHECKS).act == "wait"

    def test_only_so_many_checks_are_remembered_as_count(self) -> None:
        assert after_checks(0.5, 0.4, 0.3, 0.2, 0.1).skills == (0.3, 0.2, 0.1)

    def test_a_clock_that_was_set_back_delays_a_check_by_no_more_than_its_period(self) -> None:
        decision = decide(NOON - 9 * DAY, after_checks(0.5), FINISHED, ONLY_CHECKS)

        assert decision.until == NOON - 9 * DAY + HOUR

    def test_after_a_training_the_count_starts_anew(self) -> None:
        memory = ended(after_checks(0.0, 0.0, 0.0), good(NOON + 4 * HOUR))

        assert memory.skills == ()
        assert decide(NOON + 4 * HOUR + 1, memory, FINISHED, ONLY_CHECKS).act == "wait"

    def test_what_counted_as_too_little_before_the_threshold_was_lowered_counts_no_longer(self) -> None:
        lower = dataclasses.replace(ONLY_CHECKS, drift_skill=0.0)
        memory = after_checks(-0.1, 0.05, -0.2, schedule=ONLY_CHECKS)

        assert decide(NOON + 3 * HOUR, memory, FINISHED, ONLY_CHECKS).act == "train"
        assert decide(NOON + 3 * HOUR, memory, FINISHED, lower).act == "wait"
        assert "below 0 in 1 of 3 checks" in summary(memory, decide(NOON, memory, FINISHED, lower), lower)

    def test_where_checks_were_switched_off_they_call_for_nothing(self) -> None:
        no_checks = dataclasses.replace(EVERY_DAY, check_every=None)

        assert decide(NOON + 3 * HOUR, after_checks(0.0, 0.0, 0.0), FINISHED, no_checks).act == "wait"

    def test_a_training_that_failed_is_still_called_for(self) -> None:
        memory = ended(after_checks(0.0, 0.0, 0.0), bad(NOON + 3 * HOUR))

        assert decide(NOON + 3 * HOUR + 299, memory, FINISHED, ONLY_CHECKS).act == "wait"
        assert decide(NOON + 3 * HOUR + 300, memory, FINISHED, ONLY_CHECKS).act == "train"

    def test_without_any_model_nothing_is_checked_and_the_operator_is_told(self) -> None:
        decision = decide(NOON, Memory(), None, ONLY_CHECKS)

        assert (decision.act, decision.until) == ("wait", None)
        assert "train one" in decision.why


class TestTrainingsOfOthers:
    def test_one_that_finished_counts_as_the_last_training(self) -> None:
        by_hand = Run("5", "finished", NOON + 20 * HOUR, "finished")

        memory = taken_in(after_checks(0.0, 0.0), by_hand)

        assert (memory.trained, memory.skills) == (NOON + 20 * HOUR, ())
        assert decide(NOON + DAY, memory, by_hand, dataclasses.replace(EVERY_DAY, check_every=None)).act == "wait"

    @pytest.mark.parametrize("state", ["failed", "interrupted", "alive"])
    def test_one_that_did_not_changes_nothing(self, state: str) -> None:
        assert taken_in(TRAINED, Run("5", state, NOON + DAY, "")) == TRAINED  # type: ignore[arg-type]

    def test_one_that_finished_before_the_last_known_one_changes_nothing(self) -> None:
        assert taken_in(TRAINED, Run("0", "finished", NOON - 1, "finished")) == TRAINED
        assert taken_in(TRAINED, FINISHED) == TRAINED

    def test_its_own_is_noted_once_it_was_awaited(self) -> None:
        memory = begun(TRAINED, "train", "5")

        assert taken_in(memory, Run("5", "finished", NOON + DAY, "")) == memory


class TestTheLineForPeople:
    def test_it_says_what_is_next_and_what_was_last(self) -> None:
        memory = checked(after_checks(0.0), bad(NOON + 2 * HOUR), None, EVERY_DAY)

        line = summary(memory, decide(NOON + 2 * HOUR, memory, FINISHED, EVERY_DAY), EVERY_DAY)

        assert line == (
            "next: check 2030-05-01 14:05 UTC, training 2030-05-02 12:00 UTC; "
            "last training 2030-05-01 12:00 UTC finished; "
            "last check 2030-05-01 14:00 UTC failed: too few nodes; "
            "the skill was below 0.1 in 1 of 3 checks"
        )


class TestConfiguration:
    CONFIG = ScheduleConfig("24h", "", "1.5h", 0.0, 3, 300, 6000, 120)

    def test_durations_and_times_of_day_become_seconds(self) -> None:
        assert Schedule.of(self.CONFIG) == Schedule(DAY, None, 1.5 * HOUR, 0.0, 3, 300, 6000, 120)
        at = dataclasses.replace(self.CONFIG, train_every="", train_at="03:30")
        assert Schedule.of(at).train_at == 3.5 * HOUR

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"train_every": "daily"}, "train_every: 'daily' is no duration"),
            ({"check_every": "0s"}, "check_every: '0s' is no duration"),
            ({"train_every": "", "train_at": "24:00"}, "train_at: '24:00' is no time of day"),
            ({"train_every": "", "train_at": "210"}, "train_at: '210' is no time of day"),
            ({"train_at": "03:30"}, "both set"),
            ({"train_every": "", "check_every": ""}, "nothing is scheduled"),
        ],
    )
    def test_what_is_none_is_refused_by_its_name(self, changes: dict[str, str], words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            Schedule.of(dataclasses.replace(self.CONFIG, **changes))  # type: ignore[arg-type]

        assert caught.value.cure
