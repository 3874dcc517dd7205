"""What a run's events tell, put together for its report: round by round and host by host."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from icosfl.aggregate.progress import (
    Absent,
    Candidate,
    Event,
    Failed,
    Finished,
    Ready,
    Resumed,
    RoundDone,
    Started,
    Stopped,
)

_Kind = TypeVar("_Kind", Ready, Started, Stopped)


@dataclass(frozen=True, slots=True)
class Model:
    """The model after a round, as the nodes measured it on their validation rows.

    Args:
        round: After which round; 0: what the run started from.
        skill: Mean of the nodes' skills; None where no node measured it.
        by_host: The nodes' skills, finite.
    """

    round: int
    skill: float | None
    by_host: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Story:
    """A run from its first to its last word.

    Args:
        run: Its id, "" where no event says it.
        asked: How many rounds it was to have.
        rounds: Those that are done, ascending, each once.
        models: Those that were measured, or might have been, ascending.
        candidates: By host, what nodes brought when they were asked last.
        hosts: All that are named anywhere, in the order of their names.
        warm: Whether it went on from an earlier model, None before the nodes were asked.
        fresh_because: Why it did not.
        at_first: Nodes that did not take part from the beginning, and why.
        resumed_after: After which rounds another ServerApp went on.
        stopped: Why it ended before its last round; None if it did not.
        end: Its last word, None if it has none.
        began: When (ISO, UTC), "" if no event says it.
    """

    run: str
    asked: int
    rounds: tuple[RoundDone, ...]
    models: tuple[Model, ...]
    candidates: Mapping[str, Candidate]
    hosts: tuple[str, ...]
    warm: bool | None
    fresh_because: str
    at_first: tuple[Absent, ...]
    resumed_after: tuple[int, ...]
    stopped: Stopped | None
    end: Finished | Failed | None
    began: str

    @property
    def state(self) -> str:
        """How it ended, in a word."""
        return {Finished: "finished", Failed: "failed"}.get(type(self.end), "not finished")

    @property
    def handed_out(self) -> int | None:
        """Which round's model the nodes have; 0: the one that the run started from."""
        if not isinstance(self.end, Finished):
            return None
        return self.end.rounds if self.end.round is None else self.end.round

    @property
    def best(self) -> Model | None:
        """The model of the highest skill, the earlier one on a tie; None where none was measured."""
        known = [model for model in self.models if model.skill is not None]
        return max(known, key=lambda model: (model.skill or -math.inf, -model.round)) if known else None

    def reason(self, round_done: RoundDone, host: str) -> str:
        """Why a host's update is not, or not wholly, in a round; "" if nobody says so."""
        return "; ".join(absent.reason for absent in round_done.left_out if absent.host == host)


def story(events: Sequence[Event], result: Mapping[str, Any]) -> Story:
    """Put a run's events together.

    Args:
        events: All of them, of each ServerApp that was at the run.
        result: What the run's result says, or nothing; `skills` in it are of the model of `round`, by host.
    """
    started = _last(events, Started)
    ready = _last(events, Ready)
    end = next((event for event in reversed(events) if isinstance(event, Finished | Failed)), None)
    if end is not None and any(isinstance(event, Started | Resumed) for event in events[events.index(end) :]):
        end = None  # it failed, and goes on
    by_number = {event.round: event for event in events if isinstance(event, RoundDone)}
    rounds = tuple(by_number[number] for number in sorted(by_number))
    candidates = {node.host: node for event in events if isinstance(event, Ready) for node in event.nodes}
    return Story(
        run=started.run if started else str(result.get("run", "")),
        asked=started.rounds if started else max((event.of for event in rounds), default=0),
        rounds=rounds,
        models=_models(rounds, end, result),
        candidates=candidates,
        hosts=_hosts(events),
        warm=None if ready is None else ready.warm_start is not None,
        fresh_because=ready.fresh_because if ready else "",
        at_first=ready.left_out if ready else (),
        resumed_after=tuple(event.round for event in events if isinstance(event, Resumed)),
        stopped=_last(events, Stopped),
        end=end,
        began=events[0].time if events else "",
    )


def _models(rounds: Sequence[RoundDone], end: Finished | Failed | None, result: Mapping[str, Any]) -> tuple[Model, ...]:
    models = [Model(each.round - 1, _finite(each.skill), _finite_ones(each.skills)) for each in rounds]
    if rounds and isinstance(end, Finished):
        last = rounds[-1].round
        theirs = end.round in {None, last} and result.get("round", last) == last
        by_host = _finite_ones(result.get("skills") or {}) if theirs else {}
        models.append(Model(last, _finite(end.skill) if theirs else None, by_host))
    return tuple(models)


def _hosts(events: Iterable[Event]) -> tuple[str, ...]:
    found: set[str] = set()
    for event in events:
        if isinstance(event, Ready):
            found |= {node.host for node in event.nodes} | {absent.host for absent in event.left_out}
        elif isinstance(event, RoundDone):
            found |= {*event.nodes, *event.skills, *event.seconds_by_node}
            found |= {absent.host for absent in event.left_out}
        elif isinstance(event, Finished):
            found |= {*event.nodes} | {absent.host for absent in event.left_out}
    return tuple(sorted(found, key=_by_number))


def _by_number(host: str) -> tuple[str, int, str]:
    """Sorts node-2 before node-10."""
    name = host.rstrip("0123456789")
    number = host[len(name) :]
    return name, int(number[:18] or 0), host


def _last(events: Sequence[Event], kind: type[_Kind]) -> _Kind | None:
    return next((event for event in reversed(events) if isinstance(event, kind)), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _finite_ones(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        host: float(value) for host, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }
