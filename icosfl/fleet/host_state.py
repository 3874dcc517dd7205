"""Brings a host into a wanted state, whichever process manager it has: the logic of the module `host_state`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from icosfl.errors import ConfigError
from icosfl.fleet import supervised, systemd
from icosfl.fleet.definition import Layout, secrets_of
from icosfl.fleet.files import Entry, Ownership, Plan, entries_of
from icosfl.fleet.outcome import Outcome
from icosfl.fleet.service import Service, services_of
from icosfl.fleet.systemd_units import UnitLayout


def bring(arguments: Mapping[str, Any], *, check: bool, hide: Callable[[set[str]], object]) -> Outcome:
    """Do what the module's arguments ask for.

    Args:
        arguments: Of the module, all of them.
        check: Only say what would be done.
        hide: Told each text that no output may show, before anything is done.

    Raises:
        IcosflError: Something is wrong with the arguments, or with the host.
    """
    root, state, asked = arguments["root"], arguments["state"], arguments["services"]
    names = None if asked is None else [str(service.get("name")) for service in asked]
    on_systemd = arguments["runtime"] == "systemd"
    manager: _Manager = _on_systemd(arguments) if on_systemd else _on_supervisor(root)
    if state == "started":
        services = _with_files(services_of(asked, arguments["limits"]), arguments["restart_files"])
        hide(secrets_of(services))
        entries = entries_of(root, [*arguments["directories"], *_written(arguments, services)], arguments["files"])
        owner = Ownership()
        if on_systemd:
            owner = _ownership(arguments["user"], check=check)
            if all(entry.path != root for entry in entries):
                entries = (Entry(root, 0o700, writable=False), *entries)
        files = Plan(root, entries, owner)
        surplus = manager.installed() - {service.name for service in services} if arguments["prune"] else frozenset()
        dropped = manager.stop(surplus, remove=True, check=check) if surplus else Outcome()
        done = manager.start(services, files, check=check)
        return replace(done, stopped=dropped.stopped, removed=dropped.removed)
    if state == "converged":
        return manager.converge(check=check)
    return manager.stop(names, remove=state == "absent", check=check)


def _written(arguments: Mapping[str, Any], services: Iterable[Service]) -> list[dict[str, Any]]:
    """Return the directories that services write and no role describes: they are there before the services are."""
    root, described = arguments["root"], {each.get("path") for each in arguments["directories"]}
    wanted = {path for service in services for path in service.writes} - described
    return [{"path": path} for path in sorted(wanted) if Path(path).is_relative_to(root)]


def _with_files(services: Iterable[Service], files: Iterable[str]) -> tuple[Service, ...]:
    """Return the services with more files whose change calls for a restart."""
    return tuple(replace(service, files=(*service.files, *files)) for service in services)


@dataclass(frozen=True, slots=True)
class _Manager:
    """What a process manager can do for one host, and the names of the services that it has."""

    installed: Callable[[], frozenset[str]]
    start: Callable[..., Outcome]
    converge: Callable[..., Outcome]
    stop: Callable[..., Outcome]


def _on_supervisor(root: str) -> _Manager:
    layout = Layout.at(root)
    verbs = (partial(each, layout) for each in (supervised.start, supervised.converge, supervised.stop))
    return _Manager(lambda: frozenset(service.name for service in layout.installed()), *verbs)


def _on_systemd(arguments: Mapping[str, Any]) -> _Manager:
    layout = UnitLayout.at(arguments["root"], arguments["unit_prefix"], arguments["user"] or "root")
    verbs = (partial(each, layout) for each in (systemd.start, systemd.converge, systemd.stop))
    return _Manager(lambda: frozenset(record.service.name for record in layout.installed()), *verbs)


def _ownership(user: str, *, check: bool) -> Ownership:
    if not user:
        raise ConfigError("user is missing", cure="set icosfl_user to the system user of the services")
    try:
        found = pwd.getpwnam(user)
    except KeyError as error:
        if check:  # a bare host, rehearsed
            return Ownership()
        raise ConfigError(f"user {user} does not exist", cure="run site.yml as a whole, which makes it") from error
    return Ownership(found.pw_uid, found.pw_gid, os.geteuid())
