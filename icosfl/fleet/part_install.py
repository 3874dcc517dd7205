"""Puts third-party programs on a host, beside its releases, and takes old versions of them away.

    <directory>/<name>-<version>/<name>

A program is renamed to its place when it is whole and was seen to start; whatever kills an install is cured by another
one. Runs on bare hosts: the standard library only, Python 3.9. `plugins/module_utils` links to it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODE = 0o755
# The one before the newest stays: services run it until they are restarted, and it is what one goes back to.
KEPT = 2
_START_SECONDS = 60


class PartRefused(Exception):
    """A program that this host cannot run.

    Args:
        cause: What is wrong.
        cure: What to do about it.
    """

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}. Cure: {cure}")
        self.cause = cause
        self.cure = cure


@dataclass(frozen=True)
class Program:
    """What a host shall have: a program, its version, its digest, and the architecture that it is for."""

    name: str
    version: str
    sha256: str
    machine: str

    def path(self, directory: Path) -> Path:
        """Where it lies below the directory of parts."""
        return directory / f"{self.name}-{self.version}" / self.name


def programs_of(descriptions: list[Mapping[str, str]]) -> list[Program]:
    """Return the programs that a module's arguments describe."""
    return [Program(each["name"], each["version"], each["sha256"], each["machine"]) for each in descriptions]


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other installs on this machine waiting: logical hosts share its parts."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def installed(program: Program, directory: Path) -> bool:
    """Whether the host has exactly this program, and nobody but its owner, who deploys, may change it."""
    path = program.path(directory)
    try:
        status = path.stat()
    except OSError:
        return False
    own = status.st_mode & 0o777 == MODE and status.st_uid == os.geteuid()
    return own and _digest(path) == program.sha256


def check_host(program: Program) -> None:
    """Refuse a program for another architecture, before it is sent.

    Raises:
        PartRefused: It is.
    """
    if program.machine != platform.machine():
        raise PartRefused(
            f"this host is {platform.machine()}, {program.name} {program.version} is for {program.machine}",
            f"deploy to {platform.machine()} hosts from a control node of that architecture",
        )


def install(program: Program, shipped: Path, directory: Path, *, start: bool, library_dir: str = "") -> None:
    """Install a program, seen to start; nothing else on the host changes.

    Call it under `locked`.

    Args:
        program: What to install.
        shipped: Where it is now.
        directory: The directory of parts.
        start: Whether to see it start: not where it runs in containers, which have libraries of their own.
        library_dir: Where its service finds libraries besides the system's.

    Raises:
        PartRefused: It is another file than it should be, or does not start here.
    """
    if _digest(shipped) != program.sha256:
        raise PartRefused(f"{program.name} {program.version} was damaged on its way", "deploy again")
    path = program.path(directory)
    path.parent.mkdir(exist_ok=True)
    new = path.parent / ".new"
    try:
        shutil.copyfile(shipped, new)
        new.chmod(MODE)
        if start:
            _start(new, program, library_dir)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        if not path.exists():
            path.parent.rmdir()
        raise


def superfluous(program: Program, directory: Path) -> tuple[Path, ...]:
    """Return the directories of its old versions, but that of the one before it."""
    own = program.path(directory).parent
    others = [path for path in directory.glob(f"{program.name}-*") if path != own]
    return tuple(sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)[KEPT - 1 :])


def _start(file: Path, program: Program, library_dir: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    if library_dir:
        environment["LD_LIBRARY_PATH"] = library_dir
    command = [str(file), "--version"]
    try:
        done = subprocess.run(  # noqa: S603
            command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=_START_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PartRefused(
            f"{program.name} {program.version} does not start here: {error}", "take the file for this host"
        ) from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise PartRefused(
            f"{program.name} {program.version} does not start here: {''.join(said) or done.returncode}",
            "install what it misses; the library libNAME.so.N is in Debian's package libNAMEN",
        )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
