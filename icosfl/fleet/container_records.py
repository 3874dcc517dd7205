"""What is installed on a host whose services are containers: names, files, and a record of each service.

Pure but for the readers of `ContainerLayout`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from icosfl.errors import ConfigError
from icosfl.fleet.service import Limits, Service

ROOT_LABEL = "io.icosfl.root"
SERVICE_LABEL = "io.icosfl.service"
DIGEST_LABEL = "io.icosfl.digest"
BRIDGE_LABEL = "io.icosfl.bridge"

_ROOT = re.compile(r"/[\w./-]+")
_PREFIX = re.compile(r"[a-z][a-z0-9-]{0,30}")


@dataclass(frozen=True, slots=True)
class ContainerLayout:
    """Names of one host's containers, and where its files lie. Hosts that share a machine differ in root and prefix."""

    root: Path
    prefix: str

    @classmethod
    def at(cls, root: str, prefix: str) -> ContainerLayout:
        """Check the host's root directory, which need not exist, and the prefix of its names.

        Raises:
            ConfigError: One of them cannot be used with Docker.
        """
        if not _ROOT.fullmatch(root) or ".." in Path(root).parts:
            raise ConfigError(
                f"root {root!r} cannot hold containers' files",
                cure="give an absolute path of letters, digits, _ . and -",
            )
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError(f"unit_prefix is {prefix!r}", cure="use lower-case letters, digits and -")
        return cls(Path(root), prefix)

    @property
    def own(self) -> Path:
        """What the deployment keeps for itself; only root may enter it."""
        return self.root / "docker"

    @property
    def file(self) -> Path:
        """What Compose reads."""
        return self.own / "compose.yml"

    @property
    def guard(self) -> Path:
        """The packet filter rules that keep the host's network private."""
        return self.own / "guard.rules"

    @property
    def network(self) -> str:
        """The network that the host's containers share, and nobody else."""
        return self.prefix

    @property
    def filter(self) -> str:
        """What picks the host's own containers, networks and volumes among Docker's: a filter of `docker ls`."""
        return f"label={ROOT_LABEL}={self.root}"

    def container(self, name: str) -> str:
        """The container of a service."""
        return f"{self.prefix}-{alias(name)}"

    def record(self, name: str) -> Path:
        """What was installed; exists while the service is installed."""
        return self.own / f"{name}.json"

    def installed(self) -> tuple[Record, ...]:
        """Return what is installed here, in the order of start; none when there is no root.

        Raises:
            ConfigError: A record was damaged.
        """
        records = [self.read(path) for path in sorted(self.own.glob("*.json"))]
        return tuple(sorted(records, key=lambda record: record.service.priority))

    def image(self) -> str:
        """Return the release's image that services are installed with; "" when none is.

        Where only some roles are applied (`--tags`), nothing says which image the host has.

        Raises:
            ConfigError: A record was damaged.
        """
        return next((record.definition["image"] for record in self.installed() if not record.service.image), "")

    def read(self, path: Path) -> Record:
        """Return the record in a file.

        Raises:
            ConfigError: It cannot be read, or was damaged.
        """
        try:
            found = json.loads(path.read_text("utf-8"))
            service, limits = Service.of(found["service"]), Limits.of("limits", found["limits"])
            return Record(service, found["digest"], found["definition"], found["volumes"], limits)
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            raise ConfigError(f"{path}: {error}", cure="deploy the service again") from error


@dataclass(frozen=True, slots=True)
class Record:
    """A service as it was installed.

    Args:
        service: Its description.
        digest: Of the definition: of all that calls for a restart when it changes.
        definition: What Compose is told of it, without limits and without what it needs.
        volumes: The host's directory of each volume that it writes, by the volume's name.
        limits: Those that its container has; the description's, unless they could not be changed while it ran.
    """

    service: Service
    digest: str
    definition: Mapping[str, Any]
    volumes: Mapping[str, str]
    limits: Limits = field(default_factory=Limits)

    @property
    def name(self) -> str:
        """The service's name."""
        return self.service.name

    def text(self) -> str:
        """Return what is written of it."""
        known = {**asdict(self), "service": self.service.description_dict(), "limits": self.limits.stated()}
        return json.dumps(known, indent=2) + "\n"


def alias(name: str) -> str:
    """Return the name of a service on its host's network, where a name has no _."""
    return name.replace("_", "-")
