"""Files that a crash never leaves half written, and a pointer to the newest of them."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from icosfl.errors import CheckpointError

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.npz")
_CURE = "remove the file, then train again or copy a sound one from another node"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any time it has either its old or its new content; makes its directory if need be.

    Raises:
        CheckpointError: it cannot be written; what was there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, content)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written: {error.strerror}",
            cure="free space on the disk or correct the directory's owner",
        ) from error


def write_pointer(path: Path, name: str, digest: str) -> None:
    """Let the file `path` name the model file `name` beside it, and its digest.

    Raises:
        CheckpointError: it cannot be written; what was there stays.
    """
    write_atomically(path, json.dumps({"file": name, "digest": digest}).encode())


def evaluation_path(directory: Path, digest: str) -> Path:
    """Where the evaluation of the model of this digest lies, beside the models."""
    return directory / f"{digest[:16]}-evaluation.json"


def read_pointer(path: Path) -> tuple[str, str] | None:
    """Name and digest that `write_pointer` wrote, or None when there is no such file.

    Raises:
        CheckpointError: it is damaged, or names something that is no model file beside it.
    """
    try:
        fields = json.loads(path.read_bytes())
        name, digest = str(fields["file"]), str(fields["digest"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", cure=_CURE) from error
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: does not name a model file", cure=_CURE) from error
    if not _FILE_NAME.fullmatch(name):
        raise CheckpointError(f"{path}: {name!r} is no name of a model file", cure=_CURE)
    return name, digest


def _replace(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
