"""Lets the logical hosts of one machine be served one after the other, across the processes of a play."""

from __future__ import annotations

import fcntl
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def one_at_a_time(what: str, known: Mapping[str, Any], place: str = "") -> Iterator[None]:
    """Wait until no other logical host of the machine is served: the first gets what all share.

    Args:
        what: What they share: "release", "image".
        known: A host's variables.
        place: Where on the machine it lies, when there may be several.
    """
    address = str(known.get("ansible_host") or known["inventory_hostname"])
    name = hashlib.sha256(f"{address}:{place}".encode()).hexdigest()[:16]
    with (Path(tempfile.gettempdir()) / f"icosfl-{what}-{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
