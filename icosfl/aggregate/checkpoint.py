"""All that a run is between two rounds, in one file that a crash never leaves half written.

The model itself is not in it: it is saved before, under the name and digest that are.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from icosfl.aggregate.policy import Choice
from icosfl.aggregate.progress import Ready, RoundDone, Stopped
from icosfl.aggregate.roster import Roster
from icosfl.errors import CheckpointError
from icosfl.train.files import write_atomically

CHECKPOINT_FILE = "checkpoint.npz"

_META = "meta"
_COMBINER = "combiner."
_CURE = "the run is lost, its models are not: remove its directory, then icosfl train"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run between two rounds.

    Args:
        run: Its number.
        round: How many rounds are done.
        file: Name of the model that the next round begins with; "" before the first round of fresh weights.
        digest: Digest of the model in that file.
        roster: Who takes part, with each one's cutoffs.
        missed: How many rounds in a row each host missed.
        choice: The best model so far.
        seconds: How long the run took up to here.
        ready: What is told before the first round.
        done: What is told of the last round; None before the first.
        stopped: What is told where no further round comes.
    """

    run: str
    round: int
    file: str
    digest: str
    roster: Roster
    missed: dict[str, int]
    choice: Choice
    seconds: float
    ready: Ready
    done: RoundDone | None
    stopped: Stopped | None


_CHECKPOINT: TypeAdapter[Checkpoint] = TypeAdapter(Checkpoint)


def write_checkpoint(directory: Path, checkpoint: Checkpoint, combiner: Mapping[str, NDArray[Any]]) -> None:
    """Keep a run's state in its record; until this returns the state before it is there.

    Args:
        directory: The run's record.
        checkpoint: The state.
        combiner: What the rounds' combining remembers, by name.

    Raises:
        CheckpointError: it cannot be written.
    """
    meta = np.frombuffer(_CHECKPOINT.dump_json(checkpoint), np.uint8)
    arrays = {f"{_COMBINER}{name}": array for name, array in combiner.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_META: meta}, **arrays)
    write_atomically(directory / CHECKPOINT_FILE, buffer.getvalue())


def read_checkpoint(directory: Path) -> tuple[Checkpoint, dict[str, NDArray[Any]]] | None:
    """The state that a run's record keeps and what its combining remembers; None before the nodes have answered.

    Raises:
        CheckpointError: the file is damaged, or of another release.
    """
    path = directory / CHECKPOINT_FILE
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            checkpoint = _CHECKPOINT.validate_json(file[_META].tobytes())
            combiner = {name.removeprefix(_COMBINER): file[name] for name in file.files if name != _META}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", cure=_CURE) from error
    except (ValidationError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: no sound state of a run: {error}", cure=_CURE) from error
    return checkpoint, combiner
