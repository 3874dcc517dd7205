"""Brings the services of one host into a wanted state with supervisord: started, converged, stopped or absent.

Every function first finds out what there is to do, and does nothing but say so when `check` is set. Its second call
finds nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet.daemon import exclusive, forget, start_daemon, stop_daemon, translated, write
from icosfl.fleet.definition import Layout, content_digest, masked, program_text
from icosfl.fleet.health import wait_until_healthy
from icosfl.fleet.ports import Family, refuse_foreign, stop_strays
from icosfl.fleet.service import Service
from icosfl.fleet.supervisor import Status, Supervisor, connect, last_exit, last_lines

_DAEMON = "supervisord"
_LOG_LINES = 15
_DAEMON_STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A program section before and after, without secrets; "" where there is none."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or in check mode what would be, by the services' names.

    `outdated` run by an older definition than the one on disk and await `converge`. `statuses` are of the services
    asked for.
    """

    started: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    rewritten: tuple[Rewritten, ...] = ()
    statuses: tuple[Status, ...] = field(default=(), compare=False)

    @property
    def changed(self) -> bool:
        """Whether anything was or would be changed."""
        return self != Outcome()


def start(layout: Layout, services: Collection[Service], *, check: bool) -> Outcome:
    """Define services and start those that do not run, in order of priority, each until it works.

    Those that run by another definition keep running: they are reported as outdated. One that runs but does not work
    is restarted.

    Raises:
        ConfigError: A definition cannot be used on this machine.
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its log.
        Unavailable: Supervisord does not answer.
    """
    if not check:
        for service in services:
            _refuse_unusable(service)
    texts = {
        service.name: program_text(service, layout, content_digest(service, missing_ok=check)) for service in services
    }
    with _connected(layout) as supervisor:
        statuses = supervisor.statuses() if supervisor else {}
        reloaded = supervisor.reload().changed if supervisor else frozenset()
        rewritten = tuple(_rewritten(layout, texts))
        differs = reloaded | {Path(each.path).stem for each in rewritten}
        up = {name for name in texts if name in statuses and statuses[name].up}
        plan = Outcome(
            started=tuple(service.name for service in services if service.name not in up),
            outdated=tuple(service.name for service in services if service.name in up & differs),
            rewritten=rewritten,
        )
        touched = {*plan.started, *plan.outdated}
        _free_ports(layout, supervisor, [service for service in services if service.name in touched], check=check)
        if check:
            return plan
    restarted = _start(layout, services, texts, plan) if plan.changed else _restart_broken(layout, services)
    with _connected(layout) as supervisor:
        now = supervisor.statuses() if supervisor else {}
    return Outcome(
        plan.started,
        restarted,
        outdated=plan.outdated,
        rewritten=rewritten,
        statuses=tuple(now[service.name] for service in services if service.name in now),
    )


def converge(layout: Layout, *, check: bool) -> Outcome:
    """Restart the services whose definition on disk differs from the one that they run by, each until it works.

    Raises:
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its log.
        Unavailable: Supervisord does not answer.
    """
    with _connected(layout) as supervisor:
        if supervisor is None:
            return Outcome()
        changed = supervisor.reload().changed
        services = [service for service in layout.installed() if service.name in changed]
        outcome = Outcome(restarted=tuple(service.name for service in services))
        if check or not services:
            return outcome
        _free_ports(layout, supervisor, services, check=False)
        with exclusive(layout):
            for group in _by_priority(services):
                _restart(supervisor, group)
                for service in group:
                    _await(supervisor, service)
        now = supervisor.statuses()
    return Outcome(restarted=outcome.restarted, statuses=tuple(now[name] for name in outcome.restarted))


def stop(layout: Layout, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
    """Stop services, those of the highest priority number first, and supervisord itself when none is left.

    Args:
        layout: The host's files.
        names: Which services; None for all.
        remove: Remove their descriptions and logs, too, and with the last one everything that is supervisord's.
        check: Only say what would be done.

    Raises:
        RunFailed: A service does not stop.
        Unavailable: Supervisord does not answer or does not end.
    """
    installed = {service.name: service for service in layout.installed()}
    with _connected(layout) as supervisor:
        statuses = supervisor.statuses() if supervisor else {}
        family = Family(layout, supervisor.pid() if supervisor else 0)
        enabled = {*layout.programs(), *statuses}
        known = enabled | set(installed)
        wanted = known if names is None else known & set(names)
        last = not enabled - wanted
        strays = family.strays() if last else []
        gone = last and (supervisor is not None or bool(strays))
        forgotten = last and remove and wanted >= set(installed) and layout.supervisor.exists()
        outcome = Outcome(
            stopped=(*sorted(wanted & enabled), *([_DAEMON] if gone else [])),
            removed=(*sorted(wanted), *([_DAEMON] if forgotten else [])) if remove else (),
        )
        if check or not outcome.changed:
            return outcome
        with exclusive(layout):
            if supervisor:
                for group in reversed(list(_by_priority(_described(installed, wanted & set(statuses))))):
                    supervisor.stop([service.name for service in group], max(service.stop_seconds for service in group))
            _delete(layout, wanted, remove=remove)
            if last and supervisor:
                stop_daemon(layout, supervisor, _DAEMON_STOP_SECONDS)
            if last:
                stop_strays(Family(layout, 0).strays())
            if forgotten:
                forget(layout)
    return outcome


def _start(layout: Layout, services: Collection[Service], texts: Mapping[str, str], plan: Outcome) -> tuple[str, ...]:
    """Write and start group by group; return those that ran already but did not work and were restarted."""
    restarted: list[str] = []
    with exclusive(layout), _running(layout) as supervisor:
        for group in _by_priority(services):
            for service in group:
                write(layout.description(service.name), json.dumps(service.description_dict(), indent=2) + "\n")
                write(layout.program(service.name), texts[service.name])
            supervisor.reload()
            _restart(supervisor, [service for service in group if service.name in plan.started])
            for service in group:
                if service.name in plan.started:
                    _await(supervisor, service)
                elif service.name not in plan.outdated:
                    restarted += _repair(supervisor, service)
    return tuple(restarted)


def _restart_broken(layout: Layout, services: Collection[Service]) -> tuple[str, ...]:
    with _running(layout) as supervisor:
        return tuple(name for service in services for name in _repair(supervisor, service))


def _repair(supervisor: Supervisor, service: Service) -> list[str]:
    """Restart a service that runs but does not work."""
    if wait_until_healthy(service.health, lambda: supervisor.status(service.name)).healthy:
        return []
    _restart(supervisor, [service])
    _await(supervisor, service)
    return [service.name]


def _restart(supervisor: Supervisor, services: Collection[Service]) -> None:
    if services:
        supervisor.stop([service.name for service in services], max(service.stop_seconds for service in services))
    for service in services:
        supervisor.start(service.name)


def _await(supervisor: Supervisor, service: Service) -> None:
    verdict = wait_until_healthy(service.health, lambda: supervisor.status(service.name))
    if verdict.healthy:
        return
    layout, log = supervisor.layout, supervisor.layout.log(service.name)
    ended = last_exit(layout, service.name) if verdict.ended else ""
    reason = f"it ended ({ended or verdict.reason}) while it was to start" if verdict.ended else verdict.reason
    lines = "".join(f"\n    {line}" for line in last_lines(layout, service.name, _LOG_LINES)) or " nothing"
    raise RunFailed(
        f"service {service.name}: {reason}. Its log ends with:{lines}",
        cure=f"correct what {log} says, then run the playbook again",
    )


def _free_ports(layout: Layout, supervisor: Supervisor | None, services: Iterable[Service], *, check: bool) -> None:
    """Refuse ports that are another's; take back those that a stray process of this host holds."""
    ports = {label: port for service in services for label, port in service.ports.items()}
    family = Family(layout, supervisor.pid() if supervisor else 0) if ports else None
    taken = refuse_foreign(ports, family) if family else ()
    if family and supervisor and not check and any(not family.descends(by.pid) for by in taken):
        stop_strays(family.strays())


def _refuse_unusable(service: Service) -> None:
    program = Path(service.command[0])
    if program.is_absolute() and not (program.is_file() and os.access(program, os.X_OK)):
        raise ConfigError(
            f"service {service.name}: command: {program} is not an executable file", cure="install it before"
        )
    if service.directory and not Path(service.directory).is_dir():
        raise ConfigError(
            f"service {service.name}: directory: {service.directory} does not exist", cure="make it before"
        )


def _rewritten(layout: Layout, texts: Mapping[str, str]) -> Iterator[Rewritten]:
    for name, after in texts.items():
        path = layout.program(name)
        with translated(path):
            before = path.read_text("utf-8") if path.exists() else ""
        if before != after:
            yield Rewritten(str(path), masked(before), masked(after))


def _delete(layout: Layout, names: Iterable[str], *, remove: bool) -> None:
    with translated(layout.supervisor):
        for name in names:
            layout.program(name).unlink(missing_ok=True)
            if remove:
                layout.description(name).unlink(missing_ok=True)
                for log in layout.logs.glob(f"{name}.log*"):
                    log.unlink(missing_ok=True)


def _by_priority(services: Iterable[Service]) -> Iterator[list[Service]]:
    ordered = sorted(services, key=lambda service: service.priority)
    return (list(group) for _, group in groupby(ordered, key=lambda service: service.priority))


def _described(installed: Mapping[str, Service], names: Iterable[str]) -> list[Service]:
    unknown = [name for name in names if name not in installed]
    if unknown:
        raise ConfigError(
            f"service {unknown[0]} runs here, but nothing describes it", cure="deploy it again, then stop it"
        )
    return [installed[name] for name in names]


@contextmanager
def _connected(layout: Layout) -> Iterator[Supervisor | None]:
    supervisor = connect(layout)
    if supervisor is None:
        yield None
    else:
        with supervisor:
            yield supervisor


@contextmanager
def _running(layout: Layout) -> Iterator[Supervisor]:
    """Give the host's supervisord; start it first when it does not run, and end what a killed one left behind."""
    supervisor = connect(layout)
    if supervisor is None:
        stop_strays(Family(layout, 0).strays())
        supervisor = start_daemon(layout)
    with supervisor:
        yield supervisor
