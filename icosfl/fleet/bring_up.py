"""Starts services and waits until each works, the lower priority numbers first, whichever process manager runs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from typing import Protocol

from icosfl.errors import RunFailed
from icosfl.fleet.health import probe, wait_until_healthy
from icosfl.fleet.outcome import Outcome
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import HealthCheck, Service

_LOG_LINES = 15


class Manager(Protocol):
    """What runs services: supervisord, systemd, or Docker."""

    def status(self, name: str) -> Status:
        """Return the status of a service."""

    def check_of(self, service: Service) -> HealthCheck:
        """Return how to ask a service that runs whether it works."""

    def restart(self, services: Collection[Service]) -> None:
        """Start services by their definitions on disk, stopping those that run; does not wait for them."""

    def last_exit(self, name: str) -> str:
        """Return how a service ended last; "" when that is not known."""

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return the last lines that a service wrote."""

    def log_of(self, name: str) -> str:
        """Return where to read what a service writes."""


def by_priority(services: Iterable[Service]) -> Iterator[list[Service]]:
    """Group services in their order of start."""
    ordered = sorted(services, key=lambda service: service.priority)
    return (list(group) for _, group in groupby(ordered, key=lambda service: service.priority))


def start_all(manager: Manager, services: Collection[Service], plan: Outcome) -> list[str]:
    """Start group by group those that the plan starts, each until it works, and restart those that run and do not work.

    Services that the plan calls outdated are left alone.

    Returns:
        The names of those that were restarted.

    Raises:
        RunFailed: One of them does not start to work.
    """
    restarted: list[str] = []
    for group in by_priority(services):
        manager.restart([service for service in group if service.name in plan.started])
        for service in group:
            if service.name in plan.started:
                await_health(manager, service)
            elif service.name not in plan.outdated:
                restarted += repair(manager, service)
    return restarted


def repair_all(manager: Manager, services: Collection[Service], statuses: Mapping[str, Status]) -> list[str]:
    """Restart those that run but do not work; one quick question to each, and patience only with the ill.

    Returns:
        The names of those that were restarted.

    Raises:
        RunFailed: One of them does not work after that either.
    """
    ill = [each for each in services if statuses[each.name].state != "RUNNING" or probe(manager.check_of(each))]
    return [name for service in ill for name in repair(manager, service)]


def repair(manager: Manager, service: Service) -> list[str]:
    """Restart a service that runs but does not work; return its name when it was so.

    Raises:
        RunFailed: It does not work after that either.
    """
    if wait_until_healthy(manager.check_of(service), lambda: manager.status(service.name)).healthy:
        return []
    manager.restart([service])
    await_health(manager, service)
    return [service.name]


def await_health(manager: Manager, service: Service) -> None:
    """Return when a service works.

    Raises:
        RunFailed: It ended, or its time is over; says why and how its log ends.
    """
    verdict = wait_until_healthy(manager.check_of(service), lambda: manager.status(service.name))
    if verdict.healthy:
        return
    reason = verdict.reason
    if verdict.ended:
        reason = f"it ended ({manager.last_exit(service.name) or reason}) while it was to start"
    lines = "".join(f"\n    {line}" for line in manager.last_lines(service.name, _LOG_LINES)) or " nothing"
    raise RunFailed(
        f"service {service.name}: {reason}. Its log ends with:{lines}",
        cure=f"correct what {manager.log_of(service.name)} says, then run the playbook again",
    )
