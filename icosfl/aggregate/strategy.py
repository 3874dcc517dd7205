"""FedAvg that trains only nodes that can take part, and averages only what may be averaged."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from icosfl.aggregate.grid import NoReply, first_replies, pair
from icosfl.aggregate.guards import Expected, fault
from icosfl.aggregate.model import common_of
from icosfl.aggregate.progress import Absent
from icosfl.aggregate.roster import Member
from icosfl.errors import RunFailed, SchemaMismatch
from icosfl.train.messages import Refused, Task, Update
from icosfl.train.records import ARRAYS, EXAMPLES, VALUE, array_record, pack_arrays, unpack_update
from icosfl.train.shape import ModelShape

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundReport:
    """What a round came to.

    Args:
        round: Which, from 1.
        nodes: Hosts whose updates are in the average.
        left_out: Hosts whose updates are not, or not all that they sent, and why.
        series: Names of those that some of these nodes have.
        loss: Mean of the nodes' losses, weighted by examples.
        examples: Windows trained on, of all nodes in the average.
        started: Seconds of `time.monotonic()`.
    """

    round: int
    nodes: tuple[str, ...]
    left_out: tuple[Absent, ...]
    series: frozenset[str]
    loss: float
    examples: int
    started: float


class CheckedFedAvg(FedAvg):
    """FedAvg over a fixed roster; a round with too few valid updates ends the run.

    A member that is offline sits a round out; one that does not reply in time sits out the rest of the run, so that
    it costs a round's time once. Nodes are not evaluated each round: the model is measured on the controller's rows,
    and on every node's when it is handed out.

    Args:
        members: Nodes to train on.
        task: What they are asked; version, round and cutoff are filled in for each round and node.
        shape: Of the model.
        run: The run's id.
        min_nodes: Valid updates without which a round fails.
        timeout: Seconds that a round waits for replies.
    """

    def __init__(  # noqa: PLR0913 (the parts of a run)
        self, members: Sequence[Member], task: Task, *, shape: ModelShape, run: str, min_nodes: int, timeout: float
    ) -> None:
        super().__init__(
            min_train_nodes=min_nodes,
            min_available_nodes=min_nodes,
            weighted_by_key=EXAMPLES,
            arrayrecord_key=ARRAYS,
            configrecord_key=VALUE,
        )
        self._members = list(members)
        self._task = task
        self._shape = shape
        self._run = run
        self._min_nodes = min_nodes
        self._timeout = timeout
        self._asked: list[tuple[Member, Message]] = []
        self._offline: list[Absent] = []
        self._started = time.monotonic()
        self.report: RoundReport | None = None

    def summary(self) -> None:
        """Log who is trained on."""
        hosts = ", ".join(member.host for member in self._members)
        logger.info("training on %s; at least %s valid updates a round", hosts, self._min_nodes)

    def configure_train(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,  # noqa: ARG002 (Flower's signature)
        grid: Grid,
    ) -> Iterable[Message]:
        """One message for each member that is online.

        Raises:
            RunFailed: too few are.
        """
        self._started = time.monotonic()
        online = set(grid.get_node_ids())
        present = [member for member in self._members if member.node in online]
        self._offline = [Absent(member.host, "offline") for member in self._members if member.node not in online]
        self._require(server_round, len(present), self._offline, "nodes online")
        self._asked = [(member, self._message(server_round, arrays, member)) for member in present]
        return [message for _, message in self._asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the valid updates by their examples; of a node that replied several times, the first reply.

        Raises:
            RunFailed: there are too few.
        """
        received = list(replies)
        first = first_replies(received)
        answers = pair([message for _, message in self._asked], first, self._timeout)
        updates: dict[int, Update] = {}
        left_out = [*self._offline, *self._repeated(received)]
        for member, _ in self._asked:
            update = self._judge(server_round, member, answers[member.node])
            if isinstance(update, str):
                left_out.append(Absent(member.host, update))
            else:
                updates[member.node] = update
        for absent in left_out:
            logger.warning("round %s goes without %s", server_round, absent)
        self._require(server_round, len(updates), left_out, "valid updates")
        silent = {node for node, answer in answers.items() if isinstance(answer, NoReply) and answer.silent}
        self._members = [member for member in self._members if member.node not in silent]
        members = [member for member, _ in self._asked if member.node in updates]
        self.report = self._told(server_round, members, list(updates.values()), left_out)
        valid = {message.metadata.message_id for member, message in self._asked if member.node in updates}
        arrays, metrics = super().aggregate_train(
            server_round, [reply for reply in first if reply.metadata.reply_to_message_id in valid]
        )
        return self._with_common(arrays, members, list(updates.values())), metrics

    def configure_evaluate(
        self,
        server_round: int,  # noqa: ARG002 (Flower's signature)
        arrays: ArrayRecord,  # noqa: ARG002
        config: ConfigRecord,  # noqa: ARG002
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """None: see the class."""
        return []

    def aggregate_evaluate(
        self,
        server_round: int,  # noqa: ARG002 (Flower's signature)
        replies: Iterable[Message],  # noqa: ARG002
    ) -> MetricRecord | None:
        """None: see the class."""
        return None

    def _with_common(
        self, arrays: ArrayRecord | None, members: Sequence[Member], updates: Sequence[Update]
    ) -> ArrayRecord | None:
        """The average, with the common part of each series averaged over the nodes that have it."""
        if arrays is None:
            return None
        names = [series.name for series in self._task.question.series]
        has = np.array([[name in member.series for name in names] for member in members])
        first, *rest = arrays.to_numpy_ndarrays()
        parts = [update.arrays[0] for update in updates]
        return array_record([common_of(first, parts, [update.examples for update in updates], has), *rest])

    def _message(self, server_round: int, arrays: ArrayRecord, member: Member) -> Message:
        version = self._version(server_round)
        task = replace(self._task, version=version, round=server_round, cutoff_ns=member.cutoff_ns)
        return Message(pack_arrays(task, arrays), member.node, MessageType.TRAIN, group_id=str(server_round))

    def _version(self, server_round: int) -> str:
        return f"{self._run}/{server_round}"

    def _repeated(self, replies: Sequence[Message]) -> list[Absent]:
        """The hosts that replied more than once to this round's message."""
        times = Counter(reply.metadata.reply_to_message_id for reply in replies)
        return [
            Absent(member.host, f"replied {times[message.metadata.message_id]} times, only the first reply counts")
            for member, message in self._asked
            if times[message.metadata.message_id] > 1
        ]

    def _judge(self, server_round: int, member: Member, answer: RecordDict | NoReply) -> Update | str:
        if isinstance(answer, NoReply):
            return answer.reason
        try:
            update = unpack_update(answer)
        except SchemaMismatch as error:
            return error.message
        if isinstance(update, Refused):
            return update.reason
        expected = Expected(member.host, self._version(server_round), self._shape, member.candidate.windows)
        return fault(update, expected) or update

    def _require(self, server_round: int, there: int, left_out: Sequence[Absent], what: str) -> None:
        if there < self._min_nodes:
            why = "; ".join(str(absent) for absent in left_out) or "nodes did not reply in an earlier round"
            raise RunFailed(
                f"round {server_round}: {there} {what}, at least {self._min_nodes} are needed: {why}",
                cure="look at `icosfl status` and the log of the nodes' executors, or lower min-nodes",
            )

    def _told(
        self, server_round: int, members: Sequence[Member], updates: Sequence[Update], left_out: Sequence[Absent]
    ) -> RoundReport:
        examples = sum(update.examples for update in updates)
        loss = sum(update.trained.loss * update.examples for update in updates) / examples
        hosts = tuple(update.trained.host for update in updates)
        series = frozenset(name for member in members for name in member.series)
        return RoundReport(server_round, hosts, tuple(left_out), series, loss, examples, self._started)
