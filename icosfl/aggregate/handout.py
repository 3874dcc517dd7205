"""The end of a run: every node gets the model, and says how good it is on its own rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from flwr.app import Message, MessageType, RecordDict

from icosfl.aggregate.grid import BoundedGrid, NoReply, pair
from icosfl.aggregate.names import may_be
from icosfl.aggregate.progress import Absent
from icosfl.aggregate.roster import Member, Roster
from icosfl.errors import SchemaMismatch
from icosfl.train.artifact import Artifact, to_bytes
from icosfl.train.messages import Handout, Received, Refused
from icosfl.train.records import pack_model, unpack_reply
from icosfl.train.scores import Scores

# So long those are waited for, beyond the others, that did not answer when the run began: by default as long as then.
SILENT_SECONDS = 45.0

# Of a name that a node sends, as much is repeated.
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Delivery:
    """Who has the model, each host once, and who has not and why; both by host."""

    received: tuple[Received, ...]
    missing: tuple[Absent, ...]


def hand_out(grid: BoundedGrid, artifact: Artifact, roster: Roster, keep: int, timeout: float) -> Delivery:
    """Send the model to every node that is online, also to those that could not train.

    A node that did not even answer at the run's beginning may be gone though it is listed: it is not waited for much
    longer than the others.

    Args:
        grid: The way to the nodes.
        artifact: The model.
        roster: Who takes part.
        keep: How many models each node keeps.
        timeout: Seconds to wait for answers; at most `SILENT_SECONDS` more for those that were silent.

    Raises:
        Unavailable: the SuperLink stays away.
    """
    members = {member.node: member for member in roster.members}
    model = to_bytes(artifact)
    online = set(grid.get_node_ids())
    sure, doubtful = sorted(online - roster.silent), sorted(online & roster.silent)
    messages = [
        Message(pack_model(_handout(members.get(node), keep), model), node, MessageType.EVALUATE, group_id="hand-out")
        for node in (*sure, *doubtful)
    ]
    sent = list(grid.push_messages(messages)) if messages else []
    replies = grid.replies(sent[: len(sure)], timeout)
    replies += grid.replies(sent[len(sure) :], min(timeout, SILENT_SECONDS))
    answers = pair(messages, replies, timeout)
    for node in doubtful:
        answer = answers[node]
        if isinstance(answer, NoReply) and answer.silent:
            answers[node] = NoReply("no reply, nor was there one when the run began", silent=True)
    offline = [Absent(member.host, "offline") for member in roster.members if member.node not in answers]
    return receipts(answers, artifact, roster.names, offline)


def _handout(member: Member | None, keep: int) -> Handout:
    return Handout(None, None, keep) if member is None else Handout(member.cutoff_ns, member.until_ns, keep)


def receipts(
    answers: Mapping[int, RecordDict | NoReply], artifact: Artifact, names: Mapping[int, str], offline: list[Absent]
) -> Delivery:
    """Sort the nodes' answers; a host counts once, however many SuperNodes answer for it.

    Args:
        answers: By the nodes' numbers.
        artifact: The model.
        names: The hosts that are known by their number; a node that says otherwise takes nobody's place.
        offline: Those that were not asked.
    """
    received: dict[str, Received] = {}
    missing = list(offline)
    for node, answer in answers.items():
        judged = _judge(answer, artifact, names.get(node, f"SuperNode {node}"))
        if node in names and not may_be(names[node], judged.host):
            missing.append(Absent(names[node], f"says that it is {judged.host[:_LONGEST]}"))
        elif isinstance(judged, Absent):
            missing.append(judged)
        elif judged.host in received:
            missing.append(Absent(judged.host, f"answers from a second SuperNode, {node}"))
        else:
            received[judged.host] = judged
    return Delivery(
        tuple(received[host] for host in sorted(received)),
        tuple(sorted(missing, key=lambda absent: absent.host)),
    )


def _judge(answer: RecordDict | NoReply, artifact: Artifact, name: str) -> Received | Absent:
    if isinstance(answer, NoReply):
        return Absent(name, answer.reason)
    try:
        receipt = unpack_reply(answer, Received)
    except SchemaMismatch as error:
        return Absent(name, error.message)
    if isinstance(receipt, Refused):
        return Absent(receipt.host or name, receipt.reason)
    if receipt.digest != artifact.digest:
        return Absent(receipt.host, f"keeps model {receipt.digest[:12]} instead of {artifact.digest[:12]}")
    wrong = _foreign(receipt.scores, artifact) if receipt.scores is not None else ""
    return replace(receipt, scores=None, reason=wrong) if wrong else receipt


def _foreign(scores: Scores, artifact: Artifact) -> str:
    """Why scores are not of this model, so that they have no part in the fleet's; "" when they are."""
    units = {series.name: series.unit for series in artifact.schema.series}
    seen: set[tuple[str, int]] = set()
    for score in scores.scores:
        name = f"{score.series[:_LONGEST]!r} in {score.unit[:_LONGEST]!r} {score.horizon_steps} steps ahead"
        seconds = score.horizon_steps * artifact.period_seconds
        known = units.get(score.series) == score.unit and score.horizon_steps in artifact.horizons
        if not known or not math.isclose(score.horizon_seconds, seconds, rel_tol=1e-6):
            return f"sends scores of {name}, {score.horizon_seconds:g} s, which the model does not forecast"
        if (score.series, score.horizon_steps) in seen:
            return f"sends two scores of {name}"
        seen.add((score.series, score.horizon_steps))
    return ""
