"""The runtimes that a host's services can have, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from icosfl.fleet import composed, container_plan, supervised, systemd
from icosfl.fleet.container_records import ContainerLayout
from icosfl.fleet.definition import Layout, content_digest
from icosfl.fleet.engine import Engine
from icosfl.fleet.files import Plan
from icosfl.fleet.outcome import Outcome
from icosfl.fleet.ports import Family, Owner
from icosfl.fleet.service import Service
from icosfl.fleet.supervisor import running_pid
from icosfl.fleet.systemd_units import UnitLayout
from icosfl.fleet.usable import refuse_unusable


class Manager(Protocol):
    """What a runtime can do for one host.

    `has_user` tells whether its services have a system user of their own, `has_own_release` whether they run the
    release that is installed on the host, so that another one calls for a restart.
    """

    has_user: ClassVar[bool]
    has_own_release: ClassVar[bool]

    def installed(self) -> frozenset[str]:
        """Return the names of the services that it has."""

    def family(self) -> Owner:
        """Return who listens on ports for what it runs."""

    def refuse_unusable(self, services: Collection[Service], files: Plan) -> None:
        """Refuse services that this machine cannot run."""

    def start(self, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner]) -> Outcome:
        """Make files and start services."""

    def converge(self, *, check: bool) -> Outcome:
        """Restart the services that run by an older definition."""

    def stop(self, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
        """Stop services."""


class _Supervisor:
    has_user: ClassVar[bool] = False
    has_own_release: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._layout = Layout.at(arguments["root"])

    def installed(self) -> frozenset[str]:
        return frozenset(service.name for service in self._layout.installed())

    def family(self) -> Owner:
        return Family(self._layout, running_pid(self._layout))

    def refuse_unusable(self, services: Collection[Service], files: Plan) -> None:
        _refuse_on_host(services, files)

    def start(self, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner]) -> Outcome:
        return supervised.start(self._layout, services, files, check=check, others=others)

    def converge(self, *, check: bool) -> Outcome:
        return supervised.converge(self._layout, check=check)

    def stop(self, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
        return supervised.stop(self._layout, names, remove=remove, check=check)


class _Systemd:
    has_user: ClassVar[bool] = True
    has_own_release: ClassVar[bool] = True

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._layout = UnitLayout.at(arguments["root"], arguments["unit_prefix"], arguments["user"] or "root")

    def installed(self) -> frozenset[str]:
        return frozenset(record.service.name for record in self._layout.installed())

    def family(self) -> Owner:
        return systemd.family(self._layout)

    def refuse_unusable(self, services: Collection[Service], files: Plan) -> None:
        _refuse_on_host(services, files)

    def start(self, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner]) -> Outcome:
        return systemd.start(self._layout, services, files, check=check, others=others)

    def converge(self, *, check: bool) -> Outcome:
        return systemd.converge(self._layout, check=check)

    def stop(self, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
        return systemd.stop(self._layout, names, remove=remove, check=check)


class _Docker:
    has_user: ClassVar[bool] = True
    has_own_release: ClassVar[bool] = False

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._layout = ContainerLayout.at(arguments["root"], arguments["unit_prefix"])
        self._image, self._user = arguments["image"], arguments["user"]

    def installed(self) -> frozenset[str]:
        return frozenset(record.name for record in self._layout.installed())

    def family(self) -> Owner:
        return composed.family(self._layout)

    def refuse_unusable(self, services: Collection[Service], files: Plan) -> None:
        container_plan.refuse_unusable(Engine(), self._given(files), services, files)

    def start(self, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner]) -> Outcome:
        return composed.start(self._given(files), services, files, check=check, others=others)

    def converge(self, *, check: bool) -> Outcome:
        return composed.converge(self._layout, check=check)

    def stop(self, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
        return composed.stop(self._layout, names, remove=remove, check=check)

    def _given(self, files: Plan) -> container_plan.Given:
        owner = files.owner
        user = f"{owner.user}:{owner.group}" if owner.user is not None else self._user  # it is not made yet
        return container_plan.Given(self._layout, self._image or self._layout.image(), user)


def _refuse_on_host(services: Collection[Service], files: Plan) -> None:
    for service in services:
        refuse_unusable(service, files)
        content_digest(service, files.contents, missing_ok=False)


# Each keeps what is its own in a directory of the root that is called as the runtime is, there while anything is
# installed.
_RUNTIMES: Mapping[str, Callable[[Mapping[str, Any]], Manager]] = {
    "supervisor": _Supervisor,
    "systemd": _Systemd,
    "docker": _Docker,
}


def runtime_of(arguments: Mapping[str, Any]) -> Manager:
    """Return the runtime that the arguments of `host_state` name.

    Raises:
        ConfigError: The root or a name cannot be used with it.
    """
    return _RUNTIMES[arguments["runtime"]](arguments)


def others_of(arguments: Mapping[str, Any]) -> list[Manager]:
    """Return the other runtimes that have something at this root.

    Raises:
        ConfigError: A name cannot be used with one of them.
    """
    names = (name for name in _RUNTIMES if name != arguments["runtime"] and Path(arguments["root"], name).exists())
    return [_RUNTIMES[name](arguments) for name in names]
