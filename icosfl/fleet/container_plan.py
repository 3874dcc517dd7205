"""What a host's containers are meant to be: from descriptions, images and this machine to records."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet import alive
from icosfl.fleet.compose import Surroundings, definition_of, digest_of, refuse_twins, seen_paths, volumes_of
from icosfl.fleet.container_images import (
    images_of,
    pull_missing,
    refuse_foreign_architecture,
    refuse_missing,
    unseen,
)
from icosfl.fleet.container_limits import Machine
from icosfl.fleet.container_records import ContainerLayout, Record
from icosfl.fleet.definition import content_digest
from icosfl.fleet.engine import Engine
from icosfl.fleet.files import Plan
from icosfl.fleet.service import Service

_CGROUPS = Path("/sys/fs/cgroup")
_IO_WEIGHTS = ("io.weight", "io.bfq.weight")


@dataclass(frozen=True, slots=True)
class Given:
    """What containers are made of, beside their descriptions.

    Args:
        layout: The host's names and files.
        image: The reference of the release's image.
        user: The services' user and group, "990:990".
    """

    layout: ContainerLayout
    image: str
    user: str


def machine_at(cgroups: Path = _CGROUPS) -> Machine:
    """Return what limits depend on here.

    Args:
        cgroups: Where the kernel shows its control groups.
    """
    unified = (cgroups / "cgroup.controllers").exists()
    # The group of all has no weights, any other one shows what there is.
    weighs = any(path.exists() for name in _IO_WEIGHTS for path in cgroups.glob(f"*/{name}"))
    return Machine(os.cpu_count() or 1, unified, not unified or weighs)


def refuse_unusable(engine: Engine, given: Given, services: Collection[Service], files: Plan) -> None:
    """Refuse what cannot be run on this machine, and pull the images that it has not.

    Raises:
        ConfigError: An image cannot be used, a file or a directory is missing, or two services' names are too alike.
        RunFailed: An image cannot be pulled.
        Unavailable: Docker or Compose does not answer.
    """
    refuse_twins(services)
    for service in services:
        content_digest(service, files.contents, missing_ok=False)
        for path in service.writes:
            if not Path(path).is_dir() and not files.makes(path):
                raise ConfigError(f"service {service.name}: writes: {path} does not exist", cure="make it before")
    architecture = engine.server().architecture
    engine.require_compose()
    images = images_of(engine, services, given.image)
    refuse_missing(images)
    refuse_foreign_architecture(images, architecture)
    pull_missing(engine, images)


def wanted_records(
    given: Given, engine: Engine | None, services: Collection[Service], files: Plan, known: Mapping[str, Record]
) -> dict[str, Record]:
    """Return the record that each service is meant to have, by its name.

    Args:
        given: What containers are made of.
        engine: Docker; None where there is none yet.
        services: The services, checked.
        files: The host's other files and directories.
        known: What is installed.

    Raises:
        ConfigError: A description cannot be written for Compose.
        Unavailable: Docker does not answer.
    """
    layout = given.layout
    images = images_of(engine, services, given.image) if engine else unseen(services, given.image)
    speaks = engine.server().speaks if engine else ()
    there = Surroundings(given.user, speaks, (sys.executable, "-I", "-S", str(Path(alive.__file__))))
    records = {}
    for service in services:
        image = images[service.name]
        missing = {path for path in seen_paths(service) if not _will_be(path, files)}
        definition = definition_of(service, layout, image, there, missing)
        digest = digest_of(definition, image, content_digest(service, files.contents, missing_ok=True))
        limits = known[service.name].limits if service.name in known else service.limits
        records[service.name] = Record(service, digest, definition, volumes_of(service, layout), limits)
    return records


def _will_be(path: str, files: Plan) -> bool:
    return path in files.contents or files.makes(path) or Path(path).exists()
