"""A run that trains nothing: every node says how good the fleet's model still is on its newest rows."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flwr.app import Message, MessageType, RecordDict

from icosfl.aggregate.grid import BoundedGrid, NoReply, pair
from icosfl.aggregate.model import known_levels
from icosfl.aggregate.names import may_be, read_names
from icosfl.aggregate.progress import RESULT_FILE, Absent, Finished, ProgressLog, utc_now
from icosfl.aggregate.settings import RunSettings
from icosfl.config import NodeConfig
from icosfl.errors import ConfigError, RunFailed, SchemaMismatch
from icosfl.train.artifact import Artifact, load_best, load_latest
from icosfl.train.drift import least_seconds
from icosfl.train.files import write_atomically
from icosfl.train.messages import CHECK, Check, Checked, Level, Refused
from icosfl.train.records import pack, unpack_reply
from icosfl.train.settings import CURE
from icosfl.train.validation import fleet_skill, skill_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the nodes' answers come to.

    Args:
        skill: Mean over the nodes of how much smaller the model's error is than persistence's on their newest rows, at
            most 1; None: no verdict.
        before: The same nodes' when the model was handed out, on the levels that they measured both times; None: none.
        reason: Why there is no verdict; "" when there is.
    """

    skill: float | None
    before: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How good the fleet's model is now.

    Args:
        run: The run's id.
        digest: Of the model.
        made: When it was made (ISO, UTC).
        verdict: What the answers come to.
        nodes: What each node measured, by host.
        missing: Those that measured nothing, and why, by host.
        seconds: How long the check took.
    """

    run: str
    digest: str
    made: str
    verdict: Verdict
    nodes: tuple[Checked, ...]
    missing: tuple[Absent, ...]
    seconds: float


def check(grid: BoundedGrid, run: str, node: NodeConfig, settings: RunSettings) -> CheckResult:
    """Ask all nodes that are online, and write the result into the run's record; whoever calls it has opened that.

    Nothing is trained, and no model is replaced: it can be done at any time.

    Args:
        grid: The way to the nodes.
        run: The run's id.
        node: The controller's configuration.
        settings: The run's.

    Raises:
        RunFailed: there is no model, or the record cannot be written.
        ConfigError: no rows within the window would be enough for a verdict.
        CheckpointError: the model is damaged.
        Unavailable: the SuperLink stays away.
    """
    started = time.monotonic()
    artifact = _model(node)
    _require_window(artifact, settings.check_window_seconds)
    nodes = grid.wait_for_nodes(settings.train.min_nodes, settings.query_timeout_seconds)
    asked = Check(artifact.digest, settings.check_window_seconds)
    messages = [Message(pack(asked), number, f"{MessageType.QUERY}.{CHECK}", group_id=CHECK) for number in nodes]
    timeout = settings.policy.timeout_seconds
    answers = pair(messages, grid.send_and_receive(messages, timeout=timeout), timeout)
    measured, missing = sort(answers, artifact, read_names(node.runs_dir))
    for absent in missing:
        logger.warning("the check goes without %s", absent)
    result = CheckResult(
        run=run,
        digest=artifact.digest,
        made=artifact.created,
        verdict=judge(measured, missing, settings.policy.quorum),
        nodes=measured,
        missing=missing,
        seconds=time.monotonic() - started,
    )
    write_atomically(node.runs_dir / run / RESULT_FILE, json.dumps(told(result), indent=1, allow_nan=False).encode())
    ProgressLog(node.runs_dir / run).append(_finished(result, artifact.round))
    return result


def sort(
    answers: Mapping[int, RecordDict | NoReply], artifact: Artifact, names: Mapping[int, str]
) -> tuple[tuple[Checked, ...], tuple[Absent, ...]]:
    """Sort the nodes' answers into what was measured and why it was not, both by host; a host counts once.

    Args:
        answers: By the nodes' numbers.
        artifact: The model that they were asked about.
        names: The hosts of the fleet, as far as they are known, by their number; those without an answer are offline.
    """
    measured: dict[str, Checked] = {}
    missing = [Absent(host, "offline") for number, host in names.items() if number not in answers]
    for number, answer in answers.items():
        found = _answer(answer, artifact, names.get(number, f"SuperNode {number}"))
        if number in names and not may_be(names[number], found.host):
            missing.append(Absent(names[number], f"says that it is {found.host}"))
        elif isinstance(found, Absent):
            missing.append(found)
        elif found.host in measured:
            missing.append(Absent(found.host, f"answers from a second SuperNode, {number}"))
        else:
            measured[found.host] = found
    by_host = tuple(measured[host] for host in sorted(measured))
    return by_host, tuple(sorted(missing, key=lambda absent: absent.host))


def judge(measured: Sequence[Checked], missing: Sequence[Absent], quorum: float) -> Verdict:
    """What the answers come to: a verdict, if at least this share of the machines has one that measured.

    Of several SuperNodes of a machine (worker-1/1, worker-1/2) one has its newest rows.
    """
    able = {each.host: each for each in measured if skill_of(each.levels) is not None}
    machines = {_machine(host) for host in able}
    asked = {_machine(host) for host in [each.host for each in measured] + [absent.host for absent in missing]}
    needed = max(math.ceil(quorum * len(asked)), 1)
    if len(machines) < needed:
        still = [Absent(each.host, "nothing moved there") for each in measured if each.host not in able]
        why = "; ".join(str(absent) for absent in (*still, *missing)) or "no node is online"
        return Verdict(None, None, f"{len(machines)} of at least {needed} nodes could measure the model: {why}")
    now = {host: each.levels for host, each in able.items()}
    then = {host: _at(each.before, each.levels) for host, each in able.items()}
    return Verdict(fleet_skill(now), fleet_skill(then), "")


def told(result: CheckResult) -> dict[str, object]:
    """The result as plain JSON."""
    verdict = result.verdict
    nodes = [
        dataclasses.asdict(each) | {"skill": skill_of(each.levels), "skill_before": skill_of(each.before)}
        for each in result.nodes
    ]
    return {
        "run": result.run,
        "purpose": CHECK,
        "digest": result.digest,
        "made": result.made,
        "skill": verdict.skill,
        "skill_before": verdict.before,
        "reason": verdict.reason,
        "nodes": nodes,
        "missing": [dataclasses.asdict(absent) for absent in result.missing],
        "seconds": result.seconds,
    }


def _model(node: NodeConfig) -> Artifact:
    """The model that the nodes should have."""
    artifact = load_best(node.models_dir) or load_latest(node.models_dir)
    if artifact is None:
        raise RunFailed(f"there is no model on {node.host} that could be checked", cure="train one: icosfl train")
    return artifact


def _require_window(artifact: Artifact, seconds: float) -> None:
    least = least_seconds(artifact.horizons, artifact.period_seconds)
    if seconds < least:
        farthest = artifact.horizons[-1] * artifact.period_seconds
        raise ConfigError(
            f"check-window: {seconds:g} s is too short for a verdict on a model that looks {farthest:g} s ahead, which "
            f"takes at least {least:g} s",
            cure=CURE,
        )


def _answer(answer: RecordDict | NoReply, artifact: Artifact, name: str) -> Checked | Absent:
    if isinstance(answer, NoReply):
        return Absent(name, answer.reason)
    try:
        found = unpack_reply(answer, Checked)
    except SchemaMismatch as error:
        return Absent(name, error.message)
    if isinstance(found, Refused):
        return Absent(found.host or name, found.reason)
    if found.digest != artifact.digest:
        return Absent(found.host, f"measured model {found.digest[:12]} instead of {artifact.digest[:12]}")
    return replace(found, levels=known_levels(found.levels, artifact), before=known_levels(found.before, artifact))


def _at(levels: Sequence[Level], others: Sequence[Level]) -> tuple[Level, ...]:
    """Those of the levels whose series and horizon the others have."""
    places = {(level.series, level.horizon_steps) for level in others}
    return tuple(level for level in levels if (level.series, level.horizon_steps) in places)


def _machine(host: str) -> str:
    return host.partition("/")[0]


def _finished(result: CheckResult, of_round: int) -> Finished:
    verdict = result.verdict
    then = "" if verdict.before is None else f", {verdict.before:.3f} when it was handed out"
    found = f"no verdict: {verdict.reason}" if verdict.skill is None else f"skill {verdict.skill:.3f}{then}"
    hosts = tuple(each.host for each in result.nodes)
    why = f"checked: {found}"
    return Finished(
        utc_now(), 0, hosts, result.missing, result.digest, result.seconds, of_round, verdict.skill, None, why
    )
