"""`python -m icosfl.fleet.watchdog --root ROOT`: one look at a host's systemd services, started by its timer.

A service that runs but does not work, three looks in a row, is restarted. One that is just starting, that systemd
restarts already, or that was stopped on purpose is left alone; so is a host that a deployment is at work on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from icosfl.errors import IcosflError, RunFailed
from icosfl.fleet.alive import PATIENCE, PROBE_SECONDS
from icosfl.fleet.guarded import locked, write
from icosfl.fleet.health import probe
from icosfl.fleet.process_status import Status
from icosfl.fleet.service import Service
from icosfl.fleet.systemctl import Systemd
from icosfl.fleet.systemd_units import UnitLayout
from icosfl.logs import set_up_logging

logger = logging.getLogger("icosfl.fleet.watchdog")  # not __main__, as which it runs


@dataclass(frozen=True, slots=True)
class Illness:
    """A process that did not work: its id, and in how many looks in a row."""

    pid: int
    looks: int


def judge(
    services: Iterable[Service],
    statuses: Mapping[str, Status],
    problems: Mapping[str, str],
    before: Mapping[str, Illness],
) -> dict[str, Illness]:
    """Count in how many looks in a row each service did not work, by name; those that work are left out.

    Args:
        services: All that are installed.
        statuses: What systemd says of them.
        problems: What their health checks say; "" when they work.
        before: What the last look counted.
    """
    found = {}
    for service in services:
        status = statuses.get(service.name)
        # Until its start timeout is over, whoever started it waits for it.
        if status is None or status.state != "RUNNING" or status.uptime_seconds <= service.health.timeout_seconds:
            continue
        if problems.get(service.name):
            last = before.get(service.name)
            looks = last.looks + 1 if last and last.pid == status.pid else 1
            found[service.name] = Illness(status.pid, looks)
    return found


def look(layout: UnitLayout, memory: Path, ask: Callable[..., str] = probe) -> None:
    """Ask all services once, remember who does not work, and restart who did not for too long.

    Args:
        layout: The host's files.
        memory: The file that remembers from look to look.
        ask: Asks a service whether it works.

    Raises:
        IcosflError: Systemd does not answer, or a service cannot be restarted.
    """
    services = [record.service for record in layout.installed()]
    systemd = Systemd(layout)
    statuses = systemd.statuses(service.name for service in services)
    running = [each for each in services if each.name in statuses and statuses[each.name].up]
    with ThreadPoolExecutor(max_workers=max(len(running), 1)) as pool:
        answers = pool.map(lambda service: ask(service.health, PROBE_SECONDS), running)
        problems = {service.name: answer for service, answer in zip(running, answers, strict=True)}
    ill = judge(services, statuses, problems, _remembered(memory))
    doomed = [service for service in services if service.name in ill and ill[service.name].looks >= PATIENCE]
    for name, illness in ill.items():
        logger.warning("%s does not work, %d of %d: %s", name, illness.looks, PATIENCE, problems[name])
    restarted = _restart(layout, systemd, doomed) if doomed else set()
    left = {name: asdict(illness) for name, illness in ill.items() if name not in restarted}
    write(memory, json.dumps(left))


def _restart(layout: UnitLayout, systemd: Systemd, services: Sequence[Service]) -> set[str]:
    """Restart services and return which; none while a deployment is at work, which sees to them itself."""
    restarted = set()
    try:
        with locked(layout.own):
            for service in services:
                logger.warning("%s is restarted", service.name)
                systemd.restart([service])
                restarted.add(service.name)
    except RunFailed as error:
        logger.warning("%s", error)
    return restarted


def _remembered(memory: Path) -> dict[str, Illness]:
    try:
        found = json.loads(memory.read_text("utf-8"))
        return {name: Illness(int(each["pid"]), int(each["looks"])) for name, each in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # the first look since the machine started


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m icosfl.fleet.watchdog", description=__doc__)
    parser.add_argument("--root", required=True, help="the host's directory")
    parser.add_argument("--prefix", required=True, help="how its units begin")
    parser.add_argument("--user", required=True, help="whose its services are")
    options = parser.parse_args(arguments)
    set_up_logging("info")
    try:
        layout = UnitLayout.at(options.root, options.prefix, options.user)
        look(layout, layout.run / "ill.json")
    except IcosflError as error:
        logger.error("%s", error)  # noqa: TRY400 (the message says it all)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
