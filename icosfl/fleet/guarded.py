"""Keeps two deployments of one host apart, and writes its files at once or not at all.

Imports little: the watchdog starts twice a minute, for ever.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icosfl.errors import RunFailed

PRIVATE = 0o700
_PRIVATE_FILE = 0o600


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make a private directory, and keep other deployments that lock it away.

    Raises:
        RunFailed: Another deployment is at work on this host.
    """
    with translated(directory):
        directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o777 != PRIVATE:  # the watchdog sees it read-only
            directory.chmod(PRIVATE)
        lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFailed(
                f"another deployment is at work in {directory.parent}", cure="wait for it to end"
            ) from error
        yield
    finally:
        os.close(lock)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that names the path."""
    try:
        yield
    except OSError as error:
        cure = "free some space" if error.errno == errno.ENOSPC else "make it writable for the user who deploys"
        raise RunFailed(f"{error.filename or path}: {error.strerror}", cure=cure) from error


def write(path: Path, text: str, *, mode: int = _PRIVATE_FILE) -> bool:
    """Write a file at once or not at all, private unless told otherwise, and return whether it changed."""
    with translated(path):
        if path.exists() and path.read_text("utf-8") == text:
            return False
        temporary = path.with_name(f".new-{os.urandom(8).hex()}")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "wb") as file:
                file.write(text.encode())
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return True
