"""What a run says of itself while it runs: one JSON line an event, appended whole, read by whoever waits for it."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from icosfl.errors import RunFailed

PROGRESS_FILE = "progress.jsonl"
RESULT_FILE = "result.json"

# What the directory of a run begins with while it is being deleted.
_GONE = ".gone-"
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

logger = logging.getLogger(__name__)


@checked(frozen=True, config=_STRICT)
class Absent:
    """A node that did not take part in a step, and why. The host is the node's number where its name is unknown."""

    host: str
    reason: str

    def __str__(self) -> str:
        return f"{self.host}: {self.reason}"


@checked(frozen=True, config=_STRICT)
class Candidate:
    """A node that takes part: its rows, the newest one's time (ISO, UTC), and its windows to train on."""

    host: str
    rows: int
    newest: str
    windows: int


@checked(frozen=True, config=_STRICT)
class Started:
    """The ServerApp runs."""

    time: str
    run: str
    rounds: int
    min_nodes: int
    event: Literal["started"] = "started"

    @property
    def line(self) -> str:
        """The event in words."""
        return f"run {self.run} started: {self.rounds} rounds, at least {self.min_nodes} nodes"


@checked(frozen=True, config=_STRICT)
class Resumed:
    """Another ServerApp goes on with the run, after this round; Flower calls what it runs in `flower_run`."""

    time: str
    run: str
    flower_run: str
    round: int
    event: Literal["resumed"] = "resumed"

    @property
    def line(self) -> str:
        """The event in words."""
        where = f"after round {self.round}" if self.round else "from its beginning"
        return f"run {self.run} goes on {where}, as Flower's run {self.flower_run}"


@checked(frozen=True, config=_STRICT)
class Waiting:
    """Fewer nodes are online and free than are needed; `missing` are the hosts that are known not to be."""

    time: str
    online: int
    needed: int
    missing: tuple[str, ...]
    event: Literal["waiting"] = "waiting"

    @property
    def line(self) -> str:
        """The event in words."""
        who = f": {', '.join(self.missing)}" if self.missing else ""
        return (
            f"waiting for nodes, {self.online} of at least {self.needed} are there; missing{who or ' ones are unknown'}"
        )


@checked(frozen=True, config=_STRICT)
class Ready:
    """The nodes have been asked. `warm_start` is the digest of the model that training goes on from, None: of none."""

    time: str
    nodes: tuple[Candidate, ...]
    left_out: tuple[Absent, ...]
    warm_start: str | None
    fresh_because: str
    event: Literal["ready"] = "ready"

    @property
    def line(self) -> str:
        """The event in words."""
        start = "a fresh model" if self.warm_start is None else f"model {self.warm_start[:12]}"
        why = f" ({self.fresh_because})" if self.warm_start is None and self.fresh_because else ""
        who = _hosts(tuple(node.host for node in self.nodes))
        return f"{who} ready, starting from {start}{why}{_without(self.left_out)}"


@checked(frozen=True, config=_STRICT)
class RoundDone:
    """A round whose average is saved.

    Args:
        time: When it was saved.
        round: Which round, from 1.
        of: How many rounds the run has.
        nodes: Hosts whose updates are in the average.
        left_out: Hosts whose updates are not, or not all that they sent.
        loss: Mean loss of the nodes' last epochs, weighted by examples; see `icosfl.train.loop.fit`.
        examples: Windows trained on, of all nodes.
        seconds: How long the round took.
        digest: Of the saved artifact.
        evaluation: The controller's scores, or why there are none.
        skills: Validation skill by host, of the model that the round began with: how much smaller its error is than
            persistence's, at most 1.
        skill: Their mean; None where no node could measure.
        seconds_by_node: From the question to the reply, by host.
        learning_rate: Of the round.
        epsilon: Privacy spent so far; None without differential privacy.
    """

    time: str
    round: int
    of: int
    nodes: tuple[str, ...]
    left_out: tuple[Absent, ...]
    loss: float
    examples: int
    seconds: float
    digest: str
    evaluation: dict[str, Any]
    skills: dict[str, float] = field(default_factory=dict)
    skill: float | None = None
    seconds_by_node: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    epsilon: float | None = None
    event: Literal["round"] = "round"

    @property
    def line(self) -> str:
        """The event in words."""
        who = _hosts(self.nodes)
        began = "" if self.skill is None else f", began with skill {self.skill:.3f}"
        spent = "" if self.epsilon is None else f", ε {self.epsilon:.3g}"
        told = f"{who}, loss {self.loss:.3g}{began}{spent}, {self.seconds:.0f} s"
        return f"round {self.round}/{self.of}: {told}{_without(self.left_out)}"


@checked(frozen=True, config=_STRICT)
class Stopped:
    """The run ends early, after this round: no further ones come, and its model is handed out next."""

    time: str
    round: int
    of: int
    reason: str
    event: Literal["stopped"] = "stopped"

    @property
    def line(self) -> str:
        """The event in words."""
        return f"stopped after round {self.round} of {self.of}: {self.reason}"


@checked(frozen=True, config=_STRICT)
class Failed:
    """The run ended badly."""

    time: str
    reason: str
    cure: str
    event: Literal["failed"] = "failed"

    @property
    def line(self) -> str:
        """The event in words."""
        return f"run failed: {self.reason}"


@checked(frozen=True, config=_STRICT)
class Finished:
    """The run is over; `nodes` have the model `digest`, `left_out` have not.

    Args:
        time: When it was over.
        rounds: How many were trained.
        nodes: Hosts that have the model.
        left_out: Hosts that have not, and why.
        digest: Of the model.
        seconds: How long the run took, without the time in which it was interrupted.
        round: Which round's model it is; 0: the one that the run started from stays; None: told by an older release.
        skill: The model's validation skill; None where no node could measure.
        epsilon: Privacy spent; None without differential privacy.
        why: Why it is not the last round's; "" when it is. After a check: what it found.
    """

    time: str
    rounds: int
    nodes: tuple[str, ...]
    left_out: tuple[Absent, ...]
    digest: str
    seconds: float
    round: int | None = None
    skill: float | None = None
    epsilon: float | None = None
    why: str = ""
    event: Literal["finished"] = "finished"

    @property
    def line(self) -> str:
        """The event in words."""
        who = _hosts(self.nodes)
        why = f" ({self.why})" if self.why else ""
        return f"finished: model {self.digest[:12]}{why} on {who}, {self.seconds:.0f} s{_without(self.left_out)}"


Event = Annotated[
    Started | Resumed | Waiting | Ready | RoundDone | Stopped | Failed | Finished, Field(discriminator="event")
]

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class ProgressLog:
    """Appends events to a run's progress file.

    Args:
        directory: The run's own directory; it is made by the first event if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / PROGRESS_FILE

    def mend(self) -> None:
        """Cut off a line that was begun when the machine died, so that the next event has a line of its own.

        Raises:
            RunFailed: the disk does not take it.
        """
        try:
            whole = self._path.read_bytes().rpartition(b"\n")
            if whole[2]:
                os.truncate(self._path, len(whole[0]) + len(whole[1]))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error

    def append(self, event: Event) -> None:
        """Add one event; it is on the disk when this returns, and readers see all of its line or nothing.

        Raises:
            RunFailed: the disk does not take it.
        """
        line = _EVENT.dump_json(event) + b"\n"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _append_whole(file, line)
            finally:
                os.close(file)
        except OSError as error:
            raise self._refused(error.strerror or str(error)) from error

    def _refused(self, why: str) -> RunFailed:
        return RunFailed(f"{self._path}: cannot be written: {why}", cure="make room, or correct runs_dir and its owner")


def _append_whole(file: int, line: bytes) -> None:
    """Write a line and see it on the disk; half of one is cut off again, so that another can follow.

    Raises:
        OSError: the disk does not take it.
    """
    size, whole = os.fstat(file).st_size, False
    try:
        whole = os.write(file, line) == len(line)
        os.fsync(file)
    finally:
        if not whole:
            os.ftruncate(file, size)
    if not whole:
        raise OSError(errno.ENOSPC, "no space left for a whole line")


def read_progress(directory: Path) -> list[Event]:
    """The events of a run so far, none if it has not started; a line that is still being written is left out.

    Raises:
        RunFailed: a whole line is no event.
    """
    path = directory / PROGRESS_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFailed(f"{path}: cannot be read: {error.strerror}", cure="run this as the fleet's user") from error
    lines = data.split(b"\n")[:-1]
    try:
        return [_EVENT.validate_json(line) for line in lines]
    except ValidationError as error:
        raise RunFailed(f"{path}: holds a line that is no event of a run", cure="start the run again") from error


def prune_runs(directory: Path, keep: int, run: str, kind_of: Callable[[Path], str] = lambda _: "") -> None:
    """Delete the records of all runs but the newest `keep` of each kind, by their last words; those of `run` stay.

    A record is gone in one step. What cannot be deleted is logged.

    Args:
        directory: Holds a directory for each run; what has no progress file is left alone.
        keep: How many to keep.
        run: The run that is under way.
        kind_of: Of what kind the run of a record is: many checks must not push the trainings out.
    """
    try:
        progress = [path for path in directory.glob(f"[!.]*/{PROGRESS_FILE}") if path.parent.name != run]
        kept = Counter([kind_of(directory / run)])
        for path in sorted(progress, key=lambda path: path.stat().st_mtime_ns, reverse=True):
            kind = kind_of(path.parent)
            kept[kind] += 1
            if kept[kind] > keep:
                path.parent.rename(directory / f"{_GONE}{path.parent.name}")
        for gone in directory.glob(f"{_GONE}*"):
            shutil.rmtree(gone)
    except OSError as error:
        logger.warning("old runs in %s stay: %s", directory, error)


def utc_now() -> str:
    """The time now in ISO form, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _hosts(hosts: tuple[str, ...]) -> str:
    noun = "node" if len(hosts) == 1 else "nodes"
    return f"{len(hosts)} {noun} ({', '.join(hosts)})" if hosts else f"0 {noun}"


def _without(left_out: tuple[Absent, ...]) -> str:
    return f"; without {'; '.join(str(absent) for absent in left_out)}" if left_out else ""
