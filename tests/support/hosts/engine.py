"""Docker Engine for as long as it is needed: installed where it is missing, started where none answers.

Processes that use it at the same time share it. The last one ends it, if one of them started it and no fleet is kept.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import docker
from docker.errors import DockerException

from support.hosts.machine import STATE, NoContainers, as_root, find, install, last_line, locked

LABEL = "icosfl.fleet"  # on all that a fleet makes, its value is the fleet's name
START_SECONDS = 60.0
_PIDFILE = STATE / "dockerd.pid"  # there while an engine runs that this project started
_LOG = STATE / "dockerd.log"
_daemons: list[subprocess.Popen[bytes]] = []  # started by this process; Python warns of those that it forgets


@contextmanager
def docker_engine() -> Iterator[docker.DockerClient]:
    """Docker's client, connected.

    Raises:
        NoContainers: this machine cannot have Docker; the message says why.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "users.lock").open("w", encoding="utf-8") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with locked("engine"):
            client = _connect() or _start()
        try:
            yield client
        finally:
            try:
                _end_if_unused(client, users)
            finally:
                client.close()


def _connect() -> docker.DockerClient | None:
    if not os.environ.get("DOCKER_HOST") and not _listens():
        return None
    client = None
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except DockerException:
        if client is not None:
            client.close()
        return None
    return client


def _listens() -> bool:
    """Whether anybody listens; the SDK would leave a socket open where nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex("/var/run/docker.sock") == 0


def _start() -> docker.DockerClient:
    if os.environ.get("DOCKER_HOST"):
        raise NoContainers("The Docker engine that DOCKER_HOST names does not answer", cure="start it, or unset it")
    install({"dockerd": "docker.io", "iptables": "iptables"})
    daemon = None
    if Path("/run/systemd/system").is_dir():  # the package has a service
        subprocess.run([*as_root(), "systemctl", "start", "docker.service"], check=False, capture_output=True)
    else:
        daemon = _spawn()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and (daemon is None or daemon.poll() is None):
        if (client := _connect()) is not None:
            return client
        time.sleep(0.1)
    said = last_line(_LOG.read_text(encoding="utf-8", errors="replace")) if daemon else "see journalctl -u docker"
    raise NoContainers(
        f"dockerd does not start: {said}", cure="let this machine run Docker, or name one in DOCKER_HOST"
    )


def _spawn() -> subprocess.Popen[bytes]:
    """Start dockerd in a session of its own, so that it outlives this process where a fleet is kept."""
    # another user than root may use the engine through its own group
    group = [] if os.geteuid() == 0 else ["--group", str(os.getgid())]
    command = [*as_root(), str(find("dockerd")), "--pidfile", str(_PIDFILE), *group]
    with _LOG.open("w", encoding="utf-8") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    _daemons.append(daemon)
    return daemon


def _end_if_unused(client: docker.DockerClient, users: IO[str]) -> None:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another process uses it, and will end it
    try:
        pid = int(_PIDFILE.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return  # it was there before us
    if client.containers.list(all=True, filters={"label": LABEL}):
        return
    if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() != "dockerd":
        return
    subprocess.run([*as_root(), "kill", f"-{signal.SIGTERM.value}", str(pid)], check=True)
    deadline = time.monotonic() + START_SECONDS
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    while _daemons:
        _daemons.pop().wait(START_SECONDS)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
