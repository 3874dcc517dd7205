"""Speaks with systemd: what units do, and start, stop, reload. One call asks about all units at once."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping

from icosfl.errors import RunFailed, Unavailable
from icosfl.fleet.process_status import NOT_DEFINED, Status
from icosfl.fleet.service import HealthCheck, Service
from icosfl.fleet.systemd_units import UnitLayout

_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,MainPID,Result,ExecMainCode,ExecMainStatus,ExecMainStartTimestampMonotonic"
)
_CALL_SECONDS = 30.0
_STOP_MARGIN_SECONDS = 15.0
_SETTLED_SECONDS = 3.0  # a process that lives so long counts as running, as under supervisord
_MICROSECONDS = 1_000_000
_KILLED = "9"
_EXITED = "1"  # of ExecMainCode: si_code CLD_EXITED

_STATES = {
    "active": "RUNNING",
    "reloading": "RUNNING",
    "activating": "STARTING",
    "deactivating": "STOPPING",
    "failed": "FATAL",
    "inactive": "STOPPED",
}


class Systemd:
    """The systemd of this machine, for the units of one host.

    Every method raises Unavailable when systemd does not answer, and RunFailed when it refuses.
    """

    def __init__(self, layout: UnitLayout) -> None:
        self.layout = layout

    def version(self) -> int:
        """Return systemd's version."""
        found = re.match(r"systemd (\d+)", self._call("--version"))
        return int(found[1]) if found else 0

    def statuses(self, names: Iterable[str]) -> dict[str, Status]:
        """Return the status of services, by name."""
        return {name: status for name, (status, _) in self.looks(names).items()}

    def looks(self, names: Iterable[str]) -> dict[str, tuple[Status, int]]:
        """Return the status of services and when their processes started, in microseconds of the monotonic clock."""
        units = {self.layout.unit(name): name for name in names}
        if not units:
            return {}
        shown = self._call("show", f"--property={_PROPERTIES}", *units)
        found = {}
        for block in shown.strip().split("\n\n"):
            unit = dict(line.partition("=")[::2] for line in block.splitlines())
            name = units.get(unit.get("Id", ""))
            if name:
                found[name] = (status_of(name, unit, now()), int(unit["ExecMainStartTimestampMonotonic"]))
        return found

    def status(self, name: str) -> Status:
        """Return the status of one service."""
        return self.statuses([name]).get(name) or Status(name, NOT_DEFINED)

    def active(self, units: Collection[str]) -> set[str]:
        """Return which of any units are active."""
        said = self._call("show", "--property=ActiveState", "--value", *units) if units else ""
        return {unit for unit, state in zip(units, said.split(), strict=True) if state in {"active", "activating"}}

    def reload(self) -> None:
        """Read all units again; limits change at once, nothing that runs is restarted."""
        self._call("daemon-reload")

    def start(self, units: Collection[str]) -> None:
        """Start units."""
        self._call("start", *units)

    def restart(self, services: Collection[Service]) -> None:
        """Start services by their definitions on disk (after `reload`), stopping those that run; does not wait."""
        if services:
            longest = max(service.stop_seconds for service in services)
            self._call("restart", *(self.layout.unit(each.name) for each in services), seconds=longest)

    def stop(self, units: Collection[str], seconds: float) -> None:
        """Stop units in the reverse order of their start; returns when their processes are gone."""
        if units:
            self._call("stop", *units, seconds=seconds)

    def forget_failures(self, units: Collection[str]) -> None:
        """Let systemd forget that units failed, and with that, units whose files are gone."""
        # It refuses the ones that did not fail.
        subprocess.run(  # noqa: S603 (our own words, no shell)
            ["/usr/bin/systemctl", "reset-failed", *units], check=False, capture_output=True, timeout=_CALL_SECONDS
        )

    def check_of(self, service: Service) -> HealthCheck:
        """Return how to ask a service that runs whether it works."""
        return service.health

    def last_exit(self, name: str) -> str:
        """Return how a service ended last ("exit status 3"); "" when that is not known."""
        return self.status(name).reason

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return the last lines that a service wrote, or that systemd wrote about it."""
        said = _run(["/usr/bin/journalctl", "-u", self.layout.unit(name), "-n", str(count), "-o", "cat", "--no-pager"])
        return [line.rstrip() for line in said.stdout.splitlines() if line.strip()][-count:]

    def log_of(self, name: str) -> str:
        """Return where to read what a service writes."""
        return f"journalctl -u {self.layout.unit(name)}"

    def _call(self, *words: str, seconds: float = 0.0) -> str:
        ended = _run(["/usr/bin/systemctl", *words], seconds + _CALL_SECONDS + _STOP_MARGIN_SECONDS)
        if ended.returncode:
            raise RunFailed(
                f"systemctl {' '.join(words)}: {ended.stderr.strip() or f'exit status {ended.returncode}'}",
                cure="see journalctl -b",
            )
        return ended.stdout


def status_of(name: str, unit: Mapping[str, str], microseconds: int) -> Status:
    """Read the properties of one unit.

    Args:
        name: The service.
        unit: Its properties, by name.
        microseconds: Now, of the monotonic clock.
    """
    if unit["LoadState"] != "loaded":
        return Status(name, NOT_DEFINED)
    state = _STATES.get(unit["ActiveState"], "UNKNOWN")
    if unit["SubState"] == "auto-restart":
        state = "BACKOFF"
    uptime = (microseconds - int(unit["ExecMainStartTimestampMonotonic"])) / _MICROSECONDS
    if state == "RUNNING" and uptime < _SETTLED_SECONDS:
        state = "STARTING"
    if state in {"RUNNING", "STARTING"}:
        return Status(name, state, int(unit["MainPID"]), max(0, int(uptime)))
    return Status(name, state, reason=_reason(unit))


def now() -> int:
    """Return microseconds of the clock that systemd's monotonic timestamps are of."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def _reason(unit: Mapping[str, str]) -> str:
    result = unit["Result"]
    if result == "success":
        return ""
    if result == "oom-kill":
        return "it took more memory than memory_max_mb allows"
    if result in {"exit-code", "signal", "core-dump"}:
        if unit["ExecMainCode"] == _EXITED:
            return f"exit status {unit['ExecMainStatus']}"
        # Where control groups are of version 1, systemd does not tell that the kernel killed it for its memory.
        why = ", perhaps for more memory than memory_max_mb" if unit["ExecMainStatus"] == _KILLED else ""
        return f"signal {unit['ExecMainStatus']}{why}"
    return result


def _run(command: list[str], seconds: float = _CALL_SECONDS) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 (our own words, no shell)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{' '.join(command[:3])} does not end within {seconds:g} s", cure="see journalctl -b"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{command[0]}: {error.strerror}", cure="this host has no systemd: set icosfl_runtime to supervisor"
        ) from error
