"""The inventory joined with what really runs on a host: its services, its store and its model.

Asked on the host itself: its process manager, each service by its own health check, the forecast service over HTTP.
`icosfl.fleet.everywhere` asks whole fleets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from icosfl.errors import IcosflError
from icosfl.fleet import composed, systemd
from icosfl.fleet.container_records import ContainerLayout
from icosfl.fleet.containers import Containers
from icosfl.fleet.definition import Layout
from icosfl.fleet.engine import Engine
from icosfl.fleet.health import probe
from icosfl.fleet.place import Place
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import Service
from icosfl.fleet.supervisor import connect
from icosfl.fleet.systemctl import Systemd
from icosfl.fleet.systemd_units import UnitLayout
from icosfl.serve.client import read_readiness
from icosfl.serve.values import Readiness

Condition = Literal["green", "down", "no new rows", "not deployed", "unreachable"]

RUNNING, STOPPED = "RUNNING", "STOPPED"
NO_MANAGER = "NOT RUNNING"
MISSING = "NOT DEPLOYED"
RETRAINING = "retraining"
ASK_SECONDS = 2.0
NOT_DEPLOYED = "nothing is deployed here: icosfl up"
NEVER_DEPLOYED = "it was never deployed: icosfl up"
SENDERS = "see the logs of host_metrics and otlp_bridge"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service: whether its process runs, and whether it works.

    Args:
        name: The service.
        state: What the process manager says of its process; NOT DEPLOYED for one that the host should have.
        problem: Why it does not work; "" when it does.
        pid: Its process, 0 without one.
        uptime_seconds: Since its process started.
        ports: Where it listens, by name.
        log: Where it writes: a file, or the command that shows it.
        note: What it says of itself, in one line; "" for most.
    """

    name: str
    state: str
    problem: str
    pid: int
    uptime_seconds: int
    ports: Mapping[str, int]
    log: str
    note: str = ""

    @property
    def green(self) -> bool:
        """Whether it runs and works."""
        return self.state == RUNNING and not self.problem


@dataclass(frozen=True, slots=True)
class HostStatus:
    """One logical host: its services, and what its forecast service says of store and model.

    Args:
        host: Its name.
        groups: Its groups in the inventory.
        condition: How it stands altogether.
        reason: Why it is not green; "" when it is.
        services: In their order of start, then those that were never deployed.
        readiness: Of its forecasts; None when the forecast service does not answer.
        cure: What to do when the host cannot be asked; "" otherwise, for then the reason says it.
    """

    host: str
    groups: tuple[str, ...]
    condition: Condition
    reason: str
    services: tuple[ServiceStatus, ...]
    readiness: Readiness | None
    cure: str = ""

    @property
    def green(self) -> bool:
        """Whether every service runs and works, and rows arrive."""
        return self.condition == "green"


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """All hosts of an inventory."""

    environment: str
    hosts: tuple[HostStatus, ...]

    @property
    def green(self) -> bool:
        """Whether every host is green."""
        return all(host.green for host in self.hosts)


def look_at(place: Place, planned: Collection[str] = ()) -> HostStatus:
    """Ask the process manager, the services and the forecast service of a host of this machine.

    Args:
        place: The host.
        planned: The names of the services that it is meant to have.
    """
    try:
        manager = {"systemd": _on_systemd, "docker": _on_docker}.get(place.runtime, _on_supervisor)(place)
    except IcosflError as error:
        return HostStatus(place.name, place.groups, "down", str(error), (), None)
    installed, statuses = manager.installed, manager.statuses
    problems = _problems(installed, statuses or {})
    found = Found(statuses, problems, _readiness(place, statuses), tuple(planned), notes_of(installed))
    return join(place, manager.log, installed, found)


@dataclass(frozen=True, slots=True)
class _Manager:
    """What a host's process manager knows: the services, in their order of start, what they do, where they write."""

    installed: tuple[Service, ...]
    statuses: Mapping[str, Status] | None
    log: Callable[[str], str]


def _on_supervisor(place: Place) -> _Manager:
    layout = Layout.at(str(place.root))
    return _Manager(layout.installed(), _statuses(layout), lambda name: str(layout.log(name)))


def _on_systemd(place: Place) -> _Manager:
    layout = UnitLayout.at(str(place.root), place.unit_prefix, "root")  # nothing is defined: any user will do
    installed = sorted((record.service for record in layout.installed()), key=lambda service: service.priority)
    return _Manager(tuple(installed), systemd.statuses(layout), Systemd(layout).log_of)


def _on_docker(place: Place) -> _Manager:
    layout = ContainerLayout.at(str(place.root), place.unit_prefix)
    containers = Containers(layout, Engine())
    statuses = composed.statuses(layout)
    running = {name for name, status in (statuses or {}).items() if status.up}
    services = (record.service for record in layout.installed())
    installed = (replace(each, health=containers.check_of(each)) if each.name in running else each for each in services)
    return _Manager(tuple(installed), statuses, containers.log_of)


@dataclass(frozen=True, slots=True)
class Found:
    """What really runs on a host, and what should.

    Args:
        statuses: What the process manager says, by service; None when none runs.
        problems: What the health checks of running services found, by service; "" for nothing.
        readiness: What the forecast service says; None when it says nothing.
        planned: The names of the services that the host is meant to have.
        notes: What services say of themselves, by service.
    """

    statuses: Mapping[str, Status] | None
    problems: Mapping[str, str]
    readiness: Readiness | None
    planned: tuple[str, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)


def join(place: Place, log: Callable[[str], str], installed: tuple[Service, ...], found: Found) -> HostStatus:
    """Join what is installed on a host of the inventory with what was found there.

    Args:
        place: The host.
        log: Says where a service writes.
        installed: Its services, in their order of start.
        found: What was found.
    """
    missing = [name for name in found.planned if name not in {service.name for service in installed}]
    services = (
        *(_join(service, log, found) for service in installed),
        *(ServiceStatus(name, MISSING, NEVER_DEPLOYED, 0, 0, {}, log(name)) for name in missing),
    )
    condition: Condition = "green"
    reason = ""
    if not installed:
        return HostStatus(place.name, place.groups, "not deployed", NOT_DEPLOYED, (), found.readiness)
    if all(status.state == STOPPED for status in (found.statuses or {}).values()):
        condition, reason = "down", "its services are stopped: icosfl up"
    elif ill := [service for service in services if not service.green]:
        condition = "down"
        reason = "; ".join(f"{service.name}: {service.problem or service.state}" for service in ill)
    elif reason := _trouble_of_rows(found.readiness, place.node.stale_after_seconds):
        condition = "no new rows"
    return HostStatus(place.name, place.groups, condition, reason, services, found.readiness)


def _trouble_of_rows(readiness: Readiness | None, stale_after_seconds: float) -> str:
    """Why the rows that the forecast service sees do not do; "" when they do, or when it said nothing this time."""
    if readiness is None:
        return ""
    if readiness.store is None:
        return f"its forecast service cannot read the store: {'; '.join(readiness.reasons)}"
    age = readiness.store.age_seconds
    if age is None:
        return f"its store is empty: {SENDERS}"
    if age > stale_after_seconds:
        return f"its newest row is {age:.0f} s old: {SENDERS}"
    if age < -stale_after_seconds:
        return f"its newest row lies {-age:.0f} s in the future: set the clocks of this host and of its sender"
    return ""


def _join(service: Service, log: Callable[[str], str], found: Found) -> ServiceStatus:
    status = (found.statuses or {}).get(service.name) or Status(service.name, NO_MANAGER)
    problem = found.problems.get(service.name, "") if status.state == RUNNING else status.reason
    return ServiceStatus(
        service.name,
        status.state,
        problem,
        status.pid,
        status.uptime_seconds,
        service.ports,
        log(service.name),
        found.notes.get(service.name, "") if status.state == RUNNING else "",
    )


def _statuses(layout: Layout) -> dict[str, Status] | None:
    supervisor = connect(layout)
    if supervisor is None:
        return None
    with supervisor:
        return supervisor.statuses()


def _problems(installed: tuple[Service, ...], statuses: Mapping[str, Status]) -> dict[str, str]:
    """Ask every running service whether it works."""
    running = [each for each in installed if each.name in statuses and statuses[each.name].state == RUNNING]
    if not running:
        return {}
    with ThreadPoolExecutor(max_workers=len(running)) as pool:
        answers = pool.map(lambda service: probe(service.health, ASK_SECONDS), running)
        return {service.name: answer for service, answer in zip(running, answers, strict=True)}


def notes_of(installed: Collection[Service]) -> dict[str, str]:
    """What services say of themselves, by service: what is due next, where the fleet trains by itself.

    Args:
        installed: The services of the host.
    """
    retraining = next((each for each in installed if each.name == RETRAINING), None)
    if retraining is None or not retraining.writes:
        return {}
    from icosfl.fleet.retraining import STATE_FILE, read_note  # only a controller with a schedule needs it

    try:
        return {RETRAINING: read_note(Path(retraining.writes[0]) / STATE_FILE).line}
    except IcosflError:
        return {}  # it is just starting; `icosfl verify` says when it stays so


def _readiness(place: Place, statuses: Mapping[str, Status] | None) -> Readiness | None:
    if not statuses:
        return None
    try:
        return read_readiness(place.forecast, ASK_SECONDS)
    except IcosflError:
        return None  # the forecast service is among the services, with its own state and problem
