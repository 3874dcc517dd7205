"""Brings a host into a wanted state, whichever process manager it has: the logic of the module `host_state`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from icosfl.errors import ConfigError
from icosfl.fleet.definition import secrets_of
from icosfl.fleet.files import Entry, Ownership, Plan, entries_of
from icosfl.fleet.handover import hand_over
from icosfl.fleet.outcome import Outcome
from icosfl.fleet.runtimes import Manager, others_of, runtime_of
from icosfl.fleet.service import Service, services_of


def bring(arguments: Mapping[str, Any], *, check: bool, hide: Callable[[set[str]], object]) -> Outcome:
    """Do what the module's arguments ask for.

    What another runtime has installed at the same root is stopped and removed before anything starts, and once it is
    sure that this one could start; it ends when all ends, too.

    Args:
        arguments: Of the module, all of them.
        check: Only say what would be done.
        hide: Told each text that no output may show, before anything is done.

    Raises:
        IcosflError: Something is wrong with the arguments, or with the host.
    """
    state, asked = arguments["state"], arguments["services"]
    manager = runtime_of(arguments)
    if state == "started":
        return _start(manager, arguments, check=check, hide=hide)
    if state == "converged":
        return manager.converge(check=check)
    names = None if asked is None else [str(service.get("name")) for service in asked]
    ended = [each.stop(names, remove=state == "absent", check=check) for each in (*others_of(arguments), manager)]
    return _together(ended)


def _start(
    manager: Manager, arguments: Mapping[str, Any], *, check: bool, hide: Callable[[set[str]], object]
) -> Outcome:
    root = arguments["root"]
    services = services_of(arguments["services"], arguments["limits"])
    if manager.has_own_release:
        services = tuple(replace(each, files=(*each.files, *arguments["restart_files"])) for each in services)
    hide(secrets_of(services))
    entries = entries_of(root, [*arguments["directories"], *_written(arguments, services)], arguments["files"])
    owner = Ownership()
    if manager.has_user:
        owner = _ownership(arguments["user"], check=check)
        if all(entry.path != root for entry in entries):
            entries = (Entry(root, 0o700, writable=False), *entries)
    files = Plan(root, entries, owner)
    leaving = others_of(arguments)
    owners = [each.family() for each in leaving]
    dropped = []
    if leaving:
        if not check:
            manager.refuse_unusable(services, files)
        manager.start(services, files, check=True, others=owners)  # refuses before anything is stopped
        dropped = [each.stop(None, remove=True, check=check) for each in leaving]
        if not check:
            written = {path for service in services for path in service.writes if Path(path).is_relative_to(root)}
            hand_over(sorted(written), owner)
            files = Plan(root, entries, owner)
    surplus = manager.installed() - {service.name for service in services} if arguments["prune"] else frozenset()
    if surplus:
        dropped.append(manager.stop(surplus, remove=True, check=check))
    done = manager.start(services, files, check=check, others=owners)
    return _together([*dropped, done])


def _together(outcomes: Collection[Outcome]) -> Outcome:
    """Return what was done in several steps, of which only the last started anything."""
    *_, last = outcomes
    stopped, removed = ([name for each in outcomes for name in getattr(each, key)] for key in ("stopped", "removed"))
    return replace(last, stopped=tuple(stopped), removed=tuple(removed))


def _written(arguments: Mapping[str, Any], services: Iterable[Service]) -> list[dict[str, Any]]:
    """Return the directories that services write and no role describes: they are there before the services are."""
    root, described = arguments["root"], {each.get("path") for each in arguments["directories"]}
    wanted = {path for service in services for path in service.writes} - described
    return [{"path": path} for path in sorted(wanted) if Path(path).is_relative_to(root)]


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
