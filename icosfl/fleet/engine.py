"""The edge to Docker on this machine: its command line, and Compose's, called without a shell.

Compose is a plugin of the command (`docker compose`). Where there is none, or too old a one, it is the program
`docker-compose` that the release brings, beside the Python that runs this.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icosfl.errors import RunFailed, Unavailable

CALL_SECONDS = 60.0
OLDEST_COMPOSE = (2, 20)

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# How Docker finds its engine and the credentials of registries, and builds; nothing else of the environment counts.
_KEPT = ("HOME", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR")
_KEPT_PREFIX = "DOCKER_"
_UNANSWERED = re.compile(
    "cannot connect to the docker daemon|is the docker daemon running|error during connect|permission denied while "
    "trying to connect|failed to connect to the docker api",
    re.IGNORECASE,
)
_MISSING = re.compile("no such|not found", re.IGNORECASE)
_INSTALL = "install Docker Engine: icosfl_runtime docker does it by the role docker_engine"


@dataclass(frozen=True, slots=True)
class Server:
    """What the engine of this machine is.

    Args:
        engine: The version of the engine, "20.10.24".
        api: The newest API that it speaks, "1.41".
        architecture: In Docker's words: "amd64".
    """

    engine: str
    api: str
    architecture: str

    @property
    def speaks(self) -> tuple[int, ...]:
        """The newest API that the engine speaks, to compare: (1, 41)."""
        return version_of(self.api)


class Engine:
    """The Docker of this machine.

    Every method raises Unavailable when there is no docker command or the engine does not answer, and RunFailed when it
    refuses.
    """

    def __init__(self) -> None:
        self._compose: tuple[str, ...] | None = None
        self._server: Server | None = None

    def call(self, *words: str, seconds: float = CALL_SECONDS) -> str:
        """Call the docker command and return what it says.

        Args:
            words: Its arguments.
            seconds: How long it may take.
        """
        return _succeeded(self._run((self._docker(), *words), seconds))

    def said(self, *words: str, seconds: float = CALL_SECONDS) -> str:
        """Call the docker command and return what it writes to both outputs, in no certain order (`docker logs`)."""
        ended = self._run((self._docker(), *words), seconds)
        _succeeded(ended)
        return ended.stdout + ended.stderr

    def inspect(self, kind: str, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return what the engine knows of objects; those that it has not are left out.

        Args:
            kind: container, image, network or volume.
            names: Names or ids.
        """
        wanted = tuple(names)
        if not wanted:
            return []
        ended = self._run((self._docker(), kind, "inspect", *wanted), CALL_SECONDS)
        errors = [line for line in ended.stderr.splitlines() if line.strip()]
        if ended.returncode and not all(_MISSING.search(line) and not _UNANSWERED.search(line) for line in errors):
            _succeeded(ended)
        found: list[dict[str, Any]] = json.loads(ended.stdout or "[]")
        return found

    def server(self) -> Server:
        """Return what the engine is; asked once."""
        if self._server is None:
            told = json.loads(self.call("version", "--format", "{{json .Server}}"))
            version, api, architecture = (str(told.get(key, "")) for key in ("Version", "ApiVersion", "Arch"))
            self._server = Server(engine=version, api=api, architecture=architecture)
        return self._server

    def answers(self) -> bool:
        """Return whether there is a docker command whose engine answers."""
        try:
            self.server()
        except Unavailable:
            return False
        return True

    def require_compose(self) -> None:
        """Refuse to go on without Compose."""
        self.compose("version", "--short")

    def compose(self, *words: str, seconds: float = CALL_SECONDS) -> str:
        """Call Compose and return what it says.

        Args:
            words: Its arguments, such as `--project-name`, `icosfl`, `up`.
            seconds: How long it may take.
        """
        if self._compose is None:
            self._compose = self._find_compose()
        return _succeeded(self._run((*self._compose, *words), seconds))

    def _find_compose(self) -> tuple[str, ...]:
        docker = self._docker()
        own = Path(sys.executable).with_name("docker-compose")
        asked = self._run((docker, "compose", "version", "--short"), CALL_SECONDS)
        if asked.returncode == 0 and (version_of(asked.stdout) >= OLDEST_COMPOSE or not own.exists()):
            return (docker, "compose")
        if os.access(own, os.X_OK):
            return (str(own),)
        raise Unavailable(
            f"Docker Compose is missing: neither docker has the plugin compose, nor the release the program {own}",
            cure="install the package docker-compose-plugin, or deploy a release that brings Compose",
        )

    def _docker(self) -> str:
        found = shutil.which("docker", path=_PATH)
        if found is None:
            raise Unavailable(f"there is no docker command in {_PATH}", cure=_INSTALL)
        return found

    def _run(self, command: tuple[str, ...], seconds: float) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIX)}
        try:
            ended = subprocess.run(  # noqa: S603 (our own words, no shell)
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                env={**kept, "PATH": _PATH, "LC_ALL": "C.UTF-8"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"{' '.join(command[:3])} does not end within {seconds:g} s", cure="see the log of the docker daemon"
            ) from error
        except OSError as error:
            raise Unavailable(f"{command[0]}: {error.strerror}", cure=_INSTALL) from error
        stdout, stderr = (part.decode("utf-8", "replace") for part in (ended.stdout, ended.stderr))
        return subprocess.CompletedProcess(command, ended.returncode, stdout, stderr)


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers with which a version begins: (2, 32, 4) of "v2.32.4-desktop"; () when it has none."""
    found = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def _succeeded(ended: subprocess.CompletedProcess[str]) -> str:
    if ended.returncode == 0:
        return ended.stdout
    said = ended.stderr.strip() or ended.stdout.strip() or f"exit status {ended.returncode}"
    if _UNANSWERED.search(said):
        raise Unavailable(
            f"the docker engine does not answer: {said.splitlines()[-1]}",
            cure="start it (systemctl start docker), and work as root or as a user who may use it",
        )
    command = " ".join([Path(ended.args[0]).name, *ended.args[1:4]])
    raise RunFailed(f"{command}: {said}", cure="see the log of the docker daemon")
