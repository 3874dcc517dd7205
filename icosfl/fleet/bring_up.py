"""Starts services that supervisord knows and waits until each works, the lower priority numbers first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

from icosfl.errors import RunFailed
from icosfl.fleet.health import wait_until_healthy
from icosfl.fleet.service import Service
from icosfl.fleet.supervisor import Supervisor, last_exit, last_lines

_LOG_LINES = 15


def by_priority(services: Iterable[Service]) -> Iterator[list[Service]]:
    """Group services in their order of start."""
    ordered = sorted(services, key=lambda service: service.priority)
    return (list(group) for _, group in groupby(ordered, key=lambda service: service.priority))


def restart(supervisor: Supervisor, services: Collection[Service]) -> None:
    """Start services by their definitions on disk (after `reload`), stopping those that run; does not wait for them."""
    if services:
        supervisor.stop([service.name for service in services], max(service.stop_seconds for service in services))
    for service in services:
        supervisor.start(service.name)


def repair(supervisor: Supervisor, service: Service) -> list[str]:
    """Restart a service that runs but does not work; return its name when it was so.

    Raises:
        RunFailed: It does not work after that either.
    """
    if wait_until_healthy(service.health, lambda: supervisor.status(service.name)).healthy:
        return []
    restart(supervisor, [service])
    await_health(supervisor, service)
    return [service.name]


def await_health(supervisor: Supervisor, service: Service) -> None:
    """Return when a service works.

    Raises:
        RunFailed: It ended, or its time is over; says why and how its log ends.
    """
    verdict = wait_until_healthy(service.health, lambda: supervisor.status(service.name))
    if verdict.healthy:
        return
    layout, reason = supervisor.layout, verdict.reason
    if verdict.ended:
        reason = f"it ended ({last_exit(layout, service.name) or reason}) while it was to start"
    lines = "".join(f"\n    {line}" for line in last_lines(layout, service.name, _LOG_LINES)) or " nothing"
    raise RunFailed(
        f"service {service.name}: {reason}. Its log ends with:{lines}",
        cure=f"correct what {layout.log(service.name)} says, then run the playbook again",
    )
