"""Messages to nodes and their replies, with an end to every wait."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.common.typing import Run
from flwr.serverapp import Grid

from icosfl.errors import RunFailed, Unavailable

# Flower's own loop looks for replies every 3 s; this is the shorter wait between two looks.
POLL_SECONDS = 0.3

# A SuperLink that is away longer has given the run up: it takes a ServerApp for dead 60 s after its last heartbeat.
SUPERLINK_SECONDS = 90.0

logger = logging.getLogger(__name__)

T = TypeVar("T")


class BoundedGrid(Grid):
    """Flower's grid, but no call waits for ever for a SuperLink, and replies are seen soon after they come.

    Args:
        grid: Flower's.
        superlink_seconds: How long one call may take.
        poll_seconds: Time between two looks for replies.
    """

    def __init__(
        self, grid: Grid, superlink_seconds: float = SUPERLINK_SECONDS, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._grid = grid
        self._superlink_seconds = superlink_seconds
        self._poll_seconds = poll_seconds

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes that the SuperLink holds for online; one that was killed counts for up to a minute.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        return self._bounded(lambda: list(self._grid.get_node_ids()))

    def wait_for_nodes(self, least: int, timeout: float) -> list[int]:
        """The nodes that are online as soon as there are at least so many of them, or after `timeout` seconds.

        A node whose connection broke comes back by itself, within a minute of the network.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        return self.poll(lambda: sorted(self.get_node_ids()), lambda nodes: len(nodes) >= least, timeout)

    def poll(self, look: Callable[[], T], enough: Callable[[T], bool], timeout: float) -> T:
        """Look again and again until it is enough, or for `timeout` seconds; returns what was seen last."""
        deadline = time.monotonic() + timeout
        while not enough(found := look()) and time.monotonic() < deadline:
            self.pause(deadline - time.monotonic())
        return found

    def pause(self, left: float) -> None:
        """Let the time between two looks pass, or what is `left` of the time to look, in seconds."""
        time.sleep(min(self._poll_seconds, max(left, 0.0)))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; returns their ids.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        batch = list(messages)
        return self._bounded(lambda: list(self._grid.push_messages(batch)))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to messages that are there by now.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        batch = list(message_ids)
        return self._bounded(lambda: list(self._grid.pull_messages(batch)))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return the replies that come within `timeout` seconds.

        Raises:
            RunFailed: no timeout was given.
            Unavailable: the SuperLink stays away.
        """
        if timeout is None:
            raise RunFailed("messages were sent without a timeout", cure="this is a mistake in the strategy")
        batch = list(messages)
        if not batch:
            return []
        return self.replies(self.push_messages(batch), timeout)

    def replies(self, message_ids: Iterable[str], timeout: float) -> list[Message]:
        """The replies to messages that come within `timeout` seconds; at least one look is taken.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        waiting = {message_id for message_id in message_ids if message_id}
        deadline = time.monotonic() + timeout
        replies: list[Message] = []
        while waiting:
            came = list(self.pull_messages(waiting))
            replies += came
            waiting -= {reply.metadata.reply_to_message_id for reply in came}
            if time.monotonic() >= deadline:
                break
            if waiting:
                self.pause(deadline - time.monotonic())
        return replies

    def _bounded(self, call: Callable[[], T]) -> T:
        """The result of a call, or its exception; Flower repeats a call for as long as the SuperLink is away."""
        outcome: queue.SimpleQueue[tuple[bool, T | BaseException]] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put((True, call()))
            except BaseException as error:
                outcome.put((False, error))
                logger.debug("call to the SuperLink failed", exc_info=error)

        threading.Thread(target=work, daemon=True).start()
        try:
            good, value = outcome.get(timeout=self._superlink_seconds)
        except queue.Empty:
            raise Unavailable(
                f"the SuperLink does not answer since {self._superlink_seconds:g} s", cure="look at `icosfl status`"
            ) from None
        if isinstance(value, BaseException) and not good:
            raise value
        return value  # type: ignore[return-value]


@dataclass(frozen=True, slots=True)
class NoReply:
    """Why a node's reply cannot be had; `silent` when nothing came at all."""

    reason: str
    silent: bool


def first_replies(replies: Iterable[Message]) -> list[Message]:
    """The replies without those to a message that was replied to before."""
    first: dict[str, Message] = {}
    for reply in replies:
        first.setdefault(reply.metadata.reply_to_message_id, reply)
    return list(first.values())


def pair(asked: Sequence[Message], replies: Iterable[Message], timeout: float) -> dict[int, RecordDict | NoReply]:
    """What each node that was asked answered, by its number: the content of its reply, or why there is none.

    Replies to anything else are left alone, and so are all after the first to a message. An error that the SuperLink
    reports for a node is told of that node.
    """
    by_message = {reply.metadata.reply_to_message_id: reply for reply in first_replies(replies)}
    return {
        message.metadata.dst_node_id: _content(by_message.get(message.metadata.message_id), timeout)
        for message in asked
    }


def _content(reply: Message | None, timeout: float) -> RecordDict | NoReply:
    if reply is None:
        return NoReply(f"no reply within {timeout:g} s", silent=True)
    return NoReply(f"Flower says: {reply.error.reason}", silent=False) if reply.has_error() else reply.content
