"""A round's exchange with the nodes: tasks go out, updates come in one by one, and nobody is waited for too long."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message

from icosfl.aggregate.grid import BoundedGrid, first_replies
from icosfl.aggregate.guards import Expected, fault
from icosfl.aggregate.progress import Absent
from icosfl.aggregate.roster import Member
from icosfl.errors import SchemaMismatch
from icosfl.train.messages import Refused, Update
from icosfl.train.records import unpack_update

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Answers:
    """What came of a round's tasks, by host.

    Args:
        updates: The valid updates that count.
        seconds: From the task to the reply, of all that replied in time.
        left_out: Hosts whose updates do not count, or not all that they sent, and why.
        silent: Hosts that did not reply in time.
    """

    updates: dict[str, Update] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[Absent] = field(default_factory=list)
    silent: tuple[str, ...] = ()


class Exchange:
    """Sends tasks to members and collects what they say; remembers who still works on an earlier task.

    Args:
        grid: The way to the nodes.
        timeout: Seconds that a round waits for replies at most.
    """

    def __init__(self, grid: BoundedGrid, timeout: float) -> None:
        self._grid = grid
        self._timeout = timeout
        self._late: dict[str, tuple[str, int]] = {}

    @property
    def busy(self) -> dict[str, int]:
        """Hosts whose reply to an earlier round has not come, and that round."""
        return {host: number for host, (_, number) in self._late.items()}

    def drop_late(self) -> None:
        """Take the replies to earlier rounds that came meanwhile; who sent one is free again.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        if not self._late:
            return
        hosts = {message_id: host for host, (message_id, _) in self._late.items()}
        for reply in self._grid.pull_messages(hosts):
            host = hosts[reply.metadata.reply_to_message_id]
            if host in self._late:
                _, number = self._late.pop(host)
                logger.info("the reply of %s to round %s came too late", host, number)

    def train(
        self, number: int, tasks: Sequence[tuple[Member, Message]], take: int, expected: Callable[[Member], Expected]
    ) -> Answers:
        """Send the tasks of a round, and collect until `take` valid updates are there or the time is over.

        Of a node that replies several times the first reply counts.

        Args:
            number: The round.
            tasks: To whom which message goes.
            take: How many valid updates are enough.
            expected: What a member's valid update looks like.

        Raises:
            Unavailable: the SuperLink stays away.
        """
        answers = Answers()
        started = time.monotonic()
        pushed = set(self._grid.push_messages([message for _, message in tasks]))
        waiting = {message.metadata.message_id: member for member, message in tasks}
        for message_id in waiting.keys() - pushed:
            answers.left_out.append(Absent(waiting.pop(message_id).host, "Flower did not take the task for it"))
        while waiting:
            self.drop_late()
            came = list(self._grid.pull_messages(waiting))
            seconds = time.monotonic() - started
            self._take(came, waiting, answers, take, seconds, expected)
            if len(answers.updates) >= take or seconds >= self._timeout:
                break
            self._grid.pause(self._timeout - seconds)
        self._close(number, waiting, answers, take)
        answers.updates = dict(sorted(answers.updates.items()))
        return answers

    @staticmethod
    def _take(  # noqa: PLR0913, PLR0917 (a step of `train`)
        came: Sequence[Message],
        waiting: dict[str, Member],
        answers: Answers,
        take: int,
        seconds: float,
        expected: Callable[[Member], Expected],
    ) -> None:
        times = Counter(reply.metadata.reply_to_message_id for reply in came)
        replies = [reply for reply in first_replies(came) if reply.metadata.reply_to_message_id in waiting]
        for reply in sorted(replies, key=lambda each: waiting[each.metadata.reply_to_message_id].host):
            message_id = reply.metadata.reply_to_message_id
            member = waiting.pop(message_id)
            answers.seconds[member.host] = seconds
            if times[message_id] > 1:
                reason = f"replied {times[message_id]} times, only the first reply counts"
                answers.left_out.append(Absent(member.host, reason))
            update = judge(reply, expected(member))
            if isinstance(update, str):
                answers.left_out.append(Absent(member.host, update))
            elif len(answers.updates) >= take:
                answers.left_out.append(Absent(member.host, _surplus(take)))
            else:
                answers.updates[member.host] = update

    def _close(self, number: int, waiting: dict[str, Member], answers: Answers, take: int) -> None:
        """Note who has not replied: too late, or not needed any more."""
        full = len(answers.updates) >= take
        for message_id, member in waiting.items():
            self._late[member.host] = (message_id, number)
            reason = _surplus(take) if full else f"no reply within {self._timeout:g} s"
            answers.left_out.append(Absent(member.host, reason))
        answers.silent = () if full else tuple(member.host for member in waiting.values())


def judge(reply: Message, expected: Expected) -> Update | str:
    """The valid update in a reply, or why there is none."""
    if reply.has_error():
        return f"Flower says: {reply.error.reason}"
    try:
        update = unpack_update(reply.content)
    except SchemaMismatch as error:
        return error.message
    if isinstance(update, Refused):
        return update.reason
    return fault(update, expected) or update


def _surplus(take: int) -> str:
    return f"came after the first {take}"
