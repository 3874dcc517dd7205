"""The end of a run: the last model goes to the nodes, or a better one of before, and the result is told."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from icosfl.aggregate import model
from icosfl.aggregate.checkpoint import CHECKPOINT_FILE, Checkpoint
from icosfl.aggregate.grid import BoundedGrid
from icosfl.aggregate.handout import Delivery, hand_out
from icosfl.aggregate.policy import Levels, Measured, choose
from icosfl.aggregate.progress import Absent
from icosfl.config import NodeConfig
from icosfl.errors import CheckpointError
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact, load_exactly, point_best, save
from icosfl.train.messages import Level
from icosfl.train.scores import summary
from icosfl.train.validation import fleet_skill, skill_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to.

    Args:
        artifact: The model that was handed out.
        round: Which round's it is; 0: the one that the run started from.
        why: Why it is not the last round's; "" when it is.
        levels: What the nodes measured of it, by host.
        delivery: Who has it.
        evaluation: The controller's scores of it, or why there are none.
    """

    artifact: Artifact
    round: int
    why: str
    levels: Levels
    delivery: Delivery
    evaluation: dict[str, Any]

    @property
    def skills(self) -> dict[str, float]:
        """Its validation skill by host."""
        return skills_of(self.levels)


def skills_of(levels: Levels) -> dict[str, float]:
    """The validation skill of each host that has one."""
    return {host: skill for host, each in sorted(levels.items()) if (skill := skill_of(each)) is not None}


def conclude(  # noqa: PLR0913, PLR0917 (the parts of a run)
    grid: BoundedGrid,
    node: NodeConfig,
    state: Checkpoint,
    last: Artifact,
    rows: Rows | None,
    keep: int,
    timeout: float,
) -> Outcome:
    """Hand the last round's model out; if the nodes find it worse than the best of before, that one follows.

    The controller's `best` and `latest` name what was handed out in the end.

    Args:
        grid: The way to the nodes.
        node: The controller's configuration.
        state: The run after its last round.
        last: The model after it.
        rows: The controller's, None without.
        keep: How many models each node keeps.
        timeout: Seconds to wait for each answer.

    Raises:
        CheckpointError: the disk does not take the model.
        Unavailable: the SuperLink stays away.
    """
    delivery = hand_out(grid, last, state.roster, keep, timeout)
    measured = Measured(state.round, state.file, state.digest, levels_of(delivery, last))
    chosen, why = choose(state.choice, measured)
    evaluation = {} if state.done is None else state.done.evaluation
    outcome = Outcome(last, state.round, why, measured.levels, delivery, evaluation)
    if chosen is not measured:
        outcome = _better(grid, node, outcome, chosen, state, rows, keep, timeout)
    save(outcome.artifact, node.models_dir)
    point_best(outcome.artifact, node.models_dir)
    return outcome


def _better(  # noqa: PLR0913, PLR0917 (as `conclude`)
    grid: BoundedGrid,
    node: NodeConfig,
    outcome: Outcome,
    chosen: Measured,
    state: Checkpoint,
    rows: Rows | None,
    keep: int,
    timeout: float,
) -> Outcome:
    """The outcome with a better model than the last round's, or with that where the better one cannot be read."""
    try:
        artifact = load_exactly(node.models_dir / chosen.file, chosen.digest, CHECKPOINT_FILE)
    except CheckpointError as error:
        logger.warning("the last round's model stays: %s", error)
        return replace(outcome, why=f"a better model cannot be read, {error.message}")
    delivery = hand_out(grid, artifact, state.roster, keep, timeout)
    delivery = replace(delivery, missing=_left_with(outcome, delivery))
    evaluation = model.evaluate(artifact, node, rows)
    return Outcome(
        artifact, chosen.round, outcome.why, levels_of(delivery, artifact) or chosen.levels, delivery, evaluation
    )


def _left_with(last: Outcome, better: Delivery) -> tuple[Absent, ...]:
    """Who misses the better model; of those that took the last round's it is said that they have that."""
    took = {receipt.host for receipt in last.delivery.received} - {receipt.host for receipt in better.received}
    told = f"has round {last.round}'s model, which was measured worse"
    return tuple(
        replace(absent, reason=f"{told}: {absent.reason}") if absent.host in took else absent
        for absent in better.missing
    )


def levels_of(delivery: Delivery, artifact: Artifact) -> dict[str, tuple[Level, ...]]:
    """What the nodes measured of a model that they got, by host; without those that measured nothing."""
    found = {receipt.host: model.known_levels(receipt.validation, artifact) for receipt in delivery.received}
    return {host: levels for host, levels in found.items() if levels}


def result_of(  # noqa: PLR0913, PLR0917 (a run in one value)
    outcome: Outcome, run: str, rounds: int, seconds: float, host: str, epsilon: float | None
) -> dict[str, Any]:
    """What a run leaves in its result file.

    Args:
        outcome: What it came to.
        run: Its number.
        rounds: How many were trained.
        seconds: How long it took.
        host: The controller.
        epsilon: Privacy spent; None without differential privacy.
    """
    delivery = outcome.delivery
    scores = {receipt.host: receipt.scores for receipt in delivery.received if receipt.scores is not None}
    return {
        "run": run,
        "digest": outcome.artifact.digest,
        "rounds": rounds,
        "round": outcome.round,
        "why": outcome.why,
        "skill": fleet_skill(outcome.levels),
        "skills": outcome.skills,
        "epsilon": epsilon,
        "trained_by": list(outcome.artifact.nodes),
        "seconds": seconds,
        "controller": {"host": host, **outcome.evaluation},
        "nodes": [
            {
                "host": receipt.host,
                "scores": None if receipt.scores is None else receipt.scores.to_dict(),
                "reason": receipt.reason,
            }
            for receipt in delivery.received
        ],
        "summary": [each.to_dict() for each in summary(scores)],
        "missing": [{"host": absent.host, "reason": absent.reason} for absent in delivery.missing],
    }
