"""Brings the services of one host into a wanted state with supervisord: started, converged, stopped or absent.

Every function first plans, and when `check` is set does nothing but return the plan. A second call finds nothing to do.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

from icosfl.fleet.bring_up import await_health, by_priority, repair
from icosfl.fleet.daemon import exclusive, forget, start_daemon, stop_daemon
from icosfl.fleet.definition import Layout, content_digest, masked, program_text
from icosfl.fleet.files import Plan, changed_paths
from icosfl.fleet.guarded import translated, write
from icosfl.fleet.outcome import Outcome, Rewritten
from icosfl.fleet.ports import AnyOf, Family, Owner, refuse_foreign, stop_strays
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import Service
from icosfl.fleet.supervisor import Supervisor, connect
from icosfl.fleet.usable import refuse_unusable

_DAEMON = "supervisord"
_DAEMON_STOP_SECONDS = 30.0
_UNKNOWN_STOP_SECONDS = 10.0


def start(
    layout: Layout, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner] = ()
) -> Outcome:
    """Make files, define services and start those that do not run, in order of priority, each until it works.

    Those that run by another definition keep running: they are reported as outdated. One that runs but does not work
    is restarted.

    Args:
        layout: The host's files.
        services: The services, checked.
        files: The host's other files and directories; made before any service starts.
        check: Only say what would be done.
        others: Whose ports will be free: what another runtime still runs for this host.

    Raises:
        ConfigError: A definition cannot be used on this machine.
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its log.
        Unavailable: Supervisord does not answer.
    """
    for service in services:
        if not check:
            refuse_unusable(service, files)
    texts = {
        service.name: program_text(service, layout, content_digest(service, files.contents, missing_ok=check))
        for service in services
    }
    with _connected(layout) as supervisor:
        plan = _plan_start(layout, supervisor, texts, files)
        touched = {*plan.started, *plan.outdated}
        needing = [service for service in services if service.name in touched]
        _free_ports(layout, supervisor, needing, others, check=check)
    if check:
        return plan
    if plan.changed:
        with exclusive(layout):
            files.apply()
            restarted = _start(layout, services, texts, plan)
    else:
        with _running(layout) as supervisor:
            restarted = tuple(name for service in services for name in repair(supervisor, service))
    return Outcome(
        started=tuple(service.name for service in services if service.name in plan.started),
        restarted=restarted,
        outdated=plan.outdated,
        rewritten=plan.rewritten,
        written=plan.written,
        statuses=_statuses(layout, [service.name for service in services]),
    )


def converge(layout: Layout, *, check: bool) -> Outcome:
    """Restart the services whose definition on disk differs from the one that they run by, each until it works.

    Raises:
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its log.
        Unavailable: Supervisord does not answer.
    """
    with _connected(layout) as supervisor:
        changed = supervisor.reload().changed if supervisor else frozenset()
        services = [service for service in layout.installed() if service.name in changed]
        plan = Outcome(restarted=tuple(service.name for service in services))
        if check or not services or not supervisor:
            return plan
        _free_ports(layout, supervisor, services, (), check=False)
        with exclusive(layout):
            for group in by_priority(services):
                supervisor.restart(group)
                for service in group:
                    await_health(supervisor, service)
    return Outcome(restarted=plan.restarted, statuses=_statuses(layout, plan.restarted))


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
        known = set(supervisor.statuses()) if supervisor else set()
        enabled = known.union(layout.programs())
        wanted = enabled.union(installed) if names is None else enabled.union(installed).intersection(names)
        last = enabled <= wanted
        removed = wanted if remove else None
        plan = _plan_stop(layout, supervisor, wanted & enabled, removed, last=last)
        if check or not plan.changed:
            return plan
        with exclusive(layout):
            for group, seconds in _order_of_stop(installed, wanted & known):
                if supervisor:
                    supervisor.stop(group, seconds)
            _delete(layout, wanted, remove=remove)
            if last:
                _end(layout, supervisor)
            if _DAEMON in plan.removed:
                forget(layout)
    return plan


def _plan_start(layout: Layout, supervisor: Supervisor | None, texts: Mapping[str, str], files: Plan) -> Outcome:
    statuses = supervisor.statuses() if supervisor else {}
    loaded_differently = supervisor.reload().changed if supervisor else frozenset()
    rewritten = dict(_rewritten(layout, texts))
    up = {name for name in texts if name in statuses and statuses[name].up}
    differently = up.intersection(loaded_differently.union(rewritten))
    return Outcome(
        started=tuple(name for name in texts if name not in up),
        outdated=tuple(sorted(differently | (loaded_differently - set(texts)))),
        rewritten=(*(Rewritten(each.path, each.before, each.after) for each in files.changes), *rewritten.values()),
        written=changed_paths(files.changes),
    )


def _plan_stop(
    layout: Layout, supervisor: Supervisor | None, stopped: set[str], removed: set[str] | None, *, last: bool
) -> Outcome:
    family = Family(layout, supervisor.pid() if supervisor else 0)
    ends = last and (supervisor is not None or bool(family.strays()))
    described = {service.name for service in layout.installed()}
    forgotten = last and removed is not None and described <= removed and (ends or layout.supervisor.exists())
    return Outcome(
        stopped=(*sorted(stopped), *([_DAEMON] if ends else [])),
        removed=(*sorted(removed or ()), *([_DAEMON] if forgotten else [])),
    )


def _start(layout: Layout, services: Collection[Service], texts: Mapping[str, str], plan: Outcome) -> tuple[str, ...]:
    """Write and start group by group; return those that ran already but did not work and were restarted."""
    restarted: list[str] = []
    with _running(layout) as supervisor:
        for group in by_priority(services):
            for service in group:
                write(layout.description(service.name), json.dumps(service.description_dict(), indent=2) + "\n")
                write(layout.program(service.name), texts[service.name])
            supervisor.reload()
            supervisor.restart([service for service in group if service.name in plan.started])
            for service in group:
                if service.name in plan.started:
                    await_health(supervisor, service)
                elif service.name not in plan.outdated:
                    restarted += repair(supervisor, service)
    return tuple(restarted)


def _free_ports(
    layout: Layout,
    supervisor: Supervisor | None,
    services: Iterable[Service],
    others: Collection[Owner],
    *,
    check: bool,
) -> None:
    """Refuse ports that are another's; take back those that a stray process of this host holds."""
    ports = {label: port for service in services for label, port in service.ports.items()}
    family = Family(layout, supervisor.pid() if supervisor else 0) if ports else None
    taken = refuse_foreign(ports, AnyOf([family, *others])) if family else ()
    if family and supervisor and not check and any(not family.descends(by.pid) for by in taken):
        stop_strays(family.strays())


def _rewritten(layout: Layout, texts: Mapping[str, str]) -> Iterator[tuple[str, Rewritten]]:
    for name, after in texts.items():
        path = layout.program(name)
        with translated(path):
            before = path.read_text("utf-8") if path.exists() else ""
        if before != after:
            yield name, Rewritten(str(path), masked(before), masked(after))


def _delete(layout: Layout, names: Iterable[str], *, remove: bool) -> None:
    with translated(layout.supervisor):
        for name in names:
            layout.program(name).unlink(missing_ok=True)
            if remove:
                layout.description(name).unlink(missing_ok=True)
                for log in layout.logs.glob(f"{name}.log*"):
                    log.unlink(missing_ok=True)


def _order_of_stop(installed: Mapping[str, Service], names: Collection[str]) -> Iterator[tuple[list[str], float]]:
    """Give groups of services and how long each group may take; first those that nothing describes."""
    unknown = [name for name in names if name not in installed]
    if unknown:
        yield unknown, _UNKNOWN_STOP_SECONDS
    for group in reversed(list(by_priority(installed[name] for name in names if name in installed))):
        yield [service.name for service in group], max(service.stop_seconds for service in group)


def _end(layout: Layout, supervisor: Supervisor | None) -> None:
    """End supervisord, and whatever a killed one left behind."""
    if supervisor:
        stop_daemon(layout, supervisor, _DAEMON_STOP_SECONDS)
    stop_strays(Family(layout, 0).strays())


def _statuses(layout: Layout, names: Collection[str]) -> tuple[Status, ...]:
    with _connected(layout) as supervisor:
        statuses = supervisor.statuses() if supervisor else {}
    return tuple(statuses[name] for name in names if name in statuses)


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
