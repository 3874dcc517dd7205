"""Who takes part in a run: what the nodes answered to the question whether they can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flwr.app import Message, MessageType, RecordDict

from icosfl.aggregate.grid import BoundedGrid, NoReply, pair
from icosfl.aggregate.names import may_be
from icosfl.aggregate.progress import Absent, Candidate
from icosfl.errors import DataError, NotReady, RunFailed, SchemaMismatch
from icosfl.process.clean import NANOSECONDS
from icosfl.train.messages import Question, Refused, Standing
from icosfl.train.records import pack, unpack_reply


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A node that takes part.

    Args:
        node: Its number in Flower.
        host: Its name.
        cutoff_ns: Up to this time its rows are trained on.
        until_ns: Time of its newest row when the run began; up to it models are measured to be chosen.
        series: Names of those that it has.
        candidate: What is said of it.
    """

    node: int
    host: str
    cutoff_ns: int
    until_ns: int
    series: tuple[str, ...]
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Roster:
    """All nodes that were online when the run began.

    Args:
        members: Those that take part, by host.
        left_out: Those that do not, and why.
        names: Hosts by number, of all nodes whose name is known.
        silent: Numbers of nodes that did not answer at all: most likely gone, though still listed.
    """

    members: tuple[Member, ...]
    left_out: tuple[Absent, ...]
    names: Mapping[int, str]
    silent: frozenset[int]

    def require(self, least: int) -> None:
        """Make sure that enough nodes take part.

        Raises:
            RunFailed: there are fewer than `least`.
        """
        if len(self.members) >= least:
            return
        why = "; ".join(str(absent) for absent in self.left_out) or "no other node is online"
        raise RunFailed(
            f"{len(self.members)} of at least {least} nodes are ready: {why}",
            cure="wait until the nodes have enough rows, look at `icosfl status`, or lower min-nodes",
        )

    def found_again(self, names: Mapping[int, str]) -> Roster:
        """The roster for a run that goes on: a host that has another number by now has that; none counts as gone.

        Args:
            names: Hosts by the numbers that they have now.
        """
        numbers = {host: number for number, host in sorted(names.items())}
        members = tuple(
            member if member.node in names else replace(member, node=numbers.get(member.host, member.node))
            for member in self.members
        )
        known = {**self.names, **names}
        return Roster(members, self.left_out, known, frozenset())


def call(  # noqa: PLR0913, PLR0917 (all that asking needs)
    grid: BoundedGrid,
    question: Question,
    least: int,
    timeout: float,
    names: Mapping[int, str],
    waiting: Callable[[int, tuple[str, ...]], None],
) -> Roster:
    """Ask every node that is online, once `least` are; at most `timeout` seconds for them to come, and to answer.

    The SuperLink holds a node whose connection broke for online for a while. Where too few take part because such a one
    did not answer, all are asked once more, when it is back or after as long again.

    Args:
        grid: The way to the nodes.
        question: What they are asked.
        least: How many have to take part.
        timeout: Seconds.
        names: Hosts by number, as far as they are known.
        waiting: Told how many are online, and which hosts are known not to be, when too few are at first.

    Raises:
        Unavailable: the SuperLink stays away.
    """
    online = set(grid.get_node_ids())
    if len(online) < least:
        waiting(len(online), tuple(sorted({host for node, host in names.items() if node not in online})))
    roster, unanswered = _ask(grid, question, least, timeout, names)
    if len(roster.members) < least and unanswered:
        roster, _ = _ask(grid, question, least, timeout, names)
    return roster


def _ask(
    grid: BoundedGrid, question: Question, least: int, timeout: float, names: Mapping[int, str]
) -> tuple[Roster, bool]:
    """Ask once; returns also whether a node was asked that gave no reply of its own."""
    nodes = grid.wait_for_nodes(least, timeout)
    messages = [Message(pack(question), node, MessageType.QUERY, group_id="query") for node in nodes]
    answers = pair(messages, grid.send_and_receive(messages, timeout=timeout), timeout)
    return muster(answers, names), any(isinstance(answer, NoReply) for answer in answers.values())


def muster(answers: Mapping[int, RecordDict | NoReply], known: Mapping[int, str]) -> Roster:
    """Sort nodes by their answers into those that take part and those that do not; one host counts once.

    Args:
        answers: By the nodes' numbers.
        known: Hosts by number, as they were registered; a node that says otherwise is left out. Others are believed.
    """
    members: dict[str, Member] = {}
    left_out: list[Absent] = []
    names: dict[int, str] = dict(known)
    for node, answer in answers.items():
        unnamed = f"SuperNode {node}"
        judged = _judge(node, answer, known.get(node, unnamed))
        if node in known and not may_be(known[node], judged.host):
            left_out.append(Absent(known[node], f"says that it is {judged.host}"))
            continue
        if judged.host != unnamed:
            names[node] = judged.host
        if isinstance(judged, Absent):
            left_out.append(judged)
        elif judged.host in members:
            left_out.append(Absent(judged.host, f"answers from a second SuperNode, {node}"))
        else:
            members[judged.host] = judged
    silent = {node for node, answer in answers.items() if isinstance(answer, NoReply) and answer.silent}
    return Roster(
        tuple(members[host] for host in sorted(members)),
        tuple(sorted(left_out, key=lambda absent: absent.host)),
        names,
        frozenset(silent),
    )


def _judge(node: int, answer: RecordDict | NoReply, name: str) -> Member | Absent:
    if isinstance(answer, NoReply):
        return Absent(name, answer.reason)
    try:
        standing = unpack_reply(answer, Standing)
    except SchemaMismatch as error:
        return Absent(name, error.message)
    if isinstance(standing, Refused):
        return Absent(standing.host or name, standing.reason)
    try:
        return _member(node, standing)
    except DataError as error:
        return Absent(standing.host, error.message)


def _member(node: int, standing: Standing) -> Member:
    """The node as one that takes part.

    Raises:
        NotReady: it says that it cannot.
        SchemaMismatch: its newest row is of no time.
    """
    if standing.reason or standing.cutoff_ns is None or standing.newest is None:
        raise NotReady(standing.reason or "there is no row yet")
    candidate = Candidate(standing.host, standing.rows, _iso(standing.newest), standing.train_windows)
    return Member(node, standing.host, standing.cutoff_ns, standing.newest, standing.series, candidate)


def _iso(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns / NANOSECONDS, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError) as error:
        raise SchemaMismatch(f"its newest row is of no time: {time_ns}") from error
