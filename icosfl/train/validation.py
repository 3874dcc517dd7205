"""How good a model is on nodes' validation rows, and what follows for a fleet: the skill that models are chosen by.

A node measures arrays at one level for each series and horizon, above its own linear part and beside persistence. What
other nodes claim may be anything: a skill is bounded, and no claim of one node moves the mean over n nodes by more than
2 / n. Importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from icosfl.errors import SchemaMismatch
from icosfl.process.windows import Windows
from icosfl.schema import Schema, Values
from icosfl.train.messages import Level
from icosfl.train.scores import LARGEST_ERROR, distances, older_half, root_mean_square, sound
from icosfl.train.shape import QUANTILES

Levels = tuple[Level, ...]

# A model whose error is more than twice persistence's counts as this: worse is not told apart.
LEAST_SKILL = -1.0

_MEDIAN = len(QUANTILES) // 2


def validation_part(held_out: Windows, until_ns: int | None) -> NDArray[np.bool_]:
    """Which windows [n] models are chosen on: the older half of those whose targets were there by `until_ns`.

    The newer half, and all that came later, has no part in any choice (`icosfl.train.scores`).

    Args:
        held_out: Windows whose targets lie after the cutoff.
        until_ns: Nanoseconds since the epoch; None: all of them.
    """
    there = np.ones(len(held_out), np.bool_)
    if until_ns is not None:
        farthest = held_out.last_times + held_out.horizons[-1] * held_out.period_ns
        there = np.asarray(farthest <= until_ns + held_out.period_ns // 2, np.bool_)
    there[there] = older_half(held_out.last_times[there])
    return there


def levels(schema: Schema, windows: Windows, quantiles: Values) -> Levels:
    """How good forecasts of windows are, beside persistence on the same points; no level where there is no point.

    Args:
        schema: Of the windows' series.
        windows: With their targets, in real units.
        quantiles: The forecasts, shape [n, h, k, 3]; NaN where there is none.

    Raises:
        SchemaMismatch: the parts are of different shapes.
    """
    if quantiles.shape != (*windows.targets.shape, len(QUANTILES)) or len(schema) != windows.width:
        raise SchemaMismatch(
            f"forecasts of shape {quantiles.shape} are not of targets of shape {windows.targets.shape} and "
            f"{len(schema)} series"
        )
    found = []
    for column, series in enumerate(schema.series):
        for row, horizon in enumerate(windows.horizons):
            targets, forecasts = windows.targets[:, row, column], quantiles[:, row, column]
            usable = sound(targets) & sound(forecasts).all(axis=1)
            if not bool(usable.any()):
                continue
            targets, last = targets[usable], windows.inputs[usable, -1, column]
            rmse = root_mean_square(distances(targets, forecasts[usable, _MEDIAN]))
            persistence = root_mean_square(distances(targets, last))
            found.append(Level(series.name, horizon, len(targets), rmse, persistence))
    return tuple(found)


def skill_of(measured: Iterable[Level]) -> float | None:
    """Mean over the levels of 1 - RMSE / persistence's RMSE, each from -1 (`LEAST_SKILL`) to 1.

    Levels at which persistence makes no error to speak of are left out; None where no level is left. A series and
    horizon that is told twice counts once.
    """
    shares = [share for share in map(_share, _by_place(measured).values()) if share is not None]
    return float(np.mean(shares)) if shares else None


def fleet_skill(measured: Mapping[str, Levels]) -> float | None:
    """Mean of the hosts' skills, over those that have one; None where none has."""
    skills = [skill for skill in map(skill_of, measured.values()) if skill is not None]
    return float(np.mean(skills)) if skills else None


def gain(new: Mapping[str, Levels], old: Mapping[str, Levels]) -> float | None:
    """By how much the fleet's skill is larger in `new`: above 0 the newer model is better.

    Compared are only hosts that measured both, each at the levels that tell a skill in both. None where no host is
    left.
    """
    gains = [_gains(measured, old[host]) for host, measured in new.items() if host in old]
    means = [float(np.mean(each)) for each in gains if each]
    return float(np.mean(means)) if means else None


def _gains(new: Levels, old: Levels) -> list[float]:
    before = {place: _share(level) for place, level in _by_place(old).items()}
    pairs = [(_share(level), before.get(place)) for place, level in _by_place(new).items()]
    return [now - then for now, then in pairs if now is not None and then is not None]


def _by_place(measured: Iterable[Level]) -> dict[tuple[str, int], Level]:
    return {(level.series, level.horizon_steps): level for level in measured}


def _share(level: Level) -> float | None:
    """The skill of one level; None where persistence is so near to 0 that the ratio says nothing."""
    if level.persistence * LARGEST_ERROR <= level.rmse or level.persistence <= 0:
        return None
    return max(1 - level.rmse / level.persistence, LEAST_SKILL)
