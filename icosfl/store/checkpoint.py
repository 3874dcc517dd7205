"""Files that are there whole or not at all: written atomically, with a checksum and the generation before.

A file is its content followed by a mark and the content's SHA-256, so a reader that knows where the content
ends (as `pickle.load` does) can read it as it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

_MARK = b"\nicosfl-sha256:"
_TRAILER = len(_MARK) + hashlib.sha256().digest_size


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`; what was there becomes the generation before.

    Raises:
        OSError: the file system refuses; what was there stays readable by `recover`.
    """
    fresh = _fresh_of(path)
    with fresh.open("wb") as file:
        file.write(content)
        file.write(_MARK + hashlib.sha256(content).digest())
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        path.replace(previous_of(path))
    fresh.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


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


def _fresh_of(path: Path) -> Path:
    """Where the next generation is written; a kill may leave it there, whole or not, but never an older one."""
    return path.with_name(f"{path.name}.new")


def previous_of(path: Path) -> Path:
    """Where the generation before the one at `path` lies."""
    return path.with_name(f"{path.name}.previous")


def _is_whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return False
    content, mark, digest = data[:-_TRAILER], data[-_TRAILER : -_TRAILER + len(_MARK)], data[-_TRAILER + len(_MARK) :]
    return mark == _MARK and hashlib.sha256(content).digest() == digest
