"""When a fleet trains by itself: what to do now, and why, as plain functions of the clock and of what was before.

A model is trained anew every so often, or at a time of day, or because it has become worse than it should be: its
skill over persistence on each node's newest rows is checked every so often, and when it was too low several times in a
row, a training is due. What begins and awaits the runs is `icosfl.fleet.retraining`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Literal, Self

from icosfl.aggregate.record import State
from icosfl.config import ScheduleConfig
from icosfl.errors import ConfigError
from icosfl.train.settings import parse_duration

Kind = Literal["train", "check"]
Act = Literal["train", "check", "resume", "await", "wait"]

# A run that is interrupted again and again is left alone, and the next one starts anew.
RESUMES = 3

_DAY = 86400.0
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_CURE = "correct icosfl_retrain_… or icosfl_drift_… in the inventory, then playbooks/schedule.yml"


@dataclass(frozen=True, slots=True)
class Schedule:
    """When to train and to check. All times are seconds.

    Args:
        train_every: From the end of a training to the next; None: not by the clock.
        train_at: The second of the day (UTC) at which each day's training is due; None: none is.
        check_every: From the end of a check or of a training to the next check; None: no checks.
        drift_skill: A fleet's skill below it is too low.
        drift_windows: How many checks in a row must find it too low for a training.
        retry: From a failure to the next try; it doubles with each further failure in a row.
        retry_most: The longest that it becomes.
        grace: How long an interrupted run of somebody else's is left to them.
    """

    train_every: float | None
    train_at: float | None
    check_every: float | None
    drift_skill: float
    drift_windows: int
    retry: float
    retry_most: float
    grace: float

    @classmethod
    def of(cls, config: ScheduleConfig) -> Self:
        """Check a schedule's configuration.

        Raises:
            ConfigError: a duration or a time of day is none, there are two times to train, or nothing is scheduled.
        """
        schedule = cls(
            _seconds("train_every", config.train_every),
            _second_of_day("train_at", config.train_at),
            _seconds("check_every", config.check_every),
            config.drift_skill,
            config.drift_windows,
            config.retry_seconds,
            config.retry_most_seconds,
            config.grace_seconds,
        )
        if schedule.train_every is not None and schedule.train_at is not None:
            raise ConfigError("train_every and train_at are both set", cure=_CURE)
        if (schedule.train_every, schedule.train_at, schedule.check_every) == (None, None, None):
            raise ConfigError("train_every, train_at and check_every are all empty: nothing is scheduled", cure=_CURE)
        return schedule


@dataclass(frozen=True, slots=True)
class Run:
    """The newest training run, whoever began it.

    Args:
        run: Its number.
        state: How it stands.
        spoke: When its last word came, seconds since 1970.
        words: Its last word.
        resumable: Whether it can be gone on with, should it be interrupted.
        quiet_since: Since when it is known to be interrupted; 0 for one that is not.
    """

    run: str
    state: State
    spoke: float
    words: str
    resumable: bool = False
    quiet_since: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Args:
        run: Its number, "" for a new one that could not be begun.
        time: When, seconds since 1970.
        good: Whether it did what it was for.
        words: Its last word, or why nothing came of it.
    """

    run: str
    time: float
    good: bool
    words: str


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A run that this service began, and must await."""

    kind: Kind
    run: str


@dataclass(frozen=True, slots=True)
class Memory:
    """What was before, kept from one start of the service to the next.

    Args:
        training: How the last training ended.
        trained: When the last good one ended, seconds since 1970; None: there was none.
        failures: How many trainings failed since.
        run_failures: How many of the last of them were of one run, that of `training`.
        check: How the last check ended.
        check_failures: How many checks failed in a row.
        skills: What the last checks found, as many as count, since the last good training.
        under_way: The run to await.
    """

    training: Outcome | None = None
    trained: float | None = None
    failures: int = 0
    run_failures: int = 0
    check: Outcome | None = None
    check_failures: int = 0
    skills: tuple[float, ...] = ()
    under_way: UnderWay | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do and why.

    Args:
        act: train, check, resume or await a run; or wait.
        why: In words.
        run: The run to resume or to await.
        until: How long to wait at most, seconds since 1970; None: until something else changes.
        then: What is due then, for people; "" when nothing is.
    """

    act: Act
    why: str
    run: str = ""
    until: float | None = None
    then: str = ""


@dataclass(frozen=True, slots=True)
class _Due:
    at: float
    why: str


def decide(now: float, memory: Memory, newest: Run | None, schedule: Schedule) -> Decision:
    """What to do now. Its own run comes first, then another's, then an interrupted one, then a training, then a check.

    Args:
        now: Seconds since 1970.
        memory: What was before, with what records say taken in (`taken_in`).
        newest: The newest training run; None: none is on record.
        schedule: When to train and to check.
    """
    if memory.under_way is not None:
        return Decision("await", "it was begun here", memory.under_way.run)
    if newest is not None and newest.state == "alive":
        return Decision("wait", f"run {newest.run} is under way: {newest.words or 'it has just begun'}")
    back_off = _back_off(memory.training, memory.failures, schedule)
    resumption = _resumption(memory, newest, schedule)
    training = _training(now, memory, schedule)
    training = training and _Due(max(training.at, back_off), training.why)
    check = _check(now, memory, schedule)
    if resumption is not None and newest is not None:
        at = max(resumption.at, back_off)
        if at <= now:
            return Decision("resume", resumption.why, newest.run)
        return Decision("wait", resumption.why, until=at, then=f"run {newest.run} is gone on with {moment(at)}")
    acts: tuple[tuple[Kind, _Due | None], ...] = (("train", training), ("check", check))
    for act, due in acts:
        if due is not None and due.at <= now:
            return Decision(act, due.why)
    return _wait(memory, training, check)


def taken_in(memory: Memory, newest: Run | None) -> Memory:
    """What was before, with a training that somebody else let finish: the count of the checks starts anew after it.

    Args:
        memory: What was before.
        newest: The newest training run; None: none is on record.
    """
    known = memory.trained if memory.trained is not None else float("-inf")
    if newest is None or newest.state != "finished" or newest.spoke <= known:
        return memory
    if memory.under_way is not None and memory.under_way.run == newest.run:
        return memory  # it is awaited, and then noted
    return ended(memory, Outcome(newest.run, newest.spoke, good=True, words=newest.words))


def begun(memory: Memory, kind: Kind, run: str) -> Memory:
    """What was before, with a run that must be awaited."""
    return dataclasses.replace(memory, under_way=UnderWay(kind, run))


def ended(memory: Memory, outcome: Outcome) -> Memory:
    """What was before, with a training that ended; after a good one the count of the checks starts anew."""
    if not outcome.good:
        of_it = _failures_of(outcome.run, memory) + 1
        return dataclasses.replace(
            memory, training=outcome, failures=memory.failures + 1, run_failures=of_it, under_way=None
        )
    return dataclasses.replace(
        memory,
        training=outcome,
        trained=outcome.time,
        failures=0,
        run_failures=0,
        skills=(),
        check_failures=0,
        under_way=None,
    )


def checked(memory: Memory, outcome: Outcome, skill: float | None, schedule: Schedule) -> Memory:
    """What was before, with a check that ended. One that measured nothing counts neither as good nor as bad skill.

    Args:
        memory: What was before.
        outcome: How it ended.
        skill: The fleet's; None: no node could measure it.
        schedule: Says how many checks count.
    """
    failures = 0 if outcome.good else memory.check_failures + 1
    found = () if skill is None or not outcome.good else (skill,)
    skills = (*memory.skills, *found)[-schedule.drift_windows :]
    return dataclasses.replace(memory, check=outcome, check_failures=failures, skills=skills, under_way=None)


def moment(seconds: float) -> str:
    """A time for people, to the minute, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def summary(memory: Memory, decision: Decision, schedule: Schedule) -> str:
    """What is next and what was last, in one line for people."""
    parts = [_next(decision)]
    if memory.training is not None:
        parts.append(f"last training {_told(memory.training)}")
    if memory.check is not None:
        parts.append(f"last check {_told(memory.check)}")
    if low := _low(memory, schedule):
        parts.append(f"the skill was below {schedule.drift_skill:g} in {len(low)} of {schedule.drift_windows} checks")
    return "; ".join(parts)


def _next(decision: Decision) -> str:
    if decision.act != "wait":
        return f"now: {decision.act}{f' run {decision.run}' if decision.run else ''}: {decision.why}"
    return f"next: {decision.then}" if decision.then else decision.why


def _told(outcome: Outcome) -> str:
    return f"{moment(outcome.time)} {'' if outcome.good else 'failed: '}{outcome.words}"


def _resumption(memory: Memory, newest: Run | None, schedule: Schedule) -> _Due | None:
    if newest is None or newest.state != "interrupted" or not newest.resumable:
        return None
    if _failures_of(newest.run, memory) >= RESUMES:
        return None
    return _Due(newest.quiet_since + schedule.grace, f"run {newest.run} was interrupted: {newest.words}")


def _failures_of(run: str, memory: Memory) -> int:
    return memory.run_failures if memory.training is not None and memory.training.run == run else 0


def _training(now: float, memory: Memory, schedule: Schedule) -> _Due | None:
    low = _low(memory, schedule)
    if len(low) >= schedule.drift_windows:
        skills = ", ".join(f"{skill:.3g}" for skill in low)
        why = f"the skill was below {schedule.drift_skill:g} in {len(low)} checks in a row: {skills}"
        return _Due(now, why)
    if schedule.train_every is None and schedule.train_at is None:
        return None
    if memory.trained is None:
        return _Due(now, "no training is on record")
    last = min(memory.trained, now)  # a clock that was set back must not put it off
    if schedule.train_at is not None:
        at = _next_time_of_day(last, schedule.train_at)
        return _Due(at, f"it is due each day, {moment(at)}")
    at = last + (schedule.train_every or 0.0)
    return _Due(at, f"it is due every {words(at - last)}, and the last one ended {moment(last)}")


def _low(memory: Memory, schedule: Schedule) -> tuple[float, ...]:
    """The skills of the last checks in a row that found it too low, as that is meant now."""
    if schedule.check_every is None:
        return ()
    newest_first = takewhile(lambda skill: skill < schedule.drift_skill, reversed(memory.skills))
    return tuple(newest_first)[::-1]


def _check(now: float, memory: Memory, schedule: Schedule) -> _Due | None:
    if schedule.check_every is None or memory.trained is None:
        return None
    ends = [memory.trained] + ([memory.check.time] if memory.check is not None else [])
    last = min(max(ends), now)
    after = schedule.check_every
    if memory.check_failures:
        after = min(after, _pause(memory.check_failures, schedule))
    return _Due(last + after, f"it is due every {words(schedule.check_every)}")


def _wait(memory: Memory, training: _Due | None, check: _Due | None) -> Decision:
    due = [(each.at, name, each.why) for name, each in (("training", training), ("check", check)) if each is not None]
    if not due:
        return Decision("wait", "no training is on record yet, so there is no model to check: train one")
    at, name, why = min(due)
    then = ", ".join(f"{other} {moment(when)}" for when, other, _ in sorted(due))
    retried = memory.failures if name == "training" else memory.check_failures
    if retried:
        why += f"; {retried} {'try' if retried == 1 else 'tries'} in a row failed"
    return Decision("wait", f"{name}: {why}", until=at, then=then)


def _back_off(last: Outcome | None, failures: int, schedule: Schedule) -> float:
    return last.time + _pause(failures, schedule) if last is not None and failures else 0.0


def _pause(failures: int, schedule: Schedule) -> float:
    return min(schedule.retry * 2.0 ** min(failures - 1, 30), schedule.retry_most)


def _next_time_of_day(after: float, second: float) -> float:
    """The first moment after `after` that is this second of a day."""
    at = after - after % _DAY + second
    return at if at > after else at + _DAY


def words(seconds: float) -> str:
    """A duration for people, as it is written in the inventory: `24h`, `90m`, `45s`."""
    for unit, name in ((3600.0, "h"), (60.0, "m")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g}{name}"
    return f"{seconds:g}s"


def _seconds(key: str, text: str) -> float | None:
    if not text:
        return None
    seconds = parse_duration(text)
    if seconds is None:
        raise ConfigError(f"{key}: {text!r} is no duration, such as 90s, 30m or 24h", cure=_CURE)
    return seconds


def _second_of_day(key: str, text: str) -> float | None:
    if not text:
        return None
    found = _TIME_OF_DAY.fullmatch(text)
    if found is None:
        raise ConfigError(f'{key}: {text!r} is no time of day (UTC), such as "03:30", in quotes', cure=_CURE)
    return int(found[1]) * 3600.0 + int(found[2]) * 60.0
