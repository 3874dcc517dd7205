"""Rounds whose replies come when a test lets them come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict

from icosfl.aggregate.exchange import Answers, Exchange
from icosfl.aggregate.grid import BoundedGrid
from icosfl.aggregate.guards import Expected
from icosfl.aggregate.progress import Candidate
from icosfl.aggregate.roster import Member
from icosfl.train.messages import Refused, Trained, Update
from icosfl.train.records import pack, pack_update
from icosfl.train.shape import ModelShape
from support.fake_grid import FakeGrid

SHAPE = ModelShape(network="lstm", series=1, horizons=2, window=5, hidden=4, layers=1)


def member(number: int) -> Member:
    host = f"worker-{number}"
    return Member(number, host, 1, 2, ("cpu_usage",), Candidate(host, 100, "", 50))


def update(host: str, version: str = "1/1") -> RecordDict:
    arrays: list[Any] = [np.zeros(dimensions, np.float32) for _, dimensions in SHAPE.arrays()]
    arrays[0][:, -1] = 1
    return pack_update(Update(Trained(host, version, 0.5, 1.0, ()), arrays, 10))


def expected(one: Member) -> Expected:
    return Expected(one.host, "1/1", SHAPE, 50)


class Slow(FakeGrid):
    """A grid that gives a reply out only after it was looked for so many times."""

    def __init__(self, nodes: dict[int, Callable[[Message], Any]], looks: dict[int, int]) -> None:
        super().__init__(nodes)
        self.looks = looks

    def pull_messages(self, message_ids: Any) -> Any:
        wanted = list(message_ids)
        due = []
        for message in self.sent:
            number = message.metadata.message_id
            if number in wanted:
                node = message.metadata.dst_node_id
                self.looks[node] = self.looks.get(node, 0) - 1
                if self.looks[node] < 0:
                    due.append(number)
        return super().pull_messages(due)


def asked(exchange: Exchange, members: list[Member], take: int, number: int = 1) -> Answers:
    tasks = [(one, Message(RecordDict(), one.node, "train", group_id=str(number))) for one in members]
    return exchange.train(number, tasks, take, expected)


def fleet(looks: dict[int, int], timeout: float = 30.0, **answers: Any) -> tuple[Slow, Exchange]:
    nodes = {
        number: answers.get(f"n{number}", lambda m: update(f"worker-{m.metadata.dst_node_id}")) for number in looks
    }
    grid = Slow(nodes, looks)
    return grid, Exchange(BoundedGrid(grid, poll_seconds=0.001), timeout)


MEMBERS = [member(number) for number in (1, 2, 3)]


def test_the_first_valid_updates_are_taken_and_the_others_named() -> None:
    _, exchange = fleet({1: 10_000, 2: 3, 3: 0})

    answers = asked(exchange, MEMBERS, take=2)

    assert list(answers.updates) == ["worker-2", "worker-3"]
    assert [str(absent) for absent in answers.left_out] == ["worker-1: came after the first 2"]
    assert answers.silent == ()
    assert set(answers.seconds) == {"worker-2", "worker-3"}
    assert exchange.busy == {"worker-1": 1}


def test_a_reply_that_came_along_with_enough_others_is_named_and_its_node_is_free() -> None:
    _, exchange = fleet({1: 0, 2: 0, 3: 0})

    answers = asked(exchange, MEMBERS, take=2)

    assert list(answers.updates) == ["worker-1", "worker-2"]
    assert [str(absent) for absent in answers.left_out] == ["worker-3: came after the first 2"]
    assert exchange.busy == {}


def test_an_update_that_is_not_valid_does_not_count_among_the_first() -> None:
    wrong = update("worker-1", version="1/0")
    _, exchange = fleet({1: 0, 2: 0, 3: 5}, n1=lambda _: wrong)

    answers = asked(exchange, MEMBERS, take=2)

    assert list(answers.updates) == ["worker-2", "worker-3"]
    assert [str(absent) for absent in answers.left_out] == ["worker-1: trained version 1/0 instead of 1/1"]


def test_who_refuses_or_fails_is_not_waited_for_and_not_silent() -> None:
    _, exchange = fleet(
        {1: 0, 2: 0, 3: 0},
        n1=lambda _: pack(Refused("worker-1", "its store is away", "")),
        n2=lambda _: Error(8, "ClientApp stopped responding."),
    )

    answers = asked(exchange, MEMBERS, take=3)

    assert list(answers.updates) == ["worker-3"]
    assert [str(absent) for absent in answers.left_out] == [
        "worker-1: its store is away",
        "worker-2: Flower says: ClientApp stopped responding.",
    ]
    assert (answers.silent, exchange.busy) == ((), {})


def test_who_does_not_reply_in_time_is_silent_and_busy_until_its_reply_came_which_is_dropped() -> None:
    grid, exchange = fleet({1: 10_000, 2: 0, 3: 0}, timeout=0.05)

    first = asked(exchange, MEMBERS, take=3)

    assert first.silent == ("worker-1",)
    assert [str(absent) for absent in first.left_out] == ["worker-1: no reply within 0.05 s"]
    exchange.drop_late()
    assert exchange.busy == {"worker-1": 1}

    grid.looks[1] = 2
    second = asked(exchange, MEMBERS[1:], take=2, number=2)

    assert list(second.updates) == ["worker-2", "worker-3"]
    exchange.drop_late()
    exchange.drop_late()
    assert exchange.busy == {}
    assert "worker-1" not in second.updates


def test_a_task_that_flower_does_not_take_is_not_waited_for() -> None:
    grid, exchange = fleet({1: 0, 2: 0})
    push = grid.push_messages
    grid.push_messages = lambda messages: [None, *list(push(messages))[1:]]  # type: ignore[method-assign, list-item]

    answers = asked(exchange, MEMBERS[:2], take=2)

    assert list(answers.updates) == ["worker-2"]
    assert [str(absent) for absent in answers.left_out] == ["worker-1: Flower did not take the task for it"]
