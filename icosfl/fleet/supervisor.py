"""Speaks with the supervisord of one host: what runs, and start, stop, reload.

The standard library's XML-RPC over a Unix socket, with a deadline on every call, which supervisor's own transport has
not.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
import xmlrpc.client
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from icosfl.errors import RunFailed, Unavailable
from icosfl.fleet.definition import Layout
from icosfl.fleet.process_status import NOT_DEFINED, Status
from icosfl.fleet.service import HealthCheck, Service

_CALL_SECONDS = 30.0
_STOP_MARGIN_SECONDS = 15.0
_POLL_SECONDS = 0.1
_LOG_BYTES = 16_384

# Fault codes of supervisord's XML-RPC (supervisor.xmlrpc.Faults).
BAD_NAME, NO_FILE, NOT_EXECUTABLE, SPAWN_ERROR, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED = 10, 20, 21, 50, 60, 70, 90


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How the programs on disk differ from those that supervisord runs, by name."""

    added: frozenset[str]
    changed: frozenset[str]
    removed: frozenset[str]


class Supervisor:
    """The supervisord of one host; a context manager that closes the connection.

    Every method raises Unavailable when supervisord does not answer, and RunFailed when it refuses.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._proxy = xmlrpc.client.ServerProxy("http://supervisord", transport=_UnixTransport(str(layout.socket)))

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._proxy("close")()

    def pid(self) -> int:
        """Return supervisord's own process id."""
        return int(self._call("supervisor.getPID"))

    def statuses(self) -> dict[str, Status]:
        """Return the status of every service that supervisord knows, by name."""
        return {info["name"]: Status.of(info) for info in self._call("supervisor.getAllProcessInfo")}

    def status(self, name: str) -> Status:
        """Return the status of one service."""
        info = self._call("supervisor.getProcessInfo", name, ignore=(BAD_NAME,))
        return Status.of(info) if info else Status(name, NOT_DEFINED)

    def reload(self) -> Reloaded:
        """Read the files again and compare; nothing that runs is touched."""
        ((added, changed, removed),) = self._call("supervisor.reloadConfig")
        return Reloaded(frozenset(added), frozenset(changed), frozenset(removed))

    def start(self, name: str) -> None:
        """Start a service by its definition on disk (after `reload`), and do not wait for it."""
        self._call("supervisor.addProcessGroup", name, ignore=(ALREADY_ADDED,))
        # A program that fails at once shows as BACKOFF, with its reason: whoever waits for its health will see.
        self._call("supervisor.startProcess", name, False, ignore=(ALREADY_STARTED, SPAWN_ERROR))

    def stop(self, names: Iterable[str], seconds: float) -> None:
        """Stop services at once and forget their definitions; returns when their processes are gone.

        Args:
            names: The services.
            seconds: How long they may take; supervisord kills each one after its own `stop_seconds`.
        """
        left = set(names)

        def stopped() -> bool:
            left.difference_update([name for name in left if self._stopped(name)])
            return not left

        if not poll(stopped, seconds + _STOP_MARGIN_SECONDS):
            status = self.status(min(left))
            raise RunFailed(
                f"service {status.name} does not stop: it is {status.state}, pid {status.pid}",
                cure=f"kill -9 {status.pid}",
            )

    def restart(self, services: Collection[Service]) -> None:
        """Start services by their definitions on disk (after `reload`), stopping those that run; does not wait."""
        if services:
            self.stop([service.name for service in services], max(service.stop_seconds for service in services))
        for service in services:
            self.start(service.name)

    def check_of(self, service: Service) -> HealthCheck:
        """Return how to ask a service that runs whether it works."""
        return service.health

    def last_exit(self, name: str) -> str:
        """Return how a service ended last, by supervisord's log ("exit status 3"); "" when it did not."""
        found = re.findall(
            rf" exited: {re.escape(name)} \((.+?)(?:; (?:not )?expected)?\)$",
            _tail(self.layout.daemon_log),
            re.MULTILINE,
        )
        return str(found[-1]) if found else ""

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return the last lines that a service wrote."""
        return [line.rstrip() for line in _tail(self.layout.log(name)).splitlines() if line.strip()][-count:]

    def log_of(self, name: str) -> str:
        """Return where to read what a service writes."""
        return str(self.layout.log(name))

    def shutdown(self) -> None:
        """Tell supervisord to stop every service in reverse order and to exit; does not wait."""
        self._call("supervisor.shutdown")

    def _stopped(self, name: str) -> bool:
        status = self.status(name)
        if status.up or status.state == "BACKOFF":
            self._call("supervisor.stopProcess", name, False, ignore=(NOT_RUNNING,))
        if status.down:
            self._call("supervisor.removeProcessGroup", name, ignore=(BAD_NAME,))
        return status.down

    def _call(self, method: str, *arguments: object, ignore: tuple[int, ...] = ()) -> Any:
        try:
            return getattr(self._proxy, method)(*arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in ignore:
                return None
            raise RunFailed(
                f"supervisord refuses {method}{arguments}: {fault.faultString}", cure=f"see {self.layout.daemon_log}"
            ) from fault
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise Unavailable(
                f"supervisord does not answer on {self.layout.socket}: {type(error).__name__} {error}",
                cure=f"see {self.layout.daemon_log}",
            ) from error


def connect(layout: Layout) -> Supervisor | None:
    """Return the supervisord of a host, or None when none runs.

    Raises:
        Unavailable: It belongs to another user, or does not take calls.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(_CALL_SECONDS)
        try:
            knock.connect(str(layout.socket))
        except PermissionError as error:
            raise Unavailable(
                f"{layout.socket} belongs to another user",
                cure="run as the user who deployed this host, or set another icosfl_home",
            ) from error
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise Unavailable(
                f"supervisord does not answer on {layout.socket}: {error}", cure=f"see {layout.daemon_log}"
            ) from error
    return Supervisor(layout)


def running_pid(layout: Layout) -> int:
    """Return the process id of a host's supervisord, 0 when none runs."""
    supervisor = connect(layout)
    if supervisor is None:
        return 0
    with supervisor:
        return supervisor.pid()


def poll(done: Callable[[], bool], seconds: float) -> bool:
    """Ask until `done()` or until `seconds` have passed; return whether it was done."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _tail(path: Any) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOG_BYTES))
            return str(file.read().decode("utf-8", "replace"))
    except FileNotFoundError:
        return ""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path
        self._open: _UnixConnection | None = None

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ARG002 (the base class calls it so)
        if self._open is None:
            self._open = _UnixConnection(self._path)
        return self._open

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open = None
