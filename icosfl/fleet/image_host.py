"""Images on a host: whether ours is there, how it comes, which are too many. Whatever fails leaves no image behind."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icosfl.errors import InputError, RunFailed, UserError
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_manifest import RELEASE_LABEL, is_same

SECONDS = 3600.0
_ROOM = 2.1  # the engine unpacks an archive before it makes layers of it
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
_LOADED = re.compile(r"^Loaded image(?: ID)?: (\S+)", re.M)
_UNKNOWN = re.compile("manifest unknown|not found|no such manifest|name unknown", re.I)
_NO_ROOM = re.compile("no space left", re.I)


class UnknownToRegistry(RunFailed):
    """A registry that answers and has not the image."""


@dataclass(frozen=True, slots=True)
class WantedImage:
    """The image of ours that a host shall have, as the control node built it.

    Args:
        image: Its id there.
        made_of: The digest of all that went in.
        layers: The digests of its layers.
        architecture: In Docker's words.
        size: Bytes of disk that it takes.
        archive_sha256: The digest of its archive.
        name: What it is called in the registry that hosts pull from; "" without one.
    """

    image: str
    made_of: str
    layers: tuple[str, ...]
    architecture: str
    size: int
    archive_sha256: str = ""
    name: str = ""


def find(engine: Engine, wanted: WantedImage) -> dict[str, Any] | None:
    """Return what the engine knows of the image; None when it has not got it.

    Raises:
        Unavailable: The engine does not answer.
    """
    return next(
        (each for each in _ours(engine) if is_same(each, wanted.image, wanted.made_of, wanted.layers)),
        None,
    )


def reference(inspected: Mapping[str, Any], name: str) -> str:
    """Return what containers are made of: the digest that it was pulled by, else its id on this host."""
    digests = inspected.get("RepoDigests") or []
    pulled = next((str(each) for each in digests if name and str(each).startswith(f"{name}@")), "")
    return pulled or str(inspected["Id"])


def check_host(engine: Engine, wanted: WantedImage) -> None:
    """Refuse an image that this host cannot run or has no room for, before anything is sent to it.

    Raises:
        UserError: The host's architecture or its disk.
        Unavailable: The engine does not answer.
    """
    info = json.loads(engine.call("info", "--format", "{{json .}}"))
    machine = str(info.get("Architecture", ""))
    if (own := _ARCHITECTURES.get(machine, machine)) != wanted.architecture:
        raise UserError(
            f"this host is {own}, the image is for {wanted.architecture}",
            cure=f"build it on a control node that is {own}, and deploy this host from there",
        )
    root = Path(str(info.get("DockerRootDir") or "/var/lib/docker"))
    check_room(root, int(wanted.size * _ROOM))


def check_room(root: Path, needed: int) -> None:
    """Refuse a directory of Docker's without room.

    Raises:
        UserError: It has less free disk than what is needed.
    """
    there = root
    while not there.exists():
        there = there.parent
    if (free := shutil.disk_usage(there).free) < needed:
        raise UserError(
            f"{root} has {free >> 20} MB of free disk, the image needs {needed >> 20} MB",
            cure="free some (docker image prune removes what nobody uses), or lay Docker's data-root elsewhere",
        )


def load(engine: Engine, wanted: WantedImage, archive: Path) -> dict[str, Any]:
    """Load the image from its archive, and return what the engine knows of it.

    Raises:
        InputError: The archive is damaged, or holds another image.
        RunFailed: The engine cannot load it.
        Unavailable: The engine does not answer.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wanted.archive_sha256:
        raise InputError(
            f"the image's archive came with the digest {digest[:12]}, it is {wanted.archive_sha256[:12]} on the "
            "control node",
            cure="run the playbook again; if it happens again, look at the host's disk",
        )
    try:
        said = engine.call("image", "load", "--input", str(archive), seconds=SECONDS)
    except RunFailed as error:
        raise RunFailed(f"the image cannot be loaded: {_reason(error)}", cure=_cure(error)) from error
    if found := find(engine, wanted):
        return found
    _forget(engine, _LOADED.findall(said))
    raise InputError(
        f"the archive holds another image than {wanted.image[:19]}",
        cure="delete it on the control node (.state/images), and it is built again",
    )


def pull(engine: Engine, wanted: WantedImage, name: str) -> dict[str, Any]:
    """Pull the image from a registry by its digest, and return what the engine knows of it.

    Args:
        engine: The host's.
        wanted: The image.
        name: Registry, path and digest: "registry.example.com/icosfl@sha256:…".

    Raises:
        UnknownToRegistry: The registry has it not.
        RunFailed: It cannot be pulled, or is another image.
        Unavailable: The engine does not answer.
    """
    pull_by_name(engine, name)
    if found := find(engine, wanted):
        return found
    _forget(engine, [name])
    raise RunFailed(
        f"{name} is another image than the control node built", cure="delete it in the registry, then run again"
    )


def missing(engine: Engine, names: Sequence[str]) -> tuple[str, ...]:
    """Return the images that the engine has not.

    Raises:
        Unavailable: The engine does not answer.
    """
    return tuple(name for name in dict.fromkeys(names) if not engine.inspect("image", [name]))


def pull_by_name(engine: Engine, name: str) -> None:
    """Pull an image.

    Raises:
        UnknownToRegistry: The registry has it not.
        RunFailed: It cannot be pulled.
        Unavailable: The engine does not answer.
    """
    try:
        engine.call("image", "pull", "--quiet", name, seconds=SECONDS)
    except RunFailed as error:
        kind = UnknownToRegistry if _UNKNOWN.search(error.message) else RunFailed
        raise kind(f"{name} cannot be pulled: {_reason(error)}", cure=_cure(error)) from error


def superfluous(engine: Engine, wanted: WantedImage, keep: int) -> tuple[str, ...]:
    """Return our images beyond the newest `keep`, by id: never the wanted one, nor one that a container is made of.

    Raises:
        Unavailable: The engine does not answer.
    """
    found = sorted(_ours(engine), key=lambda each: str(each.get("Created", "")), reverse=True)
    others = [str(each["Id"]) for each in found if not is_same(each, wanted.image, wanted.made_of, wanted.layers)]
    return unused(engine, others[max(keep - 1, 0) :])


def unused(engine: Engine, images: Collection[str]) -> tuple[str, ...]:
    """Return the images that no container is made of.

    Raises:
        Unavailable: The engine does not answer.
    """
    return tuple(image for image in images if not is_used(engine, image))


def is_used(engine: Engine, image: str) -> bool:
    """Tell whether a container is made of an image, running or not.

    Raises:
        Unavailable: The engine does not answer.
    """
    return bool(engine.call("container", "ls", "--all", "--quiet", "--filter", f"ancestor={image}").strip())


def ours(engine: Engine) -> tuple[str, ...]:
    """Return all images of ours that the engine has, by id.

    Raises:
        Unavailable: The engine does not answer.
    """
    return tuple(str(each["Id"]) for each in _ours(engine))


def remove(engine: Engine, images: Collection[str]) -> None:
    """Remove images with all of their names.

    Raises:
        RunFailed: A container is made of one.
        Unavailable: The engine does not answer.
    """
    for image in images:
        engine.call("image", "rm", "--force", image, seconds=SECONDS)


def _ours(engine: Engine) -> list[dict[str, Any]]:
    # Docker 29 shows untagged images only with --all; with it the legacy builder's steps are shown, too.
    said = engine.call("image", "ls", "--all", "--no-trunc", "--quiet", "--filter", f"label={RELEASE_LABEL}")
    found = engine.inspect("image", dict.fromkeys(said.split()))
    parents = {each.get("Parent") for each in found}
    return [each for each in found if each.get("RepoTags") or each.get("RepoDigests") or each["Id"] not in parents]


def _forget(engine: Engine, names: Sequence[str]) -> None:
    for inspected in engine.inspect("image", names):
        remove(engine, unused(engine, [str(inspected["Id"])]))


def _reason(error: RunFailed) -> str:
    return error.message.strip().splitlines()[-1]


def _cure(error: RunFailed) -> str:
    if _NO_ROOM.search(error.message):
        return "free some disk where Docker's data-root lies, then run again"
    if _UNKNOWN.search(error.message):
        return "correct the name, or push it there"
    if "verification failed" in error.message:
        return "the registry serves something else under that digest: do not trust it, push it again"
    return "look at what it says; hosts need no registry when icosfl_registry and the images' names are empty"
