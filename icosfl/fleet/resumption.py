"""Whether a run goes on with an earlier one, and with which configuration: decided from their records alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icosfl.aggregate.record import RunRecord
from icosfl.aggregate.settings import RESUME
from icosfl.errors import ConfigError, UserError
from icosfl.fleet.flower import Scalar

# Which run to go on with: the newest if it was interrupted and is the wanted one; the newest, or else fail; none.
# Beside these, the number of a run.
AUTO, NEWEST, NEVER = "auto", "newest", "never"

_MOST_TOLD = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """What a submission does.

    Args:
        record: The run that it goes on with; None: a new one begins.
        note: Why an interrupted run is left; "" when there is nothing to say.
    """

    record: RunRecord | None = None
    note: str = ""


def choose(newest: RunRecord | None, wanted: Mapping[str, object], *, stopped: bool) -> Choice:
    """Whether to go on with the newest run where nobody has said so: if it is the wanted one, and was interrupted.

    Args:
        newest: The newest run.
        wanted: The whole configuration of the run that is wanted.
        stopped: Whether somebody ended the newest run with `flwr stop`.
    """
    if newest is None or newest.state != "interrupted":
        return Choice()
    where = f"run {newest.run} was interrupted after round {newest.round} of {newest.rounds}"
    if not newest.resumable:
        return Choice(note=f"{where} and has left no configuration to go on with: a new run begins")
    how = "a new run begins (to go on with it: icosfl train --resume)"
    if stopped:
        return Choice(note=f"{where} by `flwr stop`: {how}")
    if found := differences(newest.config, wanted):
        more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
        return Choice(note=f"{where}, but had {', '.join(found[:_MOST_TOLD])}{more}: {how}")
    return Choice(newest)


def demand(record: RunRecord | None) -> RunRecord:
    """The run that somebody wants to go on with, if that can be done.

    Raises:
        UserError: there is none, or it is not one to go on with.
    """
    cure = "train without --resume"
    if record is None:
        raise UserError("there is no run to go on with", cure=cure)
    if record.state == "alive":
        raise UserError(f"run {record.run} goes on already", cure="wait for its end")
    if record.state == "finished":
        raise UserError(f"there is no run to go on with: the newest, run {record.run}, is finished", cure=cure)
    if not record.resumable:
        raise UserError(f"run {record.run} has left no configuration to go on with", cure=cure)
    return record


def differences(began: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """How the configuration that a run began with differs from the wanted one, each difference in words."""
    keys = sorted({*began, *wanted} - {RESUME})
    return [
        f"{key}={_word(began.get(key))} instead of {_word(wanted.get(key))}"
        for key in keys
        if _differs(key, began, wanted)
    ]


def resumed(record: RunRecord, app: Mapping[str, object]) -> dict[str, Scalar]:
    """The configuration with which Flower takes the run up again: its own, and the order to go on with it.

    Args:
        record: The run.
        app: The configuration of the app as it is now.

    Raises:
        ConfigError: the run has values that this release does not know, or lacks some that it wants.
    """
    if lacking := sorted(app.keys() - record.config.keys() - {RESUME}):
        raise ConfigError(
            f"run {record.run} began without {', '.join(lacking)}, which this release wants",
            cure="icosfl train --fresh",
        )
    config: dict[str, Scalar] = {}
    for key, value in record.config.items():
        if key not in app or not isinstance(value, (bool, int, float, str)):
            raise ConfigError(
                f"run {record.run} has {key}={value!r}, which this release does not know", cure="icosfl train --fresh"
            )
        config[key] = value
    return config | {RESUME: record.run}


def _differs(key: str, one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return key not in one or key not in other or one[key] != other[key]


def _word(value: object) -> str:
    return "nothing" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
