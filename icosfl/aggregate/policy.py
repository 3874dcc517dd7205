"""What a run decides: whom a round asks, whose model is best, when it is enough. Plain functions on values."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from icosfl.aggregate.progress import Absent
from icosfl.aggregate.roster import Member
from icosfl.aggregate.settings import CONSTANT, COSINE, RoundPolicy
from icosfl.train.messages import Level
from icosfl.train.validation import gain

# What the nodes measured of a model, by host.
Levels = Mapping[str, tuple[Level, ...]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Whom a round asks.

    Args:
        free: Members that are online and have no other task of this run.
        asked: Those of them that are asked, by host.
        take: How many valid updates end the round.
        need: Without so many the round fails.
        left_out: Members that are not free, and why.
    """

    free: tuple[Member, ...]
    asked: tuple[Member, ...]
    take: int
    need: int
    left_out: tuple[Absent, ...]


def select(  # noqa: PLR0913 (what a choice depends on)
    members: Sequence[Member],
    online: Collection[int],
    *,
    busy: Mapping[str, int],
    missed: Mapping[str, int],
    policy: RoundPolicy,
    least: int,
    seed: int,
    number: int,
) -> Selection:
    """Choose whom a round asks; the same seed and round choose the same.

    Args:
        members: All that take part in the run, by host.
        online: Numbers of the nodes that are online.
        busy: Hosts that still work on an earlier round, with its number.
        missed: How many rounds in a row hosts were asked and did not answer in time.
        policy: How rounds go.
        least: Valid updates that are needed in any case.
        seed: Of the run.
        number: The round.
    """
    reasons = {
        member.host: _hindrance(member, online, busy, missed.get(member.host, 0), policy.straggler_rounds)
        for member in members
    }
    free = tuple(member for member in members if not reasons[member.host])
    take = min(policy.nodes_per_round or len(free), len(free))
    count = min(math.ceil(take * policy.over_sampling), len(free))
    chosen = random.Random(f"{seed}/{number}").sample(range(len(free)), count)  # noqa: S311 (not a secret)
    return Selection(
        free=free,
        asked=tuple(free[index] for index in sorted(chosen)),
        take=take,
        need=max(least, math.ceil(policy.quorum * take)),
        left_out=tuple(Absent(host, reason) for host, reason in reasons.items() if reason),
    )


def _hindrance(
    member: Member, online: Collection[int], busy: Mapping[str, int], missed: int, straggler_rounds: int
) -> str:
    if missed > straggler_rounds:
        return f"sits out the rest of the run, it missed {missed} round{'s' if missed > 1 else ''} in a row"
    if member.node not in online:
        return "offline"
    return f"still at round {busy[member.host]}" if member.host in busy else ""


def count_missed(missed: Mapping[str, int], answered: Collection[str], silent: Collection[str]) -> dict[str, int]:
    """How many rounds in a row each host missed, after a round.

    Args:
        missed: The same before it.
        answered: Hosts that answered in time, whatever they said.
        silent: Hosts that were asked and did not; those that nobody waited for any more are in neither.
    """
    counts = {host: count for host, count in missed.items() if host not in answered}
    return counts | {host: missed.get(host, 0) + 1 for host in silent}


def learning_rate(policy: RoundPolicy, first: float, number: int, of: int) -> float:
    """The learning rate of a round.

    Args:
        policy: Its schedule, and where it ends.
        first: The rate of the first round.
        number: The round, from 1.
        of: How many rounds the run has; the last one has the rate at the schedule's end.
    """
    last, part = policy.learning_rate_end, (number - 1) / (of - 1) if of > 1 else 0.0
    if policy.schedule == CONSTANT:
        return first
    if policy.schedule == COSINE:
        return last + (first - last) * (1 + math.cos(math.pi * part)) / 2
    return float(first * (last / first) ** part)


@dataclass(frozen=True, slots=True)
class Measured:
    """A model that nodes measured.

    Args:
        round: After which it was saved; 0: the one that the run started from.
        file: Its name among the models.
        digest: Its digest.
        levels: What the nodes measured, by host.
    """

    round: int
    file: str
    digest: str
    levels: dict[str, tuple[Level, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """The best model so far, and for how long none was better.

    Args:
        best: None until one was measured.
        mark: The last that was better by at least what counts as an improvement.
        waited: Models measured since.
    """

    best: Measured | None = None
    mark: Measured | None = None
    waited: int = 0


def weigh(choice: Choice, new: Measured, min_improvement: float) -> Choice:
    """The choice with another model; one that cannot be compared, because no host measured both, changes nothing."""
    if choice.best is None or choice.mark is None:
        return Choice(new, new) if new.levels else choice
    better = gain(new.levels, choice.best.levels)
    improved = gain(new.levels, choice.mark.levels)
    if better is None or improved is None:
        return choice
    best = new if better > 0 else choice.best
    return Choice(best, new) if improved > min_improvement else Choice(best, choice.mark, choice.waited + 1)


def enough(choice: Choice, patience: int) -> str:
    """Why no further rounds are worth it, "" when they are; never with a patience of 0."""
    if not patience or choice.waited < patience or choice.mark is None:
        return ""
    which = f"round {choice.mark.round}" if choice.mark.round else "the model that the run started from"
    return f"no model was better than that of {which}, {choice.waited} measured rounds in a row"


def choose(choice: Choice, last: Measured) -> tuple[Measured, str]:
    """The model that a run hands out, and why it is not the last one; "" when it is.

    Args:
        choice: The best model of those before.
        last: The last round's, as the nodes measured it when they got it.
    """
    best = choice.best
    lost = None if best is None else gain(last.levels, best.levels)
    if best is None or lost is None or lost >= 0 or best.digest == last.digest:
        return last, ""
    told = f"the last round's model has {-lost:.3f} less skill"
    if best.round:
        return best, f"that of round {best.round}: {told}"
    return best, f"the one that the run started from stays: {told}"
