"""Brings a host into a wanted state, whichever process manager it has: the logic of the module `host_state`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from icosfl.errors import ConfigError
from icosfl.fleet import supervised
from icosfl.fleet.definition import Layout, secrets_of
from icosfl.fleet.files import Plan, entries_of
from icosfl.fleet.outcome import Outcome
from icosfl.fleet.service import services_of


def bring(arguments: Mapping[str, Any], *, check: bool, hide: Callable[[set[str]], object]) -> Outcome:
    """Do what the module's arguments ask for.

    Args:
        arguments: Of the module, all of them.
        check: Only say what would be done.
        hide: Told each text that no output may show, before anything is done.

    Raises:
        IcosflError: Something is wrong with the arguments, or with the host.
    """
    if arguments["runtime"] != "supervisor":
        raise ConfigError("runtime systemd is not here yet")
    layout, state = Layout.at(arguments["root"]), arguments["state"]
    if state == "started":
        services = services_of(arguments["services"], arguments["limits"])
        hide(secrets_of(services))
        files = Plan(arguments["root"], entries_of(arguments["root"], arguments["directories"], arguments["files"]))
        return supervised.start(layout, services, files, check=check)
    if state == "converged":
        hide(secrets_of(layout.installed()))
        return supervised.converge(layout, check=check)
    asked = arguments["services"]
    names = None if asked is None else [str(service.get("name")) for service in asked]
    return supervised.stop(layout, names, remove=state == "absent", check=check)
