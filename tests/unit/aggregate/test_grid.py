from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from icosfl.aggregate.grid import BoundedGrid, NoReply, pair
from icosfl.errors import RunFailed, Unavailable
from support.fake_grid import FakeGrid


def messages(*nodes: int) -> list[Message]:
    return [Message(RecordDict(), node, "query", group_id="1") for node in nodes]


def content(_: Message) -> RecordDict:
    return RecordDict({"answer": ConfigRecord({"good": True})})


def test_replies_are_returned_as_soon_as_all_are_there() -> None:
    asked = messages(1, 2)

    replies = list(BoundedGrid(FakeGrid({1: content, 2: content})).send_and_receive(asked, timeout=60))

    assert {node: isinstance(answer, RecordDict) for node, answer in pair(asked, replies, 60).items()} == {
        1: True,
        2: True,
    }


def test_a_reply_that_is_there_is_taken_though_there_is_no_time_left() -> None:
    grid = BoundedGrid(FakeGrid({1: content, 2: lambda _: None}))

    replies = grid.replies(grid.push_messages(messages(1, 2)), 0)

    assert [reply.metadata.src_node_id for reply in replies] == [1]


def test_a_node_that_does_not_reply_is_told_apart_from_one_whose_reply_is_an_error() -> None:
    asked = messages(1, 2, 3)
    grid = BoundedGrid(FakeGrid({1: content, 2: lambda _: None, 3: lambda _: Error(5, "gone")}), poll_seconds=0.01)

    answers = pair(asked, grid.send_and_receive(asked, timeout=0.05), 0.05)

    assert isinstance(answers[1], RecordDict)
    assert answers[2] == NoReply("no reply within 0.05 s", silent=True)
    assert answers[3] == NoReply("Flower says: gone", silent=False)


def test_a_reply_to_another_message_is_left_alone() -> None:
    earlier, asked = messages(1), messages(1)
    grid = FakeGrid({1: content})
    late = list(grid.send_and_receive(earlier))
    grid.push_messages(asked)

    assert isinstance(pair(asked, late, 1)[1], NoReply)


def test_nodes_that_are_still_coming_back_are_waited_for_but_not_for_ever() -> None:
    coming = FakeGrid({1: content})
    looks = iter([[1], [1], [2, 1]])
    coming.get_node_ids = lambda: next(looks)  # type: ignore[method-assign]

    assert BoundedGrid(coming, poll_seconds=0.01).wait_for_nodes(2, 60) == [1, 2]
    assert BoundedGrid(FakeGrid({1: content}), poll_seconds=0.01).wait_for_nodes(2, 0.05) == [1]


def test_no_message_needs_no_superlink() -> None:
    assert list(BoundedGrid(Stuck({})).send_and_receive([], timeout=1)) == []


def test_messages_without_a_timeout_are_refused() -> None:
    with pytest.raises(RunFailed, match="without a timeout"):
        BoundedGrid(FakeGrid({1: content})).send_and_receive(messages(1))


class Stuck(FakeGrid):
    """What Flower's grid does while the SuperLink is away: it tries for ever."""

    def get_node_ids(self) -> Iterable[int]:
        threading.Event().wait(30)
        return []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise ConnectionError("refused")


def test_a_superlink_that_stays_away_ends_the_wait_for_it() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        BoundedGrid(Stuck({}), superlink_seconds=0.05).get_node_ids()


def test_an_exception_of_flowers_grid_arrives() -> None:
    with pytest.raises(ConnectionError, match="refused"):
        BoundedGrid(Stuck({})).send_and_receive(messages(1), timeout=1)


def test_what_is_looked_for_is_returned_as_it_was_seen_last() -> None:
    seen = iter([1, 2, 3])
    grid = BoundedGrid(FakeGrid({}), poll_seconds=0.001)

    assert grid.poll(lambda: next(seen), lambda number: number >= 2, 60) == 2
    assert grid.poll(lambda: next(seen), lambda number: number >= 9, 0) == 3
