"""Third-party programs that hosts run, each pinned by version and SHA-256: fetched once, on the control node.

    <directory>/<name>-<version>-<machine>/<name>, and origin.json, which says what it was made of

`part_pins` says what they are, `part_sources` gets their files, `part_install` puts the programs on hosts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import InputError, RunFailed
from icosfl.fleet.part_pins import Part, part_of
from icosfl.fleet.part_sources import file_of, program_in

__all__ = ["Fetched", "Part", "ensure", "part_of", "there"]

ORIGIN = "origin.json"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A part's program on the control node, and its own digest."""

    part: Part
    path: Path
    sha256: str


def there(part: Part, directory: Path) -> Fetched | None:
    """Return the part if it was fetched before and is what it was then."""
    place = _place(part, directory)
    try:
        origin = json.loads((place / ORIGIN).read_text(encoding="utf-8"))
        digest = _digest(place / part.name)
    except (OSError, ValueError):
        return None
    wanted = {"file": part.sha256, "program": digest}
    return Fetched(part, place / part.name, digest) if origin == wanted else None


def ensure(part: Part, directory: Path) -> Fetched:
    """Return the part, fetched unless it is there.

    Raises:
        InputError: The file that somebody gave is not the one that is pinned, or holds no such program.
        RunFailed: It cannot be fetched, or is not the one that is pinned.
    """
    with _alone(directory):
        found = there(part, directory)
        if found is None:
            with tempfile.TemporaryDirectory(prefix=".fetching-", dir=directory) as scratch:
                _make(part, directory, Path(scratch))
            found = there(part, directory)
    if found is None:
        raise RunFailed(f"{part} was written and cannot be read", cure=f"look at the disk of {directory}")
    return found


def _make(part: Part, directory: Path, scratch: Path) -> None:
    file = file_of(part, scratch)
    digest = _digest(file)
    failure = InputError if part.source == "file" else RunFailed
    if digest != part.sha256:
        raise failure(
            f"{part}: {file.name} has the SHA-256 {digest}, pinned is {part.sha256}",
            cure="take the right file; a new digest is for a file that you trust",
        )
    try:
        program = program_in(file.read_bytes(), part.program)
    except ValueError as error:
        raise failure(f"{part}: {file.name}: {error}", cure="name the program in it: icosfl_parts, program") from error
    made = scratch / "made"
    made.mkdir()
    (made / part.name).write_bytes(program)
    (made / part.name).chmod(0o755)
    origin = {"file": part.sha256, "program": hashlib.sha256(program).hexdigest()}
    (made / ORIGIN).write_text(json.dumps(origin), encoding="utf-8")
    place = _place(part, directory)
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)


def _place(part: Part, directory: Path) -> Path:
    return directory / f"{part.name}-{part.version}-{part.machine}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hosts ask for their parts at the same time: the first fetches for all."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in directory.glob(".fetching-*"):
            shutil.rmtree(leftover)
        yield
