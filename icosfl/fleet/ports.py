"""Who listens on which port of this machine, and which processes are a host's: of its units, containers, supervisord.

A process belongs to a host's root directory when it descends from its supervisord, is in the session that this
supervisord made, or carries the address of its socket in the environment, as everything does that supervisord starts.
So services that outlived a supervisord which was killed, and a supervisord whose directory was deleted, are told
apart from a stranger's.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from icosfl.errors import Unavailable, UserError
from icosfl.fleet.definition import Layout

_COMMAND_CHARACTERS = 120
_STRAY_SECONDS = 10.0
# Who listens on a published port, by the engine's userland-proxy.
_OF_DOCKER = frozenset({"docker-proxy", "dockerd", "rootlesskit"})


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens on a port; `pid` 0 and `command` "" when it is another user's."""

    port: int
    pid: int
    command: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.command})" if self.pid else "a process of another user"


def listeners(ports: Iterable[int]) -> dict[int, Listener]:
    """Return who listens on any of these ports, whatever the address."""
    wanted = set(ports)
    if not wanted:
        return {}
    found: dict[int, Listener] = {}
    for connection in psutil.net_connections("tcp"):
        port = connection.laddr.port if connection.laddr else 0
        if connection.status == psutil.CONN_LISTEN and port in wanted and (port not in found or connection.pid):
            found[port] = Listener(port, connection.pid or 0, _command(connection.pid))
    return found


class Owner(Protocol):
    """Tells which processes are a host's."""

    def has(self, listener: Listener) -> bool:
        """Return whether who listens belongs to this host."""


class UnitFamily:
    """The processes of one host's systemd units, told by their control groups.

    Args:
        units: The names of the units.
        ports: Where those of them that run are meant to listen. It counts where root may not look into other users'
            processes (in containers), and so cannot know who listens.
    """

    def __init__(self, units: Collection[str], ports: Collection[int]) -> None:
        self._units, self._ports = frozenset(units), frozenset(ports)

    def has(self, listener: Listener) -> bool:
        """Return whether who listens belongs to one of the units."""
        return self._owns(listener.pid) if listener.pid else listener.port in self._ports

    def _owns(self, pid: int) -> bool:
        return any(not self._units.isdisjoint(line.split("/")) for line in _groups(pid).splitlines())


class ContainerFamily:
    """The processes of one host's containers, and those with which Docker offers their ports.

    Args:
        ids: Of the containers that run.
        ports: Those that the machine offers for them, or where they listen on the machine's own network.
    """

    def __init__(self, ids: Collection[str], ports: Collection[int]) -> None:
        self._ids, self._ports = frozenset(ids), frozenset(ports)

    def has(self, listener: Listener) -> bool:
        """Return whether who listens belongs to one of the containers."""
        if listener.port in self._ports and (not listener.pid or _program(listener.pid) in _OF_DOCKER):
            return True
        groups = _groups(listener.pid)
        return any(id_ in groups for id_ in self._ids)


class AnyOf:
    """Several owners as one.

    Args:
        owners: Each of them.
    """

    def __init__(self, owners: Iterable[Owner]) -> None:
        self._owners = tuple(owners)

    def has(self, listener: Listener) -> bool:
        """Return whether who listens belongs to one of the owners."""
        return any(owner.has(listener) for owner in self._owners)


class Family:
    """The processes that belong to one host's root directory.

    Args:
        layout: The host's files.
        supervisor_pid: Its supervisord, or 0 when none runs.
    """

    def __init__(self, layout: Layout, supervisor_pid: int) -> None:
        self._url, self._config = f"unix://{layout.socket}", str(layout.config)
        self._supervisor = supervisor_pid
        self._session = supervisor_pid or _dead_supervisor(layout)
        self._programs = {} if supervisor_pid else _programs(layout)

    def has(self, listener: Listener) -> bool:
        """Return whether who listens belongs to this host."""
        return bool(listener.pid) and self.owns(listener.pid)

    def owns(self, pid: int) -> bool:
        """Return whether a process belongs to this host."""
        return self.descends(pid) or self._marked(pid)

    def descends(self, pid: int) -> bool:
        """Return whether a process is the running supervisord or a descendant of it."""
        return bool(self._supervisor) and self.service_pid(pid) != 0

    def service_pid(self, pid: int) -> int:
        """Return the process, started by supervisord itself, from which this one descends; 0 when it does not."""
        try:
            process = psutil.Process(pid)
            line = [process.pid, *(parent.pid for parent in process.parents())]
        except psutil.Error:
            return 0
        if self._supervisor not in line:
            return 0
        return line[max(0, line.index(self._supervisor) - 1)]

    def strays(self) -> list[psutil.Process]:
        """Return the processes of this host that no supervisord looks after any more."""
        mine = os.getuid()
        return [
            process
            for process in psutil.process_iter()
            if _owner(process) == mine and self._marked(process.pid) and not self.descends(process.pid)
        ]

    def _marked(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            if process.environ().get("SUPERVISOR_SERVER_URL") == self._url or self._config in process.cmdline():
                return True
            if not self._session or os.getsid(pid) != self._session or pid == self._session:
                return False
            # A program may overwrite its environment (Redis does). A living supervisord's session is proof enough; a
            # dead one's number may be in use again, so the program must be one of this host's, too.
            return bool(self._supervisor) or process.exe() in self._programs
        except (psutil.Error, OSError):
            return False


def stop_strays(strays: Iterable[psutil.Process]) -> list[str]:
    """End processes that outlived their supervisord and return what they were.

    Raises:
        Unavailable: One of them cannot be ended.
    """
    left = list(strays)
    described = [f"pid {process.pid} ({_command(process.pid)})" for process in left]
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            try:
                end(process)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, _STRAY_SECONDS)
        left = [process for process in left if _runs(process.pid)]
    if left:
        raise Unavailable(
            f"pid {left[0].pid}, left behind by a supervisord that was killed, does not end",
            cure=f"kill -9 {left[0].pid}",
        )
    return described


def refuse_foreign(ports: Mapping[str, int], family: Owner) -> tuple[Listener, ...]:
    """Refuse when any port is listened on by a process that does not belong to this host.

    Returns:
        Those of this host that listen on the ports.

    Raises:
        UserError: Names every such port with its process.
    """
    found = listeners(ports.values())
    taken = [(name, found[port]) for name, port in sorted(ports.items(), key=lambda item: item[1]) if port in found]
    foreign = [f"port {by.port} ({name}) is already used by {by}" for name, by in taken if not family.has(by)]
    if foreign:
        raise UserError("; ".join(foreign), cure="stop it, or give this host another icosfl_slot or other icosfl_ports")
    return tuple(found.values())


def _groups(pid: int) -> str:
    """Return the control groups of a process; "" when it is gone, or not to be seen."""
    try:
        return Path(f"/proc/{pid}/cgroup").read_text("utf-8")
    except OSError:
        return ""


def _program(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


def _command(pid: int | None) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:_COMMAND_CHARACTERS] if pid else ""
    except psutil.Error:
        return "its command line cannot be read"


def _runs(pid: int) -> bool:
    """Return whether a process runs; one that ended and that nobody has reaped yet does not."""
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _owner(process: psutil.Process) -> int:
    try:
        return process.uids().real
    except psutil.Error:
        return -1


def _dead_supervisor(layout: Layout) -> int:
    """Return the id of the last supervisord when it was killed since this machine started, else 0."""
    try:
        since = layout.pidfile.stat().st_mtime
        pid = int(layout.pidfile.read_text("utf-8"))
    except (OSError, ValueError):
        return 0
    return 0 if since < psutil.boot_time() or _runs(pid) else pid


def _programs(layout: Layout) -> frozenset[str]:
    return frozenset(str(Path(service.command[0]).resolve()) for service in layout.installed())
