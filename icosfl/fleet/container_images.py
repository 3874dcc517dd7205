"""What services run in, seen on this machine: whether it is here, what it is, and whether this machine can run it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet.compose import Image
from icosfl.fleet.engine import Engine
from icosfl.fleet.service import Service

_PULL_SECONDS = 900.0


def images_of(engine: Engine, services: Iterable[Service], reference: str) -> dict[str, Image]:
    """Return what each service runs in, by the service's name.

    Args:
        engine: Docker.
        services: The services.
        reference: The release's image, for those that name none.

    Raises:
        Unavailable: Docker does not answer.
    """
    named = unseen(services, reference)
    references = dict.fromkeys(image.reference for image in named.values() if image.reference)
    # One by one: Docker does not say which of several it found.
    here = {each: found[0] for each in references if (found := engine.inspect("image", [each]))}
    return {
        name: replace(
            image, id=str(here[image.reference]["Id"]), architecture=str(here[image.reference]["Architecture"])
        )
        if image.reference in here
        else image
        for name, image in named.items()
    }


def unseen(services: Iterable[Service], reference: str) -> dict[str, Image]:
    """Return what each service runs in where Docker cannot be asked, by the service's name."""
    return {each.name: Image(each.image or reference, own=not each.image) for each in services}


def refuse_missing(images: Mapping[str, Image]) -> None:
    """Refuse to go on without the release's image, which is never pulled here.

    Args:
        images: By service.

    Raises:
        ConfigError: It is not on this machine.
    """
    for name, image in images.items():
        if image.own and not image.id:
            raise ConfigError(
                f"service {name}: the release's image {image.reference or '(none is named)'} is not on this machine",
                cure="run site.yml as a whole: its role container_image brings it",
            )


def refuse_foreign_architecture(images: Mapping[str, Image], architecture: str) -> None:
    """Refuse images that this machine cannot run.

    Args:
        images: By service.
        architecture: The engine's.

    Raises:
        ConfigError: One is for another architecture.
    """
    for name, image in images.items():
        if image.architecture not in {"", architecture}:
            raise ConfigError(
                f"service {name}: its image {image.reference} is for {image.architecture}, not for {architecture}",
                cure="build or name an image for this machine's architecture",
            )


def pull_missing(engine: Engine, images: Mapping[str, Image]) -> None:
    """Pull the images that services name and this machine has not.

    Args:
        engine: Docker.
        images: By service.

    Raises:
        RunFailed: One cannot be pulled.
        Unavailable: Docker does not answer.
    """
    for reference, name in {image.reference: name for name, image in images.items() if not image.id}.items():
        try:
            engine.call("pull", "--quiet", reference, seconds=_PULL_SECONDS)
        except RunFailed as error:
            raise RunFailed(
                f"service {name}: its image {reference} is not on this machine and cannot be pulled: {error.message}",
                cure="name one that its registry has, load it by docker load, or leave the variable of the image empty",
            ) from error
