from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from icosfl.aggregate.policy import Choice, Measured, choose, count_missed, enough, learning_rate, select, weigh
from icosfl.aggregate.progress import Candidate
from icosfl.aggregate.roster import Member
from icosfl.aggregate.settings import RunSettings
from icosfl.train.messages import Level
from support import made_up

POLICY = RunSettings.from_run_config(made_up.RUN_CONFIG).policy
MEMBERS = [
    Member(number, f"worker-{number}", 1, 2, ("cpu_usage",), Candidate(f"worker-{number}", 100, "", 50))
    for number in range(1, 9)
]
ONLINE = range(1, 9)


def selected(online: Any = ONLINE, number: int = 1, least: int = 1, **changes: Any) -> Any:
    busy, missed = changes.pop("busy", {}), changes.pop("missed", {})
    policy = replace(POLICY, **changes)
    return select(MEMBERS, online, busy=busy, missed=missed, policy=policy, least=least, seed=1, number=number)


def measured(number: int, **skills: float) -> Measured:
    levels = {host: (Level("cpu_usage", 1, 10, 1 - skill, 1.0),) for host, skill in skills.items()}
    return Measured(number, f"1-round-{number:04d}.npz", f"digest-{number}", levels)


def test_all_who_are_online_are_asked_and_all_are_waited_for_unless_fewer_are_wanted() -> None:
    selection = selected()

    assert [member.node for member in selection.asked] == list(ONLINE)
    assert (selection.take, selection.left_out) == (8, ())


def test_more_are_asked_than_updates_are_taken_and_the_same_round_asks_the_same() -> None:
    first, again, second = (selected(nodes_per_round=3, over_sampling=1.5, number=number) for number in (1, 1, 2))

    assert (len(first.asked), first.take, first.left_out) == (5, 3, ())
    assert first.asked == again.asked
    assert first.asked != second.asked
    assert [member.host for member in first.asked] == sorted(member.host for member in first.asked)


def test_a_round_takes_no_more_than_there_are() -> None:
    selection = selected(online=[2, 3], nodes_per_round=5, over_sampling=2.0)

    assert (len(selection.asked), selection.take) == (2, 2)


@pytest.mark.parametrize(
    ("quorum", "least", "nodes_per_round", "need"),
    [(0.5, 1, 0, 4), (0.51, 1, 0, 5), (0.5, 6, 0, 6), (1.0, 1, 3, 3), (0.01, 1, 0, 1)],
)
def test_a_round_needs_its_quorum_of_what_it_takes_and_the_least_in_any_case(
    quorum: float, least: int, nodes_per_round: int, need: int
) -> None:
    assert selected(quorum=quorum, least=least, nodes_per_round=nodes_per_round).need == need


def test_who_is_offline_still_at_work_or_missed_too_many_rounds_is_not_asked_and_named() -> None:
    selection = selected(
        online=[1, 2, 3, 4],
        busy={"worker-2": 4},
        missed={"worker-3": 2, "worker-4": 1},
        straggler_rounds=1,
        number=6,
    )

    assert [member.host for member in selection.asked] == ["worker-1", "worker-4"]
    assert [str(absent) for absent in selection.left_out] == [
        "worker-2: still at round 4",
        "worker-3: sits out the rest of the run, it missed 2 rounds in a row",
        *(f"worker-{number}: offline" for number in (5, 6, 7, 8)),
    ]


def test_missed_rounds_are_counted_in_a_row() -> None:
    first = count_missed({}, answered={"a"}, silent={"b", "c"})
    second = count_missed(first, answered={"b"}, silent={"c"})
    third = count_missed(second, answered=set(), silent=set())  # c was not asked: it is still at an earlier round

    assert (first, second, third) == ({"b": 1, "c": 1}, {"c": 2}, {"c": 2})


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.01, 0.01, 0.01]),
        ("cosine", [0.01, 0.0055, 0.001]),
        ("exponential", [0.01, 0.01 * 0.1**0.5, 0.001]),
    ],
)
def test_the_learning_rate_goes_from_the_first_to_the_last_as_its_schedule_says(
    schedule: str, rates: list[float]
) -> None:
    policy = replace(POLICY, schedule=schedule, learning_rate_end=0.001)

    assert [learning_rate(policy, 0.01, number, 3) for number in (1, 2, 3)] == pytest.approx(rates)
    assert learning_rate(policy, 0.01, 1, 1) == pytest.approx(0.01)


def test_the_best_model_is_the_one_with_most_skill_and_slow_progress_is_no_improvement() -> None:
    choice = Choice()
    for number, skill in enumerate([0.30, 0.35, 0.3505, 0.3509, 0.34]):
        choice = weigh(choice, measured(number, a=skill, b=skill), 0.001)

    assert choice.best is not None
    assert choice.mark is not None
    assert (choice.best.round, choice.mark.round, choice.waited) == (3, 1, 3)


def test_models_are_compared_over_the_hosts_that_measured_both() -> None:
    choice = weigh(Choice(), measured(1, a=0.5, b=-0.9), 0.0)

    choice = weigh(choice, measured(2, a=0.4), 0.0)  # its mean is larger, but a, which measured both, finds it worse

    assert choice.best is not None
    assert (choice.best.round, choice.waited) == (1, 1)


def test_a_model_that_nobody_can_compare_changes_nothing() -> None:
    choice = weigh(Choice(), measured(1, a=0.5), 0.0)

    assert weigh(choice, measured(2, c=0.9), 0.0) == choice
    assert weigh(choice, measured(2), 0.0) == choice
    assert weigh(Choice(), measured(0), 0.0) == Choice()


def test_a_run_ends_early_after_as_many_models_without_improvement_as_its_patience_says() -> None:
    choice = Choice()
    reasons = []
    for number, skill in enumerate([0.3, 0.2, 0.1]):
        choice = weigh(choice, measured(number, a=skill), 0.0)
        reasons.append(enough(choice, 2))

    told = "no model was better than that of the model that the run started from, 2 measured rounds in a row"
    assert reasons == ["", "", told]
    assert enough(choice, 0) == ""


def test_the_last_model_is_handed_out_unless_an_earlier_one_is_better() -> None:
    best = weigh(Choice(), measured(2, a=0.5), 0.0)
    parent = weigh(Choice(), measured(0, a=0.5), 0.0)

    assert choose(best, measured(3, a=0.6)) == (measured(3, a=0.6), "")
    assert choose(best, measured(3, a=0.5)) == (measured(3, a=0.5), "")
    assert choose(best, measured(3)) == (measured(3), "")
    assert choose(Choice(), measured(1, a=-1.0)) == (measured(1, a=-1.0), "")
    assert choose(best, measured(3, a=0.4)) == (
        measured(2, a=0.5),
        "that of round 2: the last round's model has 0.100 less skill",
    )
    assert choose(parent, measured(3, a=0.4)) == (
        measured(0, a=0.5),
        "the one that the run started from stays: the last round's model has 0.100 less skill",
    )
