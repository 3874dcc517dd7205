"""In which of Flower's runs a run went on after the first: noted beside its progress by whoever submitted them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from icosfl.errors import RunFailed

ATTEMPTS_FILE = "attempts.jsonl"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of Flower's runs in which a run goes on.

    Args:
        flower_run: Its number.
        automatic: Whether nobody asked for it: the one before had died.
        round: The round after which it goes on, 0 for its beginning.
    """

    flower_run: str
    automatic: bool
    round: int = 0


@dataclass(frozen=True, slots=True)
class Attempts:
    """What was noted for one run.

    Args:
        submitted: The attempts, in their order.
        given_up: Numbers of Flower's runs that were found dead, and which Flower was told to end.
    """

    submitted: tuple[Attempt, ...] = ()
    given_up: frozenset[str] = frozenset()

    def in_vain(self, after: int) -> int:
        """How many times in a row the run was resumed with nobody asking for it, and came no further.

        Args:
            after: The round after which it died last.
        """
        newest_first = reversed(self.submitted)
        return sum(1 for _ in takewhile(lambda attempt: attempt.automatic and attempt.round == after, newest_first))


def read_attempts(directory: Path) -> Attempts:
    """The attempts of the run with this record; none when there is no file. A line that is being written is left out.

    Raises:
        RunFailed: the file cannot be read, or a whole line is none of ours.
    """
    path = directory / ATTEMPTS_FILE
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        notes = [json.loads(line) for line in lines]
        submitted = tuple(Attempt(**each) for each in notes if "given_up" not in each)
        return Attempts(submitted, frozenset(each["given_up"] for each in notes if "given_up" in each))
    except FileNotFoundError:
        return Attempts()
    except OSError as error:
        raise RunFailed(f"{path}: cannot be read: {error.strerror}", cure="run this as the fleet's user") from error
    except (ValueError, TypeError, KeyError) as error:
        raise RunFailed(f"{path}: holds a line that is no attempt", cure="train with --fresh") from error


def note_attempt(directory: Path, attempt: Attempt) -> None:
    """Note that the run with this record was submitted again.

    Raises:
        RunFailed: the disk does not take it.
    """
    _append(directory, asdict(attempt))


def note_given_up(directory: Path, flower_run: str) -> None:
    """Note that this one of Flower's runs is dead.

    Raises:
        RunFailed: the disk does not take it.
    """
    _append(directory, {"given_up": flower_run})


def _append(directory: Path, note: Mapping[str, object]) -> None:
    path = directory / ATTEMPTS_FILE
    try:
        with path.open("ab") as file:
            file.write(json.dumps(note).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise RunFailed(
            f"{path}: cannot be written: {error.strerror}", cure="make room, or correct runs_dir and its owner"
        ) from error
