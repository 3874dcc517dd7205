"""The door through which dataClay is imported, so that importing it changes nothing else in the process.

On import dataClay 4.3.1 sets up the root logger, warns of a missing /run/secrets, and fails where the host's own name
does not resolve (it wants the name's address as a default that icosfl never uses).
"""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_dataclay() -> Iterator[None]:
    """Import dataClay, or make one of its settings objects, inside this block."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    resolve = socket.gethostbyname

    def resolve_or_loopback(name: str) -> str:
        try:
            return resolve(name)
        except OSError:
            return "127.0.0.1"

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", 'directory "/run/secrets" does not exist', UserWarning)
        vars(socket)["gethostbyname"] = resolve_or_loopback
        try:
            yield
        finally:
            vars(socket)["gethostbyname"] = resolve
            root.handlers[:] = handlers
            root.setLevel(level)
    own = logging.getLogger("dataclay")
    if own.level == logging.NOTSET:
        own.setLevel(logging.WARNING)  # its INFO is three lines a call
