"""Starts services and waits until each works, the lower priority numbers first, whichever process manager runs them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import Protocol

from icosfl.errors import RunFailed
from icosfl.fleet.health import wait_until_healthy
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import Service

_LOG_LINES = 15


class Manager(Protocol):
    """What runs services: supervisord, or systemd."""

    def status(self, name: str) -> Status:
        """Return the status of a service."""

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


def repair(manager: Manager, service: Service) -> list[str]:
    """Restart a service that runs but does not work; return its name when it was so.

    Raises:
        RunFailed: It does not work after that either.
    """
    if wait_until_healthy(service.health, lambda: manager.status(service.name)).healthy:
        return []
    manager.restart([service])
    await_health(manager, service)
    return [service.name]


def await_health(manager: Manager, service: Service) -> None:
    """Return when a service works.

    Raises:
        RunFailed: It ended, or its time is over; says why and how its log ends.
    """
    verdict = wait_until_healthy(service.health, lambda: manager.status(service.name))
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
