"""Starts and ends the supervisord of one host: a daemon in a session of its own, with a clean environment."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from icosfl.errors import RunFailed, Unavailable
from icosfl.fleet.definition import Layout, daemon_text
from icosfl.fleet.guarded import PRIVATE, locked, translated, write
from icosfl.fleet.supervisor import Supervisor, connect, poll

_START_SECONDS = 30.0
# All that services get from the one who deploys them; what else they need stands in their description.
_KEPT_VARIABLES = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ")
_LOCALE = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Make the host's directories and keep other deployments of it away.

    Raises:
        RunFailed: Another deployment is at work on this host.
    """
    for directory in (
        layout.root,
        layout.logs,
        layout.supervisor,
        layout.program("x").parent,
        layout.description("x").parent,
    ):
        with translated(directory):
            directory.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    with locked(layout.supervisor):
        yield


def start_daemon(layout: Layout) -> Supervisor:
    """Start supervisord and return a connection to it.

    Raises:
        RunFailed: It does not start; gives its last words.
    """
    write(layout.config, daemon_text(layout, getpass.getuser()))
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | _LOCALE
    command = [sys.executable, "-I", "-m", "supervisor.supervisord", "-c", str(layout.config)]
    with tempfile.TemporaryFile() as words:
        # It forks and returns once it listens; the daemon has closed the file by then.
        try:
            ended = subprocess.run(  # noqa: S603 (our own interpreter and paths, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                cwd=layout.root,
                env=environment,
                umask=0o077,
                start_new_session=True,
                timeout=_START_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(
                f"supervisord does not start in {layout.root} within {_START_SECONDS:g} s", cure=_see(layout)
            ) from error
        words.seek(0)
        said = words.read().decode("utf-8", "replace").strip()
    supervisor = connect(layout) if ended.returncode == 0 else None
    if supervisor is None:
        last = said.splitlines()[-1] if said else f"it ended with code {ended.returncode} and no word"
        raise RunFailed(f"supervisord does not start in {layout.root}: {last}", cure=_see(layout))
    return supervisor


def stop_daemon(layout: Layout, supervisor: Supervisor, seconds: float) -> None:
    """Tell supervisord to end, and return when it has.

    Raises:
        Unavailable: It still runs after `seconds`.
    """
    pid = supervisor.pid()
    supervisor.shutdown()
    if not poll(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), seconds):
        raise Unavailable(
            f"supervisord of {layout.root} (pid {pid}) does not end",
            cure=f"see {layout.daemon_log}, then kill -9 {pid}",
        )


def forget(layout: Layout) -> None:
    """Remove supervisord's own files, and the directories that are empty then."""
    with translated(layout.supervisor):
        shutil.rmtree(layout.supervisor)
        for log in layout.logs.glob("supervisord.log*"):
            log.unlink()
        for directory in (layout.logs, layout.root):
            with suppress(OSError):  # something else lives there
                directory.rmdir()


def _see(layout: Layout) -> str:
    return f"see {layout.daemon_log}"


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
