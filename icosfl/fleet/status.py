"""The inventory joined with what really runs: each host's services, its store and its model.

Hosts of this machine are asked directly: their supervisord over its socket, each service by its own health check, the
forecast service over HTTP. Other machines are not reachable without SSH, and said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icosfl.errors import IcosflError
from icosfl.fleet.definition import Layout
from icosfl.fleet.health import probe
from icosfl.fleet.inventory import Fleet, Host
from icosfl.fleet.service import Service
from icosfl.fleet.supervisor import Status, connect
from icosfl.serve.client import read_readiness
from icosfl.serve.values import Readiness

Condition = Literal["green", "down", "not deployed", "unreachable from here"]

RUNNING = "RUNNING"
NO_MANAGER = "NOT RUNNING"
ASK_SECONDS = 2.0
ELSEWHERE = "on another machine: status over SSH comes with the SSH fleet"
NOT_DEPLOYED = "nothing is deployed here: icosfl up"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service: whether its process runs, and whether it works.

    Args:
        name: The service.
        state: What supervisord says of its process.
        problem: Why it does not work; "" when it does.
        pid: Its process, 0 without one.
        uptime_seconds: Since its process started.
        ports: Where it listens, by name.
        log: What it writes.
    """

    name: str
    state: str
    problem: str
    pid: int
    uptime_seconds: int
    ports: Mapping[str, int]
    log: Path

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
        services: In their order of start.
        readiness: Of its forecasts; None when the forecast service does not answer.
    """

    host: str
    groups: tuple[str, ...]
    condition: Condition
    reason: str
    services: tuple[ServiceStatus, ...]
    readiness: Readiness | None

    @property
    def green(self) -> bool:
        """Whether every service runs and works."""
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


def look(fleet: Fleet) -> FleetStatus:
    """Ask every host of the fleet, all at the same time; a host that cannot be asked is told with its reason."""
    with ThreadPoolExecutor(max_workers=max(len(fleet.hosts), 1)) as pool:
        return FleetStatus(fleet.environment, tuple(pool.map(look_at, fleet.hosts)))


def look_at(host: Host) -> HostStatus:
    """Ask one host's process manager, its services and its forecast service."""
    if not host.is_local:
        return HostStatus(host.name, host.groups, "unreachable from here", ELSEWHERE, (), None)
    try:
        layout = Layout.at(str(host.paths["root"]))
        installed = layout.installed()
        statuses = _statuses(layout)
    except IcosflError as error:
        return HostStatus(host.name, host.groups, "down", str(error), (), None)
    return join(
        host, layout, installed, Found(statuses, _problems(installed, statuses or {}), _readiness(host, statuses))
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What really runs on a host.

    Args:
        statuses: What supervisord says, by service; None when none runs.
        problems: What the health checks of running services found, by service; "" for nothing.
        readiness: What the forecast service says; None when it says nothing.
    """

    statuses: Mapping[str, Status] | None
    problems: Mapping[str, str]
    readiness: Readiness | None


def join(host: Host, layout: Layout, installed: tuple[Service, ...], found: Found) -> HostStatus:
    """Join what is installed on a host of the inventory with what was found there."""
    services = tuple(_join(service, layout, found) for service in installed)
    condition: Condition = "green"
    reason = ""
    if not services:
        condition, reason = "not deployed", NOT_DEPLOYED
    elif found.statuses is None:
        condition, reason = "down", "its services are stopped: icosfl up"
    elif ill := [service for service in services if not service.green]:
        condition = "down"
        reason = "; ".join(f"{service.name}: {service.problem or service.state}" for service in ill)
    return HostStatus(host.name, host.groups, condition, reason, services, found.readiness)


def _join(service: Service, layout: Layout, found: Found) -> ServiceStatus:
    status = (found.statuses or {}).get(service.name) or Status(service.name, NO_MANAGER)
    problem = found.problems.get(service.name, "") if status.state == RUNNING else status.reason
    return ServiceStatus(
        service.name,
        status.state,
        problem,
        status.pid,
        status.uptime_seconds,
        service.ports,
        layout.log(service.name),
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


def _readiness(host: Host, statuses: Mapping[str, Status] | None) -> Readiness | None:
    if not statuses:
        return None
    try:
        return read_readiness(host.endpoint("forecast"), ASK_SECONDS)
    except IcosflError:
        return None  # the forecast service is among the services, with its own state and problem
