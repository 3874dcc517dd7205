"""Brings the services of one host into a wanted state with systemd: started, converged, stopped or absent.

Every function first plans, and when `check` is set does nothing but return the plan. A second call finds nothing to do.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from icosfl.fleet.bring_up import await_health, by_priority, repair_all, start_all
from icosfl.fleet.definition import content_digest
from icosfl.fleet.files import Plan, changed_paths
from icosfl.fleet.guarded import locked, translated, write
from icosfl.fleet.outcome import Outcome, Rewritten
from icosfl.fleet.ports import AnyOf, Owner, UnitFamily, refuse_foreign
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import Limits, Service
from icosfl.fleet.systemctl import Systemd, now
from icosfl.fleet.systemd_units import (
    Record,
    UnitLayout,
    host_texts,
    marked,
    refuse_stranger,
    service_text,
)
from icosfl.fleet.usable import refuse_unusable

_UNIT_MODE = 0o644
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the services are meant to be: digests by service, and texts of units by unit."""

    digests: Mapping[str, str]
    texts: Mapping[str, str]
    links: tuple[str, ...]


def start(
    layout: UnitLayout, services: Collection[Service], files: Plan, *, check: bool, others: Collection[Owner] = ()
) -> Outcome:
    """Make files, define units and start those that do not run, in order of priority, each until it works.

    Those that run by another definition keep running: they are reported as outdated. One that runs but does not work
    is restarted. Changed limits count at once.

    Args:
        layout: The host's files.
        services: The services, checked.
        files: The host's other files and directories; made before any service starts.
        check: Only say what would be done.
        others: Whose ports will be free: what another runtime still runs for this host.

    Raises:
        ConfigError: A definition cannot be used on this machine.
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its journal.
        Unavailable: Systemd does not answer.
    """
    systemd = Systemd(layout)
    if not check:
        for service in services:
            refuse_unusable(service, files)
    wanted = _wanted(layout, services, files, systemd.version(), check=check)
    records = {record.service.name: record for record in layout.installed()}
    looks = systemd.looks({*wanted.digests, *records})
    plan = _plan_start(layout, wanted, records, looks, files)
    touched = [service for service in services if service.name in {*plan.started, *plan.outdated}]
    _refuse_foreign(layout, touched, records, looks, others)
    if check:
        return plan
    restarted: list[str] = []
    if plan.changed:
        with locked(layout.own):
            files.apply()
            _define(layout, systemd, services, wanted, records)
            restarted = start_all(systemd, services, plan)
    else:
        restarted = repair_all(systemd, services, {name: status for name, (status, _) in looks.items()})
    _keep_looking(layout, systemd)
    return Outcome(
        started=plan.started,
        restarted=tuple(restarted),
        outdated=plan.outdated,
        rewritten=plan.rewritten,
        written=plan.written,
        statuses=tuple(systemd.statuses(service.name for service in services).values()),
    )


def converge(layout: UnitLayout, *, check: bool) -> Outcome:
    """Restart the services that run by an older definition than the one on disk, each until it works.

    Raises:
        UserError: A port that is needed is another's; nothing was touched.
        RunFailed: A service does not start to work; gives the end of its journal.
        Unavailable: Systemd does not answer.
    """
    systemd = Systemd(layout)
    records = {record.service.name: record for record in layout.installed()}
    looks = systemd.looks(records)
    services = [records[name].service for name in records if _runs_older(records[name], looks.get(name))]
    names = tuple(service.name for service in services)
    if check or not services:
        return Outcome(restarted=names)
    _refuse_foreign(layout, services, records, looks)
    with locked(layout.own):
        for group in by_priority(services):
            systemd.restart(group)
            for service in group:
                await_health(systemd, service)
    return Outcome(restarted=names, statuses=tuple(systemd.statuses(names).values()))


def stop(layout: UnitLayout, names: Collection[str] | None, *, remove: bool, check: bool) -> Outcome:
    """Stop services, so that they do not start with the machine either; with the last one also the host's target.

    Args:
        layout: The host's files.
        names: Which services; None for all.
        remove: Remove their units and records, too, and with the last one everything that is the deployment's own.
        check: Only say what would be done.

    Raises:
        RunFailed: A service does not stop.
        Unavailable: Systemd does not answer.
    """
    records = {record.service.name: record for record in layout.installed()}
    units = _units(layout)
    present = {*records, *units}
    wanted = present if names is None else present.intersection(names)
    if not present and not layout.own.exists() and not layout.file(layout.target).exists():
        return Outcome()  # also where there is no systemd
    systemd = Systemd(layout)
    statuses = systemd.statuses(present)
    enabled = {name for name in present if _is_link(layout.link(layout.unit(name)))}
    up = {name for name in wanted if name in statuses and not statuses[name].down}
    own = tuple(host_texts(layout, sys.executable))
    last = {name for name in present if name in enabled or (name in statuses and not statuses[name].down)} <= wanted
    ends = last and (bool(systemd.active(own)) or _is_link(layout.link(layout.target)))
    forgets = remove and present <= wanted
    plan = Outcome(
        stopped=(*sorted(up | (enabled & wanted)), *([layout.target] if ends else [])),
        removed=(*sorted(wanted if remove else ()), *([layout.target] if forgets else [])),
    )
    if check or not plan.changed:
        return plan
    with locked(layout.own):
        _unlink(layout.link(layout.unit(name)) for name in wanted)
        if ends:
            _unlink(layout.link(unit) for unit in own)
            systemd.stop([unit for unit in own if layout.file(unit).exists()], 0)
        seconds = sum(records[name].service.stop_seconds if name in records else 90 for name in wanted)
        systemd.stop([layout.unit(name) for name in wanted if name in units], seconds)
        if remove:
            doomed = [*(layout.unit(name) for name in wanted), *(own if forgets else ())]
            _unlink(layout.file(unit) for unit in doomed)
            _unlink(layout.record(name) for name in wanted)
            systemd.reload()
            systemd.forget_failures(doomed)
        if forgets:
            with suppress(FileNotFoundError):  # the watchdog has not run since the machine was switched on
                shutil.rmtree(layout.run)
            for directory in (layout.file(layout.target).parent / f"{layout.target}.wants", layout.own, layout.root):
                with suppress(OSError):  # something else lives there
                    directory.rmdir()
    return plan


def statuses(layout: UnitLayout) -> dict[str, Status] | None:
    """Return what systemd says of the host's services, by name; None when none is installed.

    Raises:
        Unavailable: Systemd does not answer.
    """
    records = layout.installed()
    return Systemd(layout).statuses(record.service.name for record in records) if records else None


def family(layout: UnitLayout) -> Owner:
    """Return who listens on ports for the host's services.

    Raises:
        Unavailable: Systemd does not answer.
    """
    records = {record.service.name: record for record in layout.installed()}
    return _family(layout, records, Systemd(layout).looks(records))


def _wanted(layout: UnitLayout, services: Collection[Service], files: Plan, version: int, *, check: bool) -> _Wanted:
    digests = {
        service.name: _digest(service, layout, version, content_digest(service, files.contents, missing_ok=check))
        for service in services
    }
    texts = {
        layout.unit(service.name): service_text(service, layout, version, digests[service.name]) for service in services
    }
    own = host_texts(layout, sys.executable)
    links = (*texts, layout.target, f"{layout.health}.timer")
    return _Wanted(digests, {**own, **texts}, links)


def _digest(service: Service, layout: UnitLayout, version: int, content: str) -> str:
    """Return the digest of all that calls for a restart when it changes; `content` is that of description and files."""
    text = service_text(replace(service, limits=Limits()), layout, version, content)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plan_start(
    layout: UnitLayout,
    wanted: _Wanted,
    records: Mapping[str, Record],
    looks: Mapping[str, tuple[Status, int]],
    files: Plan,
) -> Outcome:
    up = {name for name, (status, _) in looks.items() if status.up}
    redefined = {
        name for name, digest in wanted.digests.items() if name not in records or records[name].digest != digest
    }
    older = {name for name, record in records.items() if name in up and _runs_older(record, looks.get(name))}
    return Outcome(
        started=tuple(name for name in wanted.digests if name not in up),
        outdated=tuple(sorted(up & (redefined | older))),
        rewritten=(
            *(Rewritten(each.path, each.before, each.after) for each in files.changes),
            *_rewritten(layout, wanted),
        ),
        written=changed_paths(files.changes),
    )


def _rewritten(layout: UnitLayout, wanted: _Wanted) -> Iterator[Rewritten]:
    for unit, after in wanted.texts.items():
        path = layout.file(unit)
        with translated(path):
            before = path.read_text("utf-8") if path.exists() else ""
        refuse_stranger(unit, before, layout)
        if before != after:
            yield Rewritten(str(path), before, after)
    for unit in wanted.links:
        if not _is_link(layout.link(unit)):
            yield Rewritten(str(layout.link(unit)), "", f"starts {unit}\n")


def _define(
    layout: UnitLayout,
    systemd: Systemd,
    services: Collection[Service],
    wanted: _Wanted,
    records: Mapping[str, Record],
) -> None:
    """Write the units, let systemd read them, and note since when they count."""
    written = [write(layout.file(unit), text, mode=_UNIT_MODE) for unit, text in wanted.texts.items()]
    linked = [_link(layout.link(unit), layout.file(unit)) for unit in wanted.links]
    if any((*written, *linked)):
        systemd.reload()
    boot = _BOOT.read_text("utf-8").strip()
    for service in services:
        digest, known = wanted.digests[service.name], records.get(service.name)
        same = known is not None and known.digest == digest
        record = Record(
            service, digest, known.boot if known and same else boot, known.since if known and same else now()
        )
        write(layout.record(service.name), record.text())


def _keep_looking(layout: UnitLayout, systemd: Systemd) -> None:
    """Let the target be active, and with it the watchdog; the services that it wants run already."""
    units = (layout.target, f"{layout.health}.timer")
    if missing := [unit for unit in units if unit not in systemd.active(units)]:
        systemd.start(missing)


def _runs_older(record: Record, look: tuple[Status, int] | None) -> bool:
    if look is None:
        return False
    status, started = look
    # One that fails again and again was up, perhaps, when it was found outdated: somebody must wait for it.
    return status.state == "BACKOFF" or (status.up and record.outdates(_BOOT.read_text("utf-8").strip(), started))


def _refuse_foreign(
    layout: UnitLayout,
    services: Iterable[Service],
    records: Mapping[str, Record],
    looks: Mapping[str, tuple[Status, int]],
    others: Collection[Owner] = (),
) -> None:
    services = list(services)
    ports = {label: port for service in services for label, port in service.ports.items()}
    if ports:
        refuse_foreign(ports, AnyOf([_family(layout, records, looks), *others]))


def _family(layout: UnitLayout, records: Mapping[str, Record], looks: Mapping[str, tuple[Status, int]]) -> Owner:
    up = [record.service for name, record in records.items() if name in looks and looks[name][0].up]
    listening = {port for service in up for port in service.ports.values()}
    return UnitFamily({layout.unit(name) for name in records}, listening)


def _units(layout: UnitLayout) -> dict[str, Path]:
    """Return the files of this host's services that lie among systemd's, also those without a record."""
    found = {}
    for path in layout.file("x").parent.glob(f"{layout.prefix}-*.service"):
        name = path.name.removeprefix(f"{layout.prefix}-").removesuffix(".service")
        if path.name not in {f"{layout.health}.service", layout.guard} and marked(path.read_text("utf-8"), layout):
            found[name] = path
    return found


def _is_link(path: Path) -> bool:
    return path.is_symlink()


def _link(link: Path, file: Path) -> bool:
    if _is_link(link):
        return False
    with translated(link):
        link.parent.mkdir(mode=0o755, exist_ok=True)
        link.parent.chmod(0o755)
        link.symlink_to(file)
    return True


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with translated(path):
            path.unlink(missing_ok=True)
