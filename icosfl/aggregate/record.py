"""The record of a run: who may write it, and what it says of how the run stands; without Flower, for any reader.

A run is known by the number of the first Flower run that it ran in, and its record is the directory of that name. The
living ServerApp holds the record's lock, which the kernel frees when it dies, however it dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icosfl.aggregate.progress import (
    PROGRESS_FILE,
    Event,
    Failed,
    Finished,
    RoundDone,
    Started,
    read_progress,
)
from icosfl.aggregate.settings import CHECK, PURPOSE, TRAIN
from icosfl.errors import RunFailed
from icosfl.train.files import write_atomically

CONFIG_FILE = "config.json"
LOCK_FILE = "lock"

# Who only looks whether a lock is held has it for an instant.
_LOOK_SECONDS = 2.0
_POLL_SECONDS = 0.02

State = Literal["alive", "interrupted", "failed", "finished"]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """How a run stands.

    Args:
        run: Its number.
        directory: Its record.
        state: alive: its ServerApp runs; interrupted: it died without a word; failed or finished: its last word.
        round: The last round that is done, 0: none.
        rounds: How many it is to have, 0 where it did not say so.
        config: The run configuration that it began with; empty where it was not written.
        last_word: Its last event in words, "" before the first.
        time: Of the last event (ISO, UTC), "" before the first.
    """

    run: str
    directory: Path
    state: State
    round: int
    rounds: int
    config: Mapping[str, object]
    last_word: str
    time: str

    @property
    def resumable(self) -> bool:
        """Whether another Flower run with `resume` can go on with it."""
        return self.state in {"interrupted", "failed"} and bool(self.config)


@contextmanager
def hold(directory: Path) -> Iterator[None]:
    """Own a run's record, which is made if need be, until the block or this process ends.

    Raises:
        RunFailed: another process owns it, or the directory cannot be written.
    """
    path = directory / LOCK_FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise RunFailed(
            f"{path}: cannot be written: {error.strerror}", cure="make room, or correct runs_dir and its owner"
        ) from error
    try:
        deadline = time.monotonic() + _LOOK_SECONDS
        while not _locked(file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise RunFailed(
                    f"run {directory.name}: another ServerApp is at it", cure="wait for its end, or end it: flwr stop"
                )
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(file)


def is_alive(directory: Path) -> bool:
    """Whether a ServerApp is at the run of this record.

    Raises:
        RunFailed: this user may not look.
    """
    path = directory / LOCK_FILE
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RunFailed(f"{path}: cannot be read: {error.strerror}", cure="run this as the fleet's user") from error
    try:
        return not _locked(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def look(directory: Path) -> RunRecord | None:
    """How the run of this record stands, None if there is none.

    Raises:
        RunFailed: the record cannot be read, or is none.
    """
    alive = is_alive(directory)  # before its events are read: one that ends in between has said its last word in them
    events, config = read_progress(directory), read_config(directory)
    if not events and not config:
        return None
    rounds = [event.rounds for event in events if isinstance(event, Started)]
    return RunRecord(
        run=directory.name,
        directory=directory,
        state=_state(events, alive),
        round=max((event.round for event in events if isinstance(event, RoundDone)), default=0),
        rounds=rounds[-1] if rounds else 0,
        config=config,
        last_word=events[-1].line if events else "",
        time=events[-1].time if events else "",
    )


def newest(runs_dir: Path) -> RunRecord | None:
    """The training run that spoke last, of all in the directory; None if there is none. Checks of a model are none.

    Raises:
        RunFailed: a record cannot be read, or is none.
    """
    said = {path.parent: time for path in _present(runs_dir) if (time := _spoke_ns(path)) is not None}
    for directory in sorted(said, key=lambda each: said[each], reverse=True):
        found = look(directory)
        if found is not None and found.config.get(PURPOSE) != CHECK:
            return found
    return None


def write_config(directory: Path, config: Mapping[str, object]) -> None:
    """Keep the run configuration that a run begins with.

    Raises:
        CheckpointError: it cannot be written.
    """
    write_atomically(directory / CONFIG_FILE, json.dumps(dict(config), indent=1, sort_keys=True).encode())


def read_config(directory: Path) -> dict[str, object]:
    """The run configuration that a run began with; empty where none was written.

    Raises:
        RunFailed: it cannot be read, or is none.
    """
    path = directory / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunFailed(f"{path}: cannot be read: {error.strerror}", cure="run this as the fleet's user") from error
    except ValueError as error:
        raise RunFailed(f"{path}: no JSON: {error}", cure="start a new run") from error
    if not isinstance(config, dict):
        raise RunFailed(f"{path}: no run configuration", cure="start a new run")
    return config


def purpose_of(directory: Path) -> str:
    """What the run of a record is for; a training's, where the record does not say it."""
    try:
        return str(read_config(directory).get(PURPOSE, TRAIN))
    except RunFailed:
        return TRAIN


def _present(runs_dir: Path) -> list[Path]:
    """Of each record the file whose time is that of its last word: its progress, before that its configuration."""
    spoke = list(runs_dir.glob(f"[!.]*/{PROGRESS_FILE}"))
    heard = {path.parent for path in spoke}
    return spoke + [path for path in runs_dir.glob(f"[!.]*/{CONFIG_FILE}") if path.parent not in heard]


def _spoke_ns(path: Path) -> int | None:
    """When a record's last word came; None for one that was deleted meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFailed(f"{path}: cannot be read: {error.strerror}", cure="run this as the fleet's user") from error


def _state(events: list[Event], alive: bool) -> State:
    if any(isinstance(event, Finished) for event in events):
        return "finished"
    if events and isinstance(events[-1], Failed):
        return "failed"
    return "alive" if alive else "interrupted"


def _locked(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
