"""What a round makes of its valid updates: Flower's own strategies, driven on values instead of messages.

All rules work on *blocks*: the numbers of a model that the same nodes taught. A node that lacks a series sends its
numbers back as they came, and they say nothing. FedAvg, FedProx and FedAdam average each series' linear part over the
nodes that have it, and the network over all. The rules that outvote bad nodes (median, trimmed mean, Krum) must not let
the nodes that lack a series outvote those that have it: median and trimmed mean go by series in the network too. Krum
takes the network whole, from one node.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    DifferentialPrivacyServerSideFixedClipping,
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    Krum,
    Strategy,
)
from numpy.typing import NDArray

from icosfl.aggregate import guards
from icosfl.aggregate.guards import Contribution
from icosfl.aggregate.privacy import epsilon_of
from icosfl.aggregate.progress import Absent
from icosfl.aggregate.settings import FEDADAM, FEDMEDIAN, FEDPROX, FEDTRIMMEDAVG, KRUM, CombineSettings
from icosfl.errors import CheckpointError, ConfigError, RunFailed
from icosfl.train.messages import Arrays
from icosfl.train.records import ARRAYS, EXAMPLES, METRICS, array_record
from icosfl.train.settings import CURE
from icosfl.train.shape import QUANTILES, Array, ModelShape

__all__ = ["Combined", "Combiner", "Contribution", "least_updates"]

logger = logging.getLogger(__name__)

# Rules that hold against bad nodes. None is a mean, and the noise of differential privacy is made for means.
ROBUST = (FEDMEDIAN, FEDTRIMMEDAVG, KRUM)

# Of two updates neither is the odd one out.
LEAST_ROBUST = 3

# How far an update that did not move at all is moved, in clipping norms: Flower's clipping divides by the distance.
NUDGE = 1e-6

# What belongs to no series.
_NONE = -1

# The keys of `Combiner.state`, and Flower's of the only array of a synthetic reply.
_SPENT = "privacy.rounds"
_FIRST_MOMENT = "adam.m"
_SECOND_MOMENT = "adam.v"
_KEY = "0"

_Numbers = NDArray[Any]
_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """What a round's updates came to.

    Args:
        arrays: Of the model after the round, float32, in the order of `ModelShape.arrays`.
        used: Hosts whose updates are in it, in the order of their names.
        notes: Whose updates are not in it as they came, and why: unsound, clipped, rejected or not selected.
        epsilon: What the rounds up to this one cost in privacy at the settings' δ; None: nothing is promised.
    """

    arrays: list[Array]
    used: tuple[str, ...]
    notes: tuple[Absent, ...]
    epsilon: float | None


class Combiner:
    """Combines the updates of a run's rounds, one round after the other.

    Args:
        settings: Which rule, and its numbers.
        shape: Of the model.

    Raises:
        ConfigError: the rule cannot be had together with differential privacy.
    """

    def __init__(self, settings: CombineSettings, shape: ModelShape) -> None:
        self._settings = settings
        self._shape = shape
        self._private = settings.noise_multiplier > 0
        self._robust = settings.strategy in ROBUST
        if self._private and self._robust:
            raise ConfigError(
                f"noise-multiplier: {settings.strategy} is no mean, one node can move its outcome further than the "
                "noise of differential privacy hides",
                cure=f"set noise-multiplier to 0, or strategy to fedavg, fedprox or fedadam; {CURE}",
            )
        self._rule = _rule(settings)
        self._common = math.prod(shape.arrays()[0][1])
        self._rows, self._columns = _series_of(shape)
        self._spent = 0

    @property
    def proximal_mu(self) -> float:
        """How strongly FedProx holds the nodes to the round's model; 0 under another strategy."""
        return self._settings.proximal_mu if self._settings.strategy == FEDPROX else 0.0

    @property
    def least(self) -> int:
        """How few updates it can combine: of fewer, a robust rule would outvote no bad one."""
        return least_updates(self._settings)

    def combine(self, server_round: int, before: Arrays, contributions: Sequence[Contribution]) -> Combined:
        """The model after a round; the order of the contributions changes nothing.

        Args:
            server_round: Which of the run, from 1.
            before: The arrays that the round began with.
            contributions: The round's valid updates, one of a host.

        Raises:
            RunFailed: too few updates are left, or what comes of them is no sound model.
        """
        kept, notes = self._kept(server_round, before, sorted(contributions, key=lambda one: one.host))
        old = _flat(before)
        if self._private:
            new, used = self._noised(server_round, old, kept), [one.host for one in kept]
        else:
            new, used = self._voted(server_round, old, kept)
        if self._robust or self._private:
            new[: self._common] = self._levelled(new[: self._common])
        if isinstance(self._rule, FedAdam):
            self._rule.current_arrays = {_KEY: old[self._common :]}
            new[self._common :] = _combined(self._rule, server_round, [new[self._common :]], [1])
        arrays = self._arrays(new)
        reason = guards.unfit(self._shape, arrays)
        if reason is not None:
            raise RunFailed(
                f"round {server_round}: {self._settings.strategy} made no sound model of the updates: {reason}",
                cure="lower noise-multiplier, clipping-norm or server-learning-rate in the run configuration",
            )
        passed = [Absent(one.host, "krum chose another update") for one in kept if one.host not in used]
        self._spent += 1
        return Combined(arrays, tuple(used), (*notes, *passed), self._epsilon())

    def state(self) -> dict[str, _Numbers]:
        """What the rounds so far left behind, for a run that is interrupted and goes on."""
        state: dict[str, _Numbers] = {_SPENT: np.array(self._spent)}
        if isinstance(self._rule, FedAdam) and self._rule.m_t and self._rule.v_t:
            state |= {_FIRST_MOMENT: self._rule.m_t[_KEY], _SECOND_MOMENT: self._rule.v_t[_KEY]}
        return state

    def restore(self, state: Mapping[str, _Numbers]) -> None:
        """Go on from what `state` told.

        Raises:
            CheckpointError: another strategy told it, or one for another model.
        """
        spent = np.asarray(state.get(_SPENT, _NONE))
        moments = {key: np.asarray(value) for key, value in state.items() if key != _SPENT}
        adam = self._rule if isinstance(self._rule, FedAdam) else None
        wanted = {_FIRST_MOMENT, _SECOND_MOMENT} if adam is not None and moments else set[str]()
        counted = spent.shape == () and np.issubdtype(spent.dtype, np.integer) and int(spent) >= 0
        network = (self._shape.parameters - self._common,)
        if not counted or set(moments) != wanted or any(moment.shape != network for moment in moments.values()):
            raise CheckpointError(
                f"what the run's checkpoint holds of its strategy is not of {self._settings.strategy} for this model",
                cure="start a fresh run instead of resuming this one",
            )
        self._spent = int(spent)
        if adam is not None and moments:
            adam.m_t, adam.v_t = {_KEY: moments[_FIRST_MOMENT]}, {_KEY: moments[_SECOND_MOMENT]}

    def _kept(
        self, server_round: int, before: Arrays, ordered: Sequence[Contribution]
    ) -> tuple[list[Contribution], list[Absent]]:
        """The updates that may count, and what is said of the others."""
        faults = {one.host: guards.unfit(self._shape, one.arrays) for one in ordered}
        notes = [Absent(host, fault) for host, fault in faults.items() if fault is not None]
        kept = [one for one in ordered if faults[one.host] is None]
        # A bound that depends on the others' updates would let one node change what another's counts for: differential
        # privacy has a fixed one instead.
        if not self._private:
            kept, bounded = guards.bound(before, kept, self._settings)
            kept, capped = guards.counted(kept, self._settings)
            notes += [*bounded, *capped]
        if len(kept) < self.least:
            told = f": {'; '.join(map(str, notes))}" if notes else ""
            raise RunFailed(
                f"round {server_round}: {len(kept)} updates are left, {self._settings.strategy} needs "
                f"{self.least}{told}",
                cure="let more nodes take part, or set strategy to fedavg in the run configuration",
            )
        return kept, notes

    def _voted(self, server_round: int, old: _Numbers, kept: Sequence[Contribution]) -> tuple[_Numbers, list[str]]:
        """The numbers of the new model, shape [parameters], and whose updates are in them.

        Each block goes by the rule, or by the median where too few nodes taught it for the rule; what no node taught,
        or too few for a vote, stays as it was.
        """
        if self._robust and len(kept) < _enough(self._settings):
            name = self._settings.strategy
            logger.warning("round %s: %s updates are too few for %s, the median counts", server_round, len(kept), name)
        new = old.copy()
        used: set[str] = set()
        values = [_flat(one.arrays) for one in kept]
        for where, those in self._blocks(np.array([one.has for one in kept])):
            rule = self._rule_of(len(those))
            if rule is None:
                continue
            part = [values[each][where] for each in those]
            if isinstance(rule, Krum):
                chosen = _nearest(rule, server_round, old[where], part)
                new[where] = part[chosen]
                used.add(kept[those[chosen]].host)
            else:
                new[where] = _combined(rule, server_round, part, [kept[each].examples for each in those])
                used.update(kept[each].host for each in those)
        return new, sorted(used)

    def _blocks(self, has: _Mask) -> list[tuple[_Mask, list[int]]]:
        """Which numbers, shape [parameters], were taught by which of the nodes; numbers that none taught are in none.

        Args:
            has: Which node has which series, shape [nodes, k].
        """
        taught = np.column_stack([has, np.ones(len(has), np.bool_)])  # the last column is `_NONE`'s
        rows, columns = self._rows.copy(), self._columns
        if self._settings.strategy not in {FEDMEDIAN, FEDTRIMMEDAVG}:
            rows[self._common :] = _NONE
            columns = np.full_like(columns, _NONE)
        blocks: dict[tuple[int, ...], _Mask] = {}
        for row, column in sorted(set(zip(rows.tolist(), columns.tolist(), strict=True))):
            those = tuple(np.flatnonzero(taught[:, row] & taught[:, column]).tolist())
            where = (rows == row) & (columns == column)
            if those:
                blocks[those] = blocks.get(those, np.zeros_like(where)) | where
        return [(where, list(those)) for those, where in blocks.items()]

    def _rule_of(self, updates: int) -> Strategy | None:
        """The rule for a block of so many updates; None: they are too few for any."""
        if not self._robust:
            return _mean()
        if updates < self.least:
            return None
        return self._rule if updates >= _enough(self._settings) else FedMedian(weighted_by_key=EXAMPLES)

    def _noised(self, server_round: int, old: _Numbers, kept: Sequence[Contribution]) -> _Numbers:
        """The mean of the updates, each clipped as a whole and counted once, with noise on every number."""
        rule = DifferentialPrivacyServerSideFixedClipping(
            _mean(), self._settings.noise_multiplier, self._settings.clipping_norm, len(kept)
        )
        rule.current_arrays = array_record([old.astype(np.float64)])
        new = _combined(rule, server_round, [self._own(old, one) for one in kept], [1] * len(kept))
        # Flower divides by the number of all nodes; of a series that some lack, those that have it are the mean.
        for series, count in enumerate(np.sum([one.has for one in kept], axis=0).tolist()):
            where = np.flatnonzero(self._rows[: self._common] == series)
            new[where] = old[where] + (new[where] - old[where]) * (len(kept) / count if count else 0.0)
        return new

    def _own(self, old: _Numbers, one: Contribution) -> _Numbers:
        """What a node taught, in double precision; of series that it lacks, the linear part is the model's."""
        values = _flat(one.arrays).astype(np.float64)
        lacks = ~np.append(one.has, True)[self._rows[: self._common]]
        values[: self._common][lacks] = old[: self._common][lacks]
        if np.array_equal(values, old):
            values[-1] += NUDGE * self._settings.clipping_norm
        return values

    def _levelled(self, linear: _Numbers) -> _Numbers:
        """The linear part with weights that sum to 1 again, by the least change."""
        weights = linear.reshape(self._shape.arrays()[0][1]).astype(np.float64)
        weights += (1 - weights.sum(axis=1, keepdims=True)) / self._shape.window
        return weights.ravel()

    def _arrays(self, numbers: _Numbers) -> list[Array]:
        """The numbers as a model's arrays."""
        shapes = [dimensions for _, dimensions in self._shape.arrays()]
        ends = np.cumsum([math.prod(dimensions) for dimensions in shapes])[:-1]
        parts = np.split(numbers.astype(np.float32), ends)
        return [part.reshape(dimensions) for part, dimensions in zip(parts, shapes, strict=True)]

    def _epsilon(self) -> float | None:
        if not self._private:
            return None
        return epsilon_of(self._settings.noise_multiplier, self._spent, self._settings.privacy_delta)


def least_updates(settings: CombineSettings) -> int:
    """How few updates a strategy combines: a robust one so many that a median of them outvotes the bad ones."""
    if settings.strategy not in ROBUST:
        return 1
    return max(LEAST_ROBUST, 2 * settings.malicious_nodes + 1) if settings.strategy == KRUM else LEAST_ROBUST


def _enough(settings: CombineSettings) -> int:
    """Of how many updates a robust rule does better than the median.

    Krum holds against f bad nodes of at least 2f + 3. A trimmed mean trims none of so few that its share is less than
    one: it is no more than the mean then.
    """
    if settings.strategy == KRUM:
        return 2 * settings.malicious_nodes + 3
    if settings.strategy == FEDTRIMMEDAVG:
        nodes = math.ceil(1 / settings.trimmed_share)
        return nodes if int(settings.trimmed_share * nodes) else nodes + 1
    return LEAST_ROBUST


def _rule(settings: CombineSettings) -> Strategy:
    """Flower's class for a strategy."""
    rules: dict[str, Strategy] = {
        FEDPROX: FedProx(weighted_by_key=EXAMPLES, proximal_mu=settings.proximal_mu),
        FEDADAM: FedAdam(weighted_by_key=EXAMPLES, eta=settings.server_learning_rate),
        FEDMEDIAN: FedMedian(weighted_by_key=EXAMPLES),
        FEDTRIMMEDAVG: FedTrimmedAvg(weighted_by_key=EXAMPLES, beta=settings.trimmed_share),
        KRUM: Krum(weighted_by_key=EXAMPLES, num_malicious_nodes=settings.malicious_nodes),
    }
    return rules.get(settings.strategy, _mean())


def _mean() -> FedAvg:
    return FedAvg(weighted_by_key=EXAMPLES)


def _combined(rule: Strategy, server_round: int, updates: Sequence[_Numbers], examples: Sequence[int]) -> _Numbers:
    """What a strategy of Flower makes of updates of one array, shape [n]; they stay as they are.

    Raises:
        RunFailed: it makes nothing of them.
    """
    replies = [
        Message(
            RecordDict({ARRAYS: array_record([update]), METRICS: MetricRecord({EXAMPLES: count})}),
            dst_node_id=1,
            message_type=MessageType.TRAIN,
        )
        for update, count in zip(updates, examples, strict=True)
    ]
    arrays, _ = rule.aggregate_train(server_round, replies)
    if arrays is None:
        raise RunFailed(f"round {server_round}: {type(rule).__name__} made nothing of {len(replies)} updates")
    return np.asarray(arrays.to_numpy_ndarrays()[0])


def _nearest(rule: Krum, server_round: int, old: _Numbers, updates: Sequence[_Numbers]) -> int:
    """Which update Krum selects.

    It tells distances as differences of squares. In single precision those of whole models leave nothing over; those
    of what the round changed, in double precision, do.
    """
    moves = [update.astype(np.float64) - old for update in updates]
    selected = _combined(rule, server_round, moves, [1] * len(moves))
    return next(number for number, move in enumerate(moves) if np.array_equal(move, selected))


def _flat(arrays: Sequence[_Numbers]) -> _Numbers:
    """A model's arrays as one row of numbers, shape [parameters]."""
    return np.concatenate([np.asarray(array).ravel() for array in arrays])


def _series_of(shape: ModelShape) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which series each number of a model forecasts, and which it reads, shapes [parameters]; `_NONE`: none or all.

    A node that lacks either series leaves the number as it came.
    """
    told = np.tile(np.arange(shape.series), shape.horizons)
    rows, columns = [], []
    for name, dimensions in shape.arrays():
        row = column = np.full(dimensions, _NONE)
        if name == shape.arrays()[0][0]:
            row = np.broadcast_to(np.arange(shape.series)[:, None, None], dimensions)
        elif name == "network.weight_ih_l0":
            column = np.broadcast_to(np.tile(np.arange(shape.series), shape.read), dimensions)
        elif name == "head.weight":
            none = np.full(dimensions[1] - shape.hidden - len(told) - shape.series, _NONE)
            seen = np.concatenate([np.full(shape.hidden, _NONE), told, np.arange(shape.series), none])
            row = np.broadcast_to(np.repeat(told, len(QUANTILES))[:, None], dimensions)
            column = np.broadcast_to(seen, dimensions)
        elif name == "head.bias":
            row = np.repeat(told, len(QUANTILES))
        rows.append(row)
        columns.append(column)
    return _flat(rows), _flat(columns)
