"""Whether this machine can carry the fleet: pure checks on facts, each failure with its cure.

`gather` in `icosfl.fleet.machine` makes the facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from packaging.specifiers import SpecifierSet

Level = Literal["ok", "warning", "failed"]

PACKAGES_NAMED = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer: what was asked, how it stands, what was found, and what cures it."""

    name: str
    level: Level
    found: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class BusyPort:
    """A planned port on which something else listens already, and what."""

    host: str
    service: str
    port: int
    holder: str


@dataclass(frozen=True, slots=True)
class Disk:
    """Where files shall go: the free space there, and how much is needed in all."""

    path: Path
    free_mb: int
    needed_mb: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found on this machine.

    Args:
        python: This Python's version.
        python_wanted: The versions that the project runs on, as a specifier.
        packages_wrong: Packages whose installed version (None: not installed) is not the lock's, with the lock's.
        now: What the clock says.
        written: When the newest of the project's own files was written: the past.
        clock_synchronised: Whether the kernel counts its clock as synchronised; None where it does not say.
        memory_mb: Megabytes that new services may take.
        memory_needed_mb: Megabytes that those need which do not run yet.
        disks: One entry a file system that takes data.
        ports_checked: How many ports were tried.
        ports_busy: Planned ports that others hold.
        redis: The server's program by host, and whether it can be executed.
        homes_wrong: Hosts whose directory cannot hold their process manager: what is wrong, and its cure.
    """

    python: str
    python_wanted: str
    packages_wrong: Mapping[str, tuple[str | None, str]]
    now: datetime
    written: datetime
    clock_synchronised: bool | None
    memory_mb: int
    memory_needed_mb: int
    disks: tuple[Disk, ...]
    ports_checked: int
    ports_busy: tuple[BusyPort, ...]
    redis: Mapping[Path, bool]
    homes_wrong: Mapping[str, tuple[str, str]]


def examine(facts: Facts) -> tuple[Check, ...]:
    """Return all checks in the order in which a person would cure them."""
    return (
        _python(facts),
        _packages(facts),
        *_redis(facts),
        _clock(facts),
        _synchronised(facts),
        *_disks(facts),
        _memory(facts),
        *_ports(facts),
        *_homes(facts),
    )


def passed(checks: tuple[Check, ...]) -> bool:
    """Whether no check failed; warnings pass."""
    return all(check.level != "failed" for check in checks)


def _python(facts: Facts) -> Check:
    if SpecifierSet(facts.python_wanted).contains(facts.python, prereleases=True):
        return Check("python", "ok", facts.python)
    return Check(
        "python",
        "failed",
        f"{facts.python}, but the project runs on {facts.python_wanted}",
        "install Python 3.11, then: PYTHON=python3.11 make setup",
    )


def _packages(facts: Facts) -> Check:
    wrong = facts.packages_wrong
    if not wrong:
        return Check("environment", "ok", "every package is the one of requirements.lock")
    named = [
        f"{name} {wanted} is {'missing' if found is None else found}"
        for name, (found, wanted) in sorted(wrong.items())[:PACKAGES_NAMED]
    ]
    more = f" and {len(wrong) - PACKAGES_NAMED} more" if len(wrong) > PACKAGES_NAMED else ""
    return Check(
        "environment", "failed", ", ".join(named) + more, "make the environment anew: rm -rf .venv && make setup"
    )


def _redis(facts: Facts) -> Iterator[Check]:
    for path, works in facts.redis.items():
        if works:
            yield Check("redis", "ok", path.name)
        else:
            yield Check(
                "redis",
                "failed",
                f"{path} is no executable file",
                "make setup, or set icosfl_redis_binary to a redis-server or valkey-server",
            )


def _clock(facts: Facts) -> Check:
    if facts.now >= facts.written:
        return Check("clock", "ok", facts.now.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
    return Check(
        "clock",
        "failed",
        f"it says {facts.now:%Y-%m-%d %H:%M}, but this project's files were written on {facts.written:%Y-%m-%d}",
        "set the clock, for example: chronyd -q, or date -s",
    )


def _synchronised(facts: Facts) -> Check:
    match facts.clock_synchronised:
        case True:
            return Check("time synchronisation", "ok", "the kernel's clock is synchronised")
        case None:
            return Check("time synchronisation", "ok", "not known on this system")
        case False:
            return Check(
                "time synchronisation",
                "warning",
                "the kernel does not count its clock as synchronised",
                "nothing on one machine; for a fleet of several run chrony or systemd-timesyncd on each",
            )


def _disks(facts: Facts) -> Iterator[Check]:
    for disk in facts.disks:
        found = f"{disk.free_mb} MB free at {disk.path}, {disk.needed_mb} MB needed"
        if disk.free_mb >= disk.needed_mb:
            yield Check("disk", "ok", found)
        else:
            yield Check("disk", "failed", found, "free some space, or set icosfl_home to a larger file system")


def _memory(facts: Facts) -> Check:
    found = f"{facts.memory_mb} MB available, {facts.memory_needed_mb} MB needed by hosts that do not run yet"
    if facts.memory_mb >= facts.memory_needed_mb:
        return Check("memory", "ok", found)
    return Check("memory", "failed", found, "stop other programs, or take logical hosts out of the inventory")


def _ports(facts: Facts) -> Iterator[Check]:
    if not facts.ports_busy:
        yield Check("ports", "ok", f"{facts.ports_checked} planned ports are free or this fleet's own")
    groups: dict[tuple[str, str], list[BusyPort]] = {}
    for busy in facts.ports_busy:
        groups.setdefault((busy.host, busy.holder), []).append(busy)
    for (host, holder), ports in groups.items():
        named = ", ".join(f"{busy.port} ({busy.service})" for busy in ports)
        yield Check(
            "ports",
            "failed",
            f"{host}: {named}: {holder} listens there",
            f"stop it, or give {host} another icosfl_slot, or single ports by icosfl_port_overrides",
        )


def _homes(facts: Facts) -> Iterator[Check]:
    for host, (message, cure) in facts.homes_wrong.items():
        yield Check("directories", "failed", f"{host}: {message}", cure)
    if not facts.homes_wrong:
        yield Check("directories", "ok", "short enough for sockets, and ours")
