"""Files that are there whole or not at all: written atomically, with a checksum and the generation before.

A file is its content followed by a mark and the content's SHA-256, so a reader that knows where the content
ends (as `pickle.load` does) can read it as it is. No function holds a whole file in memory: a window may be large.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from icosfl.errors import StoreUnavailable

logger = logging.getLogger(__name__)

_MARK = b"\nicosfl-sha256:"
_TRAILER = len(_MARK) + hashlib.sha256().digest_size
_CHUNK = 1 << 20


class Sink:
    """What a writer of content writes to: a file, and the checksum of what went there."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sum = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write all of `data`; returns its length."""
        self._sum.update(data)
        return self._file.write(data)

    @property
    def digest(self) -> bytes:
        """The checksum of what was written until now."""
        return self._sum.digest()


def write(path: Path, dump: Callable[[Sink], None]) -> bool:
    """Put what `dump` writes at `path`; what was there becomes the generation before.

    Returns:
        Whether something was there, so that there are two generations now.

    Raises:
        OSError: the file system refuses; what was there stays readable by `recover`, and nothing half-written is left.
    """
    fresh = _fresh_of(path)
    try:
        _write_whole(fresh, dump)
    except Exception:
        with contextlib.suppress(OSError):
            fresh.unlink()  # a half-written file would keep the disk full, also for who else writes there
        raise
    was_there = path.exists()
    if was_there:
        path.replace(previous_of(path))
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return was_there


def _write_whole(path: Path, dump: Callable[[Sink], None]) -> None:
    with path.open("wb") as file:
        sink = Sink(file)
        dump(sink)
        file.write(_MARK + sink.digest)
        file.flush()
        os.fsync(file.fileno())


def recover(path: Path) -> bool:
    """Make sure that what lies at `path` is whole.

    Else what a killed `write` left beside it takes its place, or the generation before.

    Returns:
        Whether there is a whole file now. A damaged one is set aside with the suffix `.damaged`.

    Raises:
        OSError: a file is there but cannot be read.
    """
    if _is_whole(path):
        return True
    if path.exists():
        path.replace(path.with_name(f"{path.name}.damaged"))
        logger.error("%s is damaged and was set aside", path)
    for other in (_fresh_of(path), previous_of(path)):
        if _is_whole(other):
            other.replace(path)
            logger.warning("%s comes from %s", path, other.name)
            return True
    return False


def load(path: Path) -> Any:
    """Return what was pickled into the last whole generation, or None when there is none.

    Raises:
        StoreUnavailable: the file system refuses, or this release cannot read it: it is not lost.
    """
    try:
        if not recover(path):
            return None
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301  # written by ourselves, checksum verified
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be read: {error.strerror}", cure="mend the file system, then restart dataclay-backend"
        ) from error
    except Exception as error:
        raise StoreUnavailable(
            f"{path} is whole but cannot be loaded: {error!r}",
            cure="go back to the release that wrote it, or move the file away to begin without rows",
        ) from error


def remove(path: Path) -> None:
    """Delete all generations.

    Raises:
        OSError: the file system refuses.
    """
    for one in (path, _fresh_of(path), previous_of(path)):
        one.unlink(missing_ok=True)


def _fresh_of(path: Path) -> Path:
    """Where the next generation is written; a kill may leave it there, whole or not, but never an older one."""
    return path.with_name(f"{path.name}.new")


def previous_of(path: Path) -> Path:
    """Where the generation before the one at `path` lies."""
    return path.with_name(f"{path.name}.previous")


def _is_whole(path: Path) -> bool:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        left = os.fstat(file.fileno()).st_size - _TRAILER
        found = hashlib.sha256()
        while left > 0:
            chunk = file.read(min(left, _CHUNK))
            if not chunk:
                return False  # it shrinks while it is read
            found.update(chunk)
            left -= len(chunk)
        return file.read() == _MARK + found.digest()
