"""Brings the services of one host into a wanted state with Docker Compose: started, converged, stopped or absent.

Every function first plans, and when `check` is set does nothing but return the plan. A second call finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from icosfl.errors import RunFailed
from icosfl.fleet import packet_filter
from icosfl.fleet.bring_up import await_health, by_priority, repair_all, start_all
from icosfl.fleet.compose import document, text
from icosfl.fleet.container_limits import lifted, update_words
from icosfl.fleet.container_plan import Given, machine_at, refuse_unusable, wanted_records
from icosfl.fleet.container_records import ContainerLayout, Record
from icosfl.fleet.containers import Container, Containers
from icosfl.fleet.engine import Engine
from icosfl.fleet.files import Plan, changed_paths
from icosfl.fleet.guard import Guard, guard_of, is_needed
from icosfl.fleet.guarded import locked, translated, write
from icosfl.fleet.outcome import Outcome, Rewritten
from icosfl.fleet.ports import AnyOf, ContainerFamily, Owner, refuse_foreign
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import Service

_UNKNOWN_STOP_SECONDS = 10.0


def start(
    given: Given, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner] = ()
) -> Outcome:
    """Make files, define containers and start those that do not run, in order of priority, each until it works.

    Those that run by another definition keep running: they are reported as outdated. One that runs but does not work
    is restarted. Changed limits count at once.

    Args:
        given: What containers are made of.
        services: The services, checked.
        files: The host's other files and directories; made before any service starts.
        check: Only say what would be done.
        others: Whose ports will be free: what another runtime still runs for this host.

    Raises:
        ConfigError: A definition or an image cannot be used on this machine.
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its log.
        Unavailable: Docker does not answer.
    """
    layout = given.layout
    containers = Containers(layout, Engine())
    known = {record.name: record for record in layout.installed()}
    answers = not check or containers.engine.answers()
    if not check:
        refuse_unusable(containers.engine, given, services, files)
    wanted = wanted_records(given, containers.engine if answers else None, services, files, known)
    looks = containers.looks() if answers else {}
    plan = _plan_start(layout, wanted, known, looks, files)
    guard = _guard(layout, {**known, **wanted}, containers.engine) if answers else None
    plan = replace(plan, rewritten=(*plan.rewritten, *_unguarded(layout, guard)))
    if answers and plan.changed:
        containers.refuse_strangers(wanted, (volume for record in wanted.values() for volume in record.volumes))
    touched = [service for service in services if service.name in {*plan.started, *plan.outdated}]
    _refuse_foreign_ports(touched, {**known, **wanted}, looks, others)
    if check:
        return replace(plan, removed=_strays(containers, looks).labels) if answers else plan
    if plan.changed:
        with locked(layout.own):
            files.apply()
            _define(layout, wanted, known)
            _keep_guard(layout, guard)
            stubborn = _limit(layout, containers, wanted, known, looks)
            restarted = start_all(containers, services, plan)
    else:
        stubborn, restarted = set(), repair_all(containers, services, {n: each.status for n, each in looks.items()})
    found = containers.looks()
    return replace(
        plan,
        removed=_forget_strays(containers, found),
        restarted=tuple(restarted),
        outdated=tuple(sorted({*plan.outdated, *stubborn})),
        statuses=tuple(found[service.name].status for service in services if service.name in found),
    )


def converge(layout: ContainerLayout, *, check: bool) -> Outcome:
    """Make those containers anew that run by an older definition than the one on disk, each until it works.

    Raises:
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its log.
        Unavailable: Docker does not answer.
    """
    records = {record.name: record for record in layout.installed()}
    if not records:
        return Outcome()
    containers = Containers(layout, Engine())
    looks = containers.looks()
    services = [
        record.service for name, record in records.items() if name in looks and _runs_older(record, looks[name])
    ]
    names = tuple(service.name for service in services)
    if check or not services:
        return Outcome(restarted=names)
    _refuse_foreign_ports(services, records, looks, ())
    with locked(layout.own):
        for group in by_priority(services):
            containers.restart(group)
            for service in group:
                await_health(containers, service)
    found = containers.looks()
    removed = _forget_strays(containers, found)
    return Outcome(
        restarted=names, removed=removed, statuses=tuple(found[name].status for name in names if name in found)
    )


def stop(layout: ContainerLayout, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
    """Stop services, those of the highest priority number first, so that they do not start with the machine either.

    Args:
        layout: The host's names and files.
        names: Which services; None for all.
        remove: Remove their containers, volumes and records, too, and with the last one the network. What services
            wrote stays.
        check: Only say what would be done.

    Raises:
        RunFailed: A service does not stop.
        Unavailable: Docker does not answer.
    """
    records = {record.name: record for record in layout.installed()}
    containers = Containers(layout, Engine())
    if not layout.own.exists() and not containers.engine.answers():
        return Outcome()  # also where there is no Docker
    looks = containers.looks()
    present = {*records, *looks}
    wanted = present if names is None else present.intersection(names)
    up = {name for name in wanted if name in looks and not looks[name].status.down}
    forgets = remove and present <= wanted
    kept = {volume for name, record in records.items() if name not in wanted for volume in record.volumes}
    volumes = [volume for volume in containers.volumes() if volume not in kept] if remove else []
    networks = containers.networks() if forgets else []
    plan = Outcome(
        stopped=tuple(sorted(up)),
        removed=(
            *sorted(wanted if remove else ()),
            *(f"volume {name}" for name in sorted(volumes)),
            *(f"network {name}" for name in sorted(networks)),
        ),
    )
    if check or not plan.changed:
        return plan
    with locked(layout.own):
        for group, seconds in _order_of_stop(records, up):
            containers.stop(group, seconds)
        if remove:
            containers.remove(wanted)
            containers.forget(volumes, networks)
            left = {name: each for name, each in records.items() if name not in wanted}
            if left:
                _keep_guard(layout, _guard(layout, left, containers.engine))
            else:
                _lift_guards(layout, networks)
            _forget(layout, wanted, left)
    return plan


def statuses(layout: ContainerLayout) -> dict[str, Status] | None:
    """Return what Docker says of the host's services, by name; None when none is installed.

    Raises:
        Unavailable: Docker does not answer.
    """
    return Containers(layout, Engine()).statuses() if layout.installed() else None


def family(layout: ContainerLayout) -> Owner:
    """Return who listens on ports for the host's containers.

    Raises:
        Unavailable: Docker does not answer.
    """
    records = {record.name: record for record in layout.installed()}
    return _family(records, Containers(layout, Engine()).looks())


def _plan_start(
    layout: ContainerLayout,
    wanted: Mapping[str, Record],
    known: Mapping[str, Record],
    looks: Mapping[str, Container],
    files: Plan,
) -> Outcome:
    records = {**known, **wanted}
    up = {name for name, container in looks.items() if container.status.up}
    live = {name for name in up & wanted.keys() & known.keys() if _takes_limits(known[name], wanted[name])}
    older = {name for name in up & records.keys() - live if _runs_older(records[name], looks[name])}
    older |= {name for name in live if wanted[name].digest != looks[name].digest}
    with translated(layout.file):
        before = layout.file.read_text("utf-8") if layout.file.exists() else ""
    after = _text(layout, records)
    composed = (Rewritten(str(layout.file), before, after),) if before != after else ()
    return Outcome(
        started=tuple(name for name in wanted if name not in up),
        outdated=tuple(sorted(older)),
        rewritten=(*(Rewritten(each.path, each.before, each.after) for each in files.changes), *composed),
        written=changed_paths(files.changes),
    )


def _takes_limits(known: Record, wanted: Record) -> bool:
    """Return whether changed limits can be given to the container as it runs; once is enough to try."""
    limits = wanted.service.limits
    return limits not in {known.limits, known.service.limits} and not lifted(known.limits, limits)


def _runs_older(record: Record, container: Container) -> bool:
    # One that fails again and again was up, perhaps, when it was found outdated: somebody must wait for it.
    if container.status.state == "BACKOFF":
        return True
    return container.status.up and (container.digest != record.digest or record.limits != record.service.limits)


def _define(layout: ContainerLayout, wanted: Mapping[str, Record], known: Mapping[str, Record]) -> None:
    for record in wanted.values():
        write(layout.record(record.name), record.text())
    write(layout.file, _text(layout, {**known, **wanted}))


def _guard(layout: ContainerLayout, records: Mapping[str, Record], engine: Engine) -> Guard | None:
    """Return the guard of the host's network; None where there is no such network, or where the engine guards it."""
    inside = [record.service for record in records.values() if not record.service.sees_host]
    return guard_of(layout.prefix, inside) if inside and is_needed(engine.server().speaks) else None


def _unguarded(layout: ContainerLayout, guard: Guard | None) -> tuple[Rewritten, ...]:
    return tuple(packet_filter.superfluous(layout) if guard is None else packet_filter.unlaid(layout, guard))


def _keep_guard(layout: ContainerLayout, guard: Guard | None) -> None:
    if guard is None:
        packet_filter.lift(layout)
    else:
        packet_filter.lay(layout, guard)


def _lift_guards(layout: ContainerLayout, networks: Collection[str]) -> None:
    """Take away the guard of the host, and those of networks that it had by other prefixes."""
    for prefix in {layout.prefix, *networks}:
        packet_filter.lift(replace(layout, prefix=prefix))


@dataclass(frozen=True, slots=True)
class _Strays:
    """What Docker keeps for the host of an earlier prefix, or of paths that nobody writes now."""

    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        return (*(f"volume {name}" for name in self.volumes), *(f"network {name}" for name in self.networks))


def _strays(containers: Containers, looks: Mapping[str, Container]) -> _Strays:
    """Return the strays; none as long as one container is not as its record says, and may use them."""
    records = {record.name: record for record in containers.layout.installed()}
    if {name: each.digest for name, each in records.items()} != {name: each.digest for name, each in looks.items()}:
        return _Strays()
    named = {volume for record in records.values() for volume in record.volumes}
    return _Strays(
        tuple(sorted(set(containers.volumes(unused=True)) - named)),
        tuple(sorted(set(containers.networks()) - {containers.layout.network})),
    )


def _forget_strays(containers: Containers, looks: Mapping[str, Container]) -> tuple[str, ...]:
    strays = _strays(containers, looks)
    if strays.labels:
        with locked(containers.layout.own):
            containers.forget(strays.volumes, strays.networks)
            for prefix in strays.networks:
                packet_filter.lift(replace(containers.layout, prefix=prefix))
    return strays.labels


def _limit(
    layout: ContainerLayout,
    containers: Containers,
    wanted: Mapping[str, Record],
    known: Mapping[str, Record],
    looks: Mapping[str, Container],
) -> set[str]:
    """Give changed limits to containers as they run; return those that would not take them, and must start anew."""
    stubborn = set()
    for name, record in wanted.items():
        if (
            name not in looks
            or not looks[name].status.up
            or name not in known
            or not _takes_limits(known[name], record)
        ):
            continue
        try:
            containers.update(name, update_words(record.limits, record.service.limits, machine_at()))
        except RunFailed:  # it uses more memory than it may have now
            stubborn.add(name)
        else:
            write(layout.record(name), replace(record, limits=record.service.limits).text())
    return stubborn


def _refuse_foreign_ports(
    services: Iterable[Service],
    records: Mapping[str, Record],
    looks: Mapping[str, Container],
    others: Collection[Owner],
) -> None:
    """Refuse ports of the machine that are another's; those within the host's network cannot be."""
    ports = {
        label: port
        for service in services
        for label, port in service.ports.items()
        if service.sees_host or label in service.publish
    }
    if ports:
        refuse_foreign(ports, AnyOf([_family(records, looks), *others]))


def _family(records: Mapping[str, Record], looks: Mapping[str, Container]) -> Owner:
    up = {name: container for name, container in looks.items() if not container.status.down}
    listening = {port for name in up if name in records for port in _listening(records[name].service)}
    return ContainerFamily(
        {container.id for container in up.values()}, listening.union(*(each.ports for each in up.values()))
    )


def _listening(service: Service) -> Collection[int]:
    return service.ports.values() if service.sees_host else ()


def _order_of_stop(records: Mapping[str, Record], names: Collection[str]) -> Iterator[tuple[list[str], float]]:
    """Give groups of services and how long each group may take; first those that nothing describes."""
    if unknown := [name for name in names if name not in records]:
        yield unknown, _UNKNOWN_STOP_SECONDS
    for group in reversed(list(by_priority(records[name].service for name in names if name in records))):
        yield [service.name for service in group], max(service.stop_seconds for service in group)


def _forget(layout: ContainerLayout, names: Collection[str], left: Mapping[str, Record]) -> None:
    """Remove the records of services, and with the last one everything that is the deployment's own."""
    with translated(layout.own):
        for name in names:
            layout.record(name).unlink(missing_ok=True)
        if left:
            write(layout.file, _text(layout, left))
            return
        layout.file.unlink(missing_ok=True)
    for directory in (layout.own, layout.root):
        with suppress(OSError):  # something else lives there
            directory.rmdir()


def _text(layout: ContainerLayout, records: Mapping[str, Record]) -> str:
    return text(document(layout, records.values(), machine_at()))
