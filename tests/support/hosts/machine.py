"""What the machine that tests run on has to offer, and how it is asked: root's rights, packages, its apt's sources."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from icosfl.errors import Unavailable

PROJECT = Path(__file__).parents[3]
STATE = PROJECT / ".state" / "docker"


class NoContainers(Unavailable):
    """This machine cannot run hosts in containers: its message says why."""


@cache
def as_root() -> tuple[str, ...]:
    """The words that go before a command that needs root's rights.

    Raises:
        NoContainers: there is neither root nor a sudo that asks for no password.
    """
    if os.geteuid() == 0:
        return ()
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], check=False, capture_output=True).returncode == 0:
        return (sudo, "-n")
    raise NoContainers(
        "Hosts in containers need Docker, which needs root",
        cure="run the tests as root, or as a user whose sudo asks for no password",
    )


def install(packages: Mapping[str, str]) -> None:
    """Install the Debian packages whose program is missing.

    Args:
        packages: Program, and the package that has it.

    Raises:
        NoContainers: a package cannot be installed here.
    """
    missing = sorted({package for program, package in packages.items() if not find(program)})
    if not missing:
        return
    if not find("apt-get"):
        raise NoContainers(f"{', '.join(missing)} must be installed and there is no apt-get", cure="install them")
    apt = [*as_root(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", "--yes"]
    for command in (["update"], ["install", "--no-install-recommends", *missing]):
        done = subprocess.run([*apt, *command], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise NoContainers(
                f"apt-get {command[0]} for {', '.join(missing)} failed: {last_line(done.stderr or done.stdout)}",
                cure="give this machine a Debian mirror that answers",
            )


def find(program: str) -> str | None:
    """Where a program is, also in the directories of root's programs, which a user's PATH may lack."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def last_line(text: str) -> str:
    """The last line of what a program said, which mostly tells why it failed."""
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def mirror() -> str:
    """The Debian mirror that this machine's own apt reads, whatever form its sources have.

    Raises:
        NoContainers: its apt reads no Debian archive.
    """
    found = _debian_targets()
    if not found:
        subprocess.run([*as_root(), "apt-get", "--quiet", "update"], check=False, capture_output=True)
        found = _debian_targets()
    if not found:
        raise NoContainers(
            "Host images are built from this machine's Debian mirror and its apt names none",
            cure="run the tests on Debian, with apt sources that answer",
        )
    return found[0]


def _debian_targets() -> list[str]:
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(SUITE) $(REPO_URI)", "Created-By: Packages"],
        check=False,
        capture_output=True,
        text=True,
    )
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [row[2] for row in rows if len(row) == 3 and row[0] == "Debian" and not row[1].endswith("-security")]


def apt_options() -> Sequence[str]:
    """What this machine's apt was told about reaching mirrors (proxies, clock checks), for another root's apt."""
    dumped = subprocess.run(["apt-config", "dump", "Acquire"], check=False, capture_output=True, text=True).stdout
    wanted = ("Acquire::Check-", "Acquire::http", "Acquire::Retries")
    return [line.rstrip(";") for line in dumped.splitlines() if line.startswith(wanted) and not line.endswith('"";')]


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process of this project at a time is inside."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / f"{name}.lock").open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
