"""Asks the hosts of a fleet wherever they are: those of this machine directly, all others by Ansible, all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Self, TypeVar

from icosfl.config import run_config
from icosfl.fleet.afar import Answer, Trouble, ask_afar
from icosfl.fleet.inventory import Fleet, Host
from icosfl.fleet.outlook import Outlook, ask
from icosfl.fleet.place import place_of
from icosfl.fleet.planned import planned_services, read_plan
from icosfl.fleet.status import FleetStatus, HostStatus, look_at
from icosfl.fleet.watch import Reading, Watched, needed_rows, no_reading, open_node, patience_seconds, settings_of
from icosfl.store import SeriesStore

HERE_SECONDS = 1.0
AFAR_SECONDS = 10.0
UNSAID = Trouble("down", "it did not say", "bring the host to this release: icosfl up")

T = TypeVar("T")


def asked_here(host: Host) -> bool:
    """Whether a host can be asked without Ansible: its services run on this machine as this user."""
    return host.is_local and host.runtime == "supervisor"


def seconds_between_looks(hosts: Sequence[Host], here: float = HERE_SECONDS, afar: float = AFAR_SECONDS) -> float:
    """How long to wait between two looks at these hosts: each one over SSH costs about a second of processor time."""
    return here if all(asked_here(host) for host in hosts) else afar


def look(fleet: Fleet, hosts: Sequence[Host] | None = None) -> FleetStatus:
    """Ask what runs on every host; one that cannot be asked is told with its reason.

    Raises:
        ConfigError: site.yml or its roles cannot be read.
        RunFailed: Ansible cannot be run at all.
    """
    plan = read_plan(fleet.project)

    def here(host: Host) -> HostStatus:
        return look_at(place_of(host), planned_services(plan, host.groups))

    def afar(host: Host, answer: Answer) -> HostStatus:
        if isinstance(answer, Trouble):
            return HostStatus(host.name, host.groups, answer.condition, answer.reason, (), None, answer.cure)
        status = answer.status or afar(host, UNSAID)
        return replace(status, groups=host.groups)

    return FleetStatus(fleet.environment, _everywhere(fleet, hosts, "status", here, afar))


def ask_all(fleet: Fleet, hosts: Sequence[Host] | None = None) -> tuple[Outlook, ...]:
    """Ask what every node forecasts.

    Raises:
        RunFailed: Ansible cannot be run at all.
    """

    def afar(host: Host, answer: Answer) -> Outlook:
        found = answer.outlook or UNSAID if not isinstance(answer, Trouble) else answer
        return Outlook(host.name, None, None, str(found)) if isinstance(found, Trouble) else found

    return _everywhere(fleet, hosts, "outlook", lambda host: ask(place_of(host)), afar)


class Watch:
    """All nodes of a fleet, read again and again; a context manager that holds the stores of this machine open.

    Args:
        fleet: The hosts.

    Raises:
        ConfigError: the run configuration is wrong.
    """

    def __init__(self, fleet: Fleet) -> None:
        configuration = run_config(fleet.project)
        self._fleet = fleet
        self._open = ExitStack()
        self._settings = {host.name: settings_of(place_of(host), configuration) for host in fleet.hosts}
        self._nodes = {
            host.name: Watched(place_of(host), self._settings[host.name], self._store(host))
            for host in fleet.hosts
            if asked_here(host)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def read(self) -> tuple[Reading, ...]:
        """Read every node once, all at the same time.

        Raises:
            RunFailed: Ansible cannot be run at all.
        """
        now = datetime.now(UTC)

        def afar(host: Host, answer: Answer) -> Reading:
            found = answer.reading or UNSAID if not isinstance(answer, Trouble) else answer
            return no_reading(host.name, self._needed(host), found.reason) if isinstance(found, Trouble) else found

        return _everywhere(self._fleet, None, "reading", lambda host: self._nodes[host.name].read(now), afar)

    def patience_seconds(self) -> float:
        """How long to wait until every node is ready."""
        return patience_seconds((self._needed(host), host.node.period_seconds) for host in self._fleet.hosts)

    def _store(self, host: Host) -> SeriesStore:
        return self._open.enter_context(open_node(place_of(host)))

    def _needed(self, host: Host) -> int:
        return needed_rows(place_of(host), self._settings[host.name])


def _everywhere(
    fleet: Fleet,
    hosts: Sequence[Host] | None,
    page: str,
    here: Callable[[Host], T],
    afar: Callable[[Host, Answer], T],
) -> tuple[T, ...]:
    """Ask hosts (None: all) for one page, those of this machine in threads while Ansible asks the others."""
    asked = fleet.hosts if hosts is None else tuple(hosts)
    near = [host for host in asked if asked_here(host)]
    with ThreadPoolExecutor(max_workers=max(len(near), 1)) as pool:
        found = {host.name: pool.submit(here, host) for host in near}
        answers = ask_afar(fleet, [host for host in asked if host.name not in found], [page])
        return tuple(
            found[host.name].result() if host.name in found else afar(host, answers[host.name]) for host in asked
        )
