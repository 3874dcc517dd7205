"""Gathers the facts about this machine on which `icosfl.fleet.preflight` judges; reads only, changes nothing."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from icosfl.errors import ConfigError, IcosflError, Unavailable
from icosfl.fleet.definition import Layout
from icosfl.fleet.inventory import Fleet, Host
from icosfl.fleet.ports import Family, listeners
from icosfl.fleet.preflight import BusyPort, Disk, Facts
from icosfl.fleet.supervisor import connect

MIB = 1024 * 1024
RUNNING_DISK_MB = 64
"""What a host that runs already still needs for its next checkpoints, models and logs."""
_PIN = re.compile(r"^(?P<requirement>[A-Za-z0-9][^\s#\\]*(?:\s*;[^\\#]+)?)", re.MULTILINE)
_CLOCK_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)


@dataclass(frozen=True, slots=True)
class _Home:
    """A host of this machine, and the processes that are its own already; `wrong` says why it cannot have any."""

    host: Host
    family: Family | None
    running: bool
    wrong: IcosflError | None = None

    @classmethod
    def of(cls, host: Host) -> _Home:
        try:
            layout = Layout.at(str(host.paths["root"]))
            supervisor = connect(layout)
        except (ConfigError, Unavailable) as error:
            return cls(host, None, running=False, wrong=error)
        if supervisor is None:
            return cls(host, Family(layout, 0), running=False)
        with supervisor:
            return cls(host, Family(layout, supervisor.pid()), running=True)

    def owns(self, pid: int) -> bool:
        return bool(pid) and self.family is not None and self.family.owns(pid)


def gather(fleet: Fleet) -> Facts:
    """Look at this machine as the home of the fleet's local hosts.

    Raises:
        ConfigError: requirements.lock cannot be read.
    """
    homes = [_Home.of(host) for host in fleet.hosts if host.is_local]
    hosts = [home.host for home in homes]
    lock = fleet.project / "requirements.lock"
    pins = tuple(_pins(lock))
    idle = [home.host for home in homes if not home.running]
    return Facts(
        python=platform.python_version(),
        python_wanted=metadata.metadata("icosfl")["Requires-Python"],
        packages_wrong=dict(_wrong_packages(pins)),
        now=datetime.now(UTC),
        written=datetime.fromtimestamp(lock.stat().st_mtime, UTC),
        clock_synchronised=_clock_synchronised(),
        memory_mb=_available_memory() // MIB,
        memory_needed_mb=sum(host.required_memory_mb for host in idle),
        disks=tuple(_disks(homes)),
        ports_checked=sum(len(host.ports) for host in hosts),
        ports_busy=tuple(_busy_ports(homes)),
        redis={host.redis_binary: os.access(host.redis_binary, os.X_OK) for host in hosts},
        homes_wrong={home.host.name: (home.wrong.message, home.wrong.cure) for home in homes if home.wrong},
    )


def _wrong_packages(pins: Iterable[Requirement]) -> Iterator[tuple[str, tuple[str | None, str]]]:
    installed = {canonicalize_name(each.metadata["Name"]): each.version for each in metadata.distributions()}
    for requirement in pins:
        name = canonicalize_name(requirement.name)
        if not requirement.specifier.contains(installed.get(name, "0"), prereleases=True) or name not in installed:
            yield name, (installed.get(name), str(requirement.specifier).removeprefix("=="))


def _pins(lock: Path) -> Iterator[Requirement]:
    try:
        text = lock.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{lock}: {error.strerror}", cure="run icosfl in a complete checkout") from error
    for found in _PIN.finditer(text):
        requirement = Requirement(found["requirement"].strip())
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def _clock_synchronised() -> bool | None:
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = int(adjtimex(ctypes.create_string_buffer(512)))  # all zero: read, set nothing
    return None if state < 0 else state != _CLOCK_UNSYNCHRONISED


def _available_memory() -> int:
    """Bytes that new processes may take: of the machine, or of the control group that we run in."""
    available = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return available
    return available if limit == "max" else min(available, int(limit) - int(used))


def _disks(homes: Iterable[_Home]) -> Iterator[Disk]:
    needed: dict[int, tuple[Path, int]] = {}
    for home in homes:
        root = home.host.paths["root"]
        place = next(path for path in (root, *root.parents) if path.exists())
        device = place.stat().st_dev
        path, megabytes = needed.get(device, (place, 0))
        needed[device] = path, megabytes + (RUNNING_DISK_MB if home.running else home.host.required_disk_mb)
    for path, megabytes in needed.values():
        yield Disk(path, shutil.disk_usage(path).free // MIB, megabytes)


def _busy_ports(hosts: Iterable[_Home]) -> Iterator[BusyPort]:
    held = listeners(port for home in hosts for port in home.host.ports.values())
    for home in hosts:
        for service, port in home.host.ports.items():
            holder = held.get(port)
            if holder is not None and not home.owns(holder.pid):
                yield BusyPort(home.host.name, service, port, str(holder))
