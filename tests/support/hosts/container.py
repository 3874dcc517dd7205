"""One container whose first process is systemd."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import create_api_error_from_http_exception
from docker.types import EndpointConfig
from requests import HTTPError

from icosfl.errors import RunFailed

_API = "1.41"  # Debian 12's engine
_FRAME = struct.Struct(">BxxxL")  # before each piece of output: stdout or stderr, and its length
_EXEC_SECONDS = 600.0
_BOOT = (Path(__file__).parent / "boot.sh").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command in a host came to."""

    code: int
    stdout: str
    stderr: str


class Container:
    """A host's container.

    Args:
        engine: Docker.
        name: The container's name.
    """

    def __init__(self, engine: docker.DockerClient, name: str) -> None:
        self.name = name
        self._api = engine.api

    @classmethod
    def create(
        cls,
        engine: docker.DockerClient,
        name: str,
        hostname: str,
        image: str,
        network: str,
        address: str,
        labels: Mapping[str, str],
        *,
        docker: bool = False,
    ) -> Container:
        """Make a container that boots like a machine, and does not reach the one it runs on.

        Its cgroups are its own (private, never the machine's mounts), which boot.sh makes writable; SYS_ADMIN is what
        that and systemd's sandboxes take. `always`: a machine that reboots comes back. Where `docker` is to run in it,
        it may use the kernel's keyring, route, look into other users' processes (`docker exec`, health checks), and has
        a disk for overlays, which is removed with it.
        """
        api = engine.api
        more: dict[str, Any] = {}
        if docker:
            more = {"security_opt": ["seccomp=unconfined"], "sysctls": {"net.ipv4.ip_forward": "1"}}
        host_config = api.create_host_config(
            cap_add=["SYS_ADMIN", "NET_ADMIN", *(["SYS_PTRACE"] if docker else [])],
            cgroupns="private",
            tmpfs={"/run": "", "/run/lock": "", "/tmp": "exec"},
            restart_policy={"Name": "always"},
            network_mode=network,
            dns=["127.0.0.1"],  # Docker would ask the machine's name server else
            **more,
        )
        api.create_container(
            image,
            entrypoint=["/bin/sh", "-c", _BOOT],
            name=name,
            hostname=hostname,
            labels=dict(labels),
            stop_signal="SIGRTMIN+3",
            volumes=["/var/lib/docker"] if docker else [],
            host_config=host_config,
            networking_config=api.create_networking_config({network: EndpointConfig(_API, ipv4_address=address)}),
        )
        return cls(engine, name)

    @property
    def state(self) -> str:
        """Docker's word for what it does: running, paused, exited."""
        return str(self._state["Status"])

    @property
    def started_at(self) -> str:
        """When it last started."""
        return str(self._state["StartedAt"])

    @property
    def is_running(self) -> bool:
        """Whether its systemd runs."""
        return bool(self._state["Running"])

    @property
    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self._api.inspect_container(self.name)["State"]
        return state

    def start(self) -> None:
        """Start it."""
        self._api.start(self.name)

    def stop(self) -> None:
        """Have systemd shut down."""
        self._api.stop(self.name, timeout=30)

    def kill(self) -> None:
        """End all of its processes at once."""
        self._api.kill(self.name)

    def pause(self) -> None:
        """Freeze its processes."""
        self._api.pause(self.name)

    def unpause(self) -> None:
        """Let them go on."""
        self._api.unpause(self.name)

    def remove(self) -> None:
        """Remove it, running or not."""
        self._api.remove_container(self.name, force=True, v=True)

    def changes(self) -> dict[str, str]:
        """How its disk differs from its image."""
        kinds = {0: "changed", 1: "added", 2: "deleted"}
        return {change["Path"]: kinds[change["Kind"]] for change in self._api.diff(self.name) or []}

    def run(self, argv: Sequence[str], *, user: str = "root", check: bool = True, stdin: bytes = b"") -> Completed:
        """Run a command.

        Raises:
            RunFailed: it failed, and `check` asks that it does not.
        """
        made = self._api.exec_create(self.name, list(argv), user=user, stdin=bool(stdin))
        said = self._exchange(made["Id"], stdin) if stdin else self._output(made["Id"])
        code = int(self._api.exec_inspect(made["Id"])["ExitCode"])
        done = Completed(code, *(part.decode(errors="replace") for part in said))
        if check and code != 0:
            raise RunFailed(f"{self.name}: {' '.join(argv)} ended with {code}: {done.stderr.strip() or done.stdout}")
        return done

    def _output(self, exec_id: str) -> tuple[bytes, bytes]:
        """Collect all that a command says: the SDK's own reader drops what comes along with the answer's head."""
        started = self._api.post(
            f"{self._api.base_url}/v{self._api.api_version}/exec/{exec_id}/start",
            json={"Detach": False, "Tty": False},
            timeout=_EXEC_SECONDS,
        )
        try:
            started.raise_for_status()
        except HTTPError as error:
            create_api_error_from_http_exception(error)
        said, place, parts = started.content, 0, {1: bytearray(), 2: bytearray()}
        while place < len(said):
            stream, size = _FRAME.unpack_from(said, place)
            place += _FRAME.size + size
            parts[stream] += said[place - size : place]
        return bytes(parts[1]), bytes(parts[2])

    def _exchange(self, exec_id: str, stdin: bytes) -> tuple[bytes, bytes]:
        """Hand a command its input, and collect its output."""
        from docker.utils.socket import consume_socket_output, demux_adaptor, frames_iter

        stream = self._api.exec_start(exec_id, socket=True)
        raw = getattr(stream, "_sock", stream)
        try:
            raw.sendall(stdin)
            raw.shutdown(socket.SHUT_WR)
            frames = (demux_adaptor(*frame) for frame in frames_iter(stream, tty=False))
            out, err = consume_socket_output(frames, demux=True)
        finally:
            stream.close()
            raw.close()
        return out or b"", err or b""

    def wait_until_up(self, address: str, seconds: float) -> None:
        """Wait until systemd has started everything and sshd answers.

        Raises:
            RunFailed: neither in time.
        """
        deadline = time.monotonic() + seconds
        state = "not running"
        while time.monotonic() < deadline:
            if self.is_running:
                state = self._systemd()
                if state == "running" and _greets(address):
                    return
            time.sleep(0.1)
        raise RunFailed(f"{self.name} has not booted within {seconds:g} s: {state}{self._failures()}")

    def _systemd(self) -> str:
        try:
            waiting = ["timeout", "20", "systemctl", "is-system-running", "--wait"]
            return self.run(waiting, check=False).stdout.strip() or "systemd does not answer"
        except docker.errors.APIError as error:  # it stopped, or restarts, just now
            return str(error.explanation)

    def _failures(self) -> str:
        if not self.is_running:
            logs = self._api.logs(self.name, tail=5).decode(errors="replace")
            return f"; it said: {logs}"
        return "; failed: " + self.run(["systemctl", "--failed", "--no-legend", "--plain"], check=False).stdout


def _greets(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
