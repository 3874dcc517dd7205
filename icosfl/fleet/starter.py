"""Starts ClientApps for an executor, from a warm process where there is one, and notices how they end.

The warm process (`icosfl.fleet.warm`) is started at the first message, ends by itself when it is idle, and is started
again at the next one. Whatever becomes of it, each ClientApp is started exactly once: a ClientApp says so before it
begins, and the executor, when it gives a warm process up, first closes the socket on which that is said.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from icosfl.errors import RunFailed
from icosfl.fleet.warm import READY, REQUEST_BYTES, STARTED, UNHEARD

# How long an idle warm process stays: longer than a round takes, shorter than the time between two runs.
IDLE_SECONDS = 300.0

# Loading takes seconds, minutes where many nodes share a core; forking takes milliseconds.
LOAD_SECONDS = 120.0
ANSWER_SECONDS = 10.0

# After so many failures in a row no warm process is tried again.
MOST_FAILURES = 3

WARM = (sys.executable, "-P", "-m", "icosfl.fleet.warm")

# Its libraries must start no threads of their own: threads are lost in a fork.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

_PR_SET_CHILD_SUBREAPER = 36

logger = logging.getLogger(__name__)


def adopt_orphans() -> None:
    """From now on what this process's children leave behind are its own children."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class WarmProcess:
    """A warm process, from its start to its end.

    Args:
        command: The program.
        idle_seconds: How long it waits for a request.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, command: Sequence[str] = WARM, idle_seconds: float = IDLE_SECONDS) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ready = False
        with theirs:
            number = str(theirs.fileno())
            self._process = subprocess.Popen(  # noqa: S603 (our own program, arguments without a shell)
                [*command, "--socket", number, "--idle-seconds", str(idle_seconds)],
                pass_fds=(theirs.fileno(),),
                env={**_ENVIRONMENT, **os.environ},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; if so, nothing stays of it."""
        return self._process.poll() is not None

    def wait_until_ready(self, seconds: float) -> bool:
        """Wait until it takes a request; False: it does not within these seconds, or it has ended."""
        deadline = time.monotonic() + seconds
        while not self._ready:
            if self._hear(deadline) is None:
                return False
        # one that was ready before may have ended since
        self._connection.settimeout(0)
        try:
            return bool(self._connection.recv(REQUEST_BYTES, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def start(self, arguments: Sequence[str], seconds: float) -> int | None:
        """Start a ClientApp with these arguments once it is ready.

        Returns:
            Its process id. None: it has not begun, and never will; the warm process has ended.
        """
        self._ready = False
        try:
            self._connection.settimeout(seconds)
            self._connection.send(json.dumps(list(arguments)).encode())
        except OSError:
            self.end()
            return None
        deadline = time.monotonic() + seconds
        while (said := self._hear(deadline)) is not None:
            if said.startswith(STARTED):
                return _pid(said)
        return self._give_up()

    def end(self) -> int:
        """End it, if it has not ended by itself; returns its exit code."""
        self._connection.close()
        self._process.kill()
        return self._process.wait()

    def left_by_itself(self) -> bool:
        """End it; whether it had ended in peace before."""
        self._connection.close()
        try:
            return self._process.wait(timeout=1) == 0
        except subprocess.TimeoutExpired:
            self.end()
            return False

    def _hear(self, deadline: float) -> bytes | None:
        """What it says next; None: nothing by the deadline, or it has ended."""
        self._connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            said = self._connection.recv(REQUEST_BYTES)
        except OSError:
            return None
        self._ready = self._ready or said == READY
        return said or None

    def _give_up(self) -> int | None:
        """Let no ClientApp begin any more; returns the process id of one that has begun in the meantime."""
        self._connection.shutdown(socket.SHUT_RD)
        begun = None
        while (said := self._hear(time.monotonic() + 1)) is not None:
            begun = _pid(said) if said.startswith(STARTED) else begun
        self.end()
        return begun


class Starter:
    """Starts ClientApps, warm where it can.

    Args:
        idle_seconds: How long an idle warm process stays; 0: ClientApps always start cold.
        warm: The program of the warm process.
        cold: The program of a ClientApp.
        load_seconds: How long a warm process may take until it is ready.
        answer_seconds: How long it may take to fork.
    """

    def __init__(
        self,
        idle_seconds: float = IDLE_SECONDS,
        *,
        warm: Sequence[str] = WARM,
        cold: Sequence[str] = ("flwr-clientapp",),
        load_seconds: float = LOAD_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._idle_seconds = idle_seconds
        self._command = warm
        self._cold = cold
        self._load_seconds = load_seconds
        self._answer_seconds = answer_seconds
        self._failures = 0 if idle_seconds > 0 else MOST_FAILURES
        self._process: WarmProcess | None = None
        self._apps: set[int] = set()
        self._newest = 0
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def warm_pid(self) -> int | None:
        """The process id of the warm process, if there is one."""
        return None if self._process is None else self._process.pid

    def prepare(self) -> bool:
        """Wait until there is a warm process that takes a request; False: ClientApps start cold."""
        if self._process is not None and self._process.wait_until_ready(self._load_seconds):
            return True
        self._drop()
        if self._failures >= MOST_FAILURES:
            return False
        try:
            self._process = WarmProcess(self._command, self._idle_seconds)
        except OSError as error:
            self._failed(f"cannot be started: {error.strerror}")
            return False
        if self._process.wait_until_ready(self._load_seconds):
            return True
        self._drop()
        return False

    def start(self, arguments: Sequence[str]) -> int:
        """Start a ClientApp with these arguments; returns its process id.

        Raises:
            OSError: it cannot be started.
        """
        process, pid = self._process, None
        if process is not None:
            pid = process.start(arguments, self._answer_seconds)
            if pid is None:
                self._process = None
                self._failed("gave no ClientApp")
            else:
                self._failures = 0
        if pid is None:
            child = self._start_cold(arguments)
            pid = child.pid
            self._children[pid] = child
        self._apps.add(pid)
        self._newest = pid
        return pid

    def look(self) -> bool:
        """Notice ClientApps that have ended, and the warm process; returns whether the newest ClientApp is at work.

        Raises:
            RunFailed: one has not ended in peace.
        """
        if self._process is not None and self._process.has_ended:
            self._drop()
        for pid in list(self._apps):
            code = self._exit_code(pid)
            if code is None:
                continue
            self._apps.discard(pid)
            self._children.pop(pid, None)
            if code != 0:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                raise RunFailed(f"ClientApp {pid} ended with {how}", cure="look at the service's log and its memory")
        return self._newest in self._apps

    @property
    def overtaken(self) -> bool:
        """Whether a ClientApp is left of an earlier message; a SuperNode waits for one at a time only."""
        return bool(self._apps - {self._newest})

    def close(self) -> None:
        """End the warm process, and the ClientApps that are at work: their SuperNode ends with this executor."""
        if self._process is not None:
            self._process.end()
            self._process = None
        for pid in self._apps:
            if self._exit_code(pid) is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _start_cold(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)  # a program keeps what was blocked when it began
        try:
            return subprocess.Popen([*self._cold, *arguments])  # noqa: S603 (as Flower's own executor does)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _exit_code(self, pid: int) -> int | None:
        """The exit code of a ClientApp, negative a signal, 0 when nobody can know; None: it is at work."""
        if pid in self._children:
            return self._children[pid].poll()
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:  # for a moment after the fork it is another's child
            return None if _exists(pid) else 0
        return os.waitstatus_to_exitcode(status) if ended else None

    def _drop(self) -> None:
        """Let a warm process go that is of no use any more."""
        process, self._process = self._process, None
        if process is not None and not process.left_by_itself():
            self._failed("ended, or did not load in time")

    def _failed(self, how: str) -> None:
        self._failures += 1
        more = "" if self._failures < MOST_FAILURES else ", and so do all others until the service restarts"
        logger.warning("the warm process %s: the next ClientApp starts cold%s", how, more)


def _pid(said: bytes) -> int:
    return int(said.removeprefix(STARTED))


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
