"""Pushes our image to the registry that hosts pull it from, once."""

from __future__ import annotations

from dataclasses import replace

from icosfl.errors import RunFailed
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_build import last
from icosfl.fleet.image_files import BuiltImage, check, describe, only, there
from icosfl.fleet.image_manifest import REPOSITORY

SECONDS = 3600.0


def name_in(registry: str) -> str:
    """Return what our image is called in a registry, without its digest."""
    return f"{registry.rstrip('/')}/{REPOSITORY}"


def push(image: BuiltImage, registry: str, *, again: bool = False) -> str:
    """Push an image unless that was done, and return the name with the digest that hosts pull.

    Args:
        image: The image.
        registry: The registry, and a path in it: "registry.example.com/fleet".
        again: Whether to push even if it was done.

    Raises:
        RunFailed: The registry refuses it.
        Unavailable: The control node's docker does not answer.
    """
    name = name_in(registry)
    with only(image.path.parent):
        now = there(image.path.parent, image.name) or image  # another host's turn may have pushed it
        digest = "" if again else now.manifest.pushed.get(name, "")
        if not digest:
            digest = _push(Engine(), now, name)
            describe(replace(now, manifest=replace(now.manifest, pushed={**now.manifest.pushed, name: digest})))
    return f"{name}@{digest}"


def _push(engine: Engine, image: BuiltImage, name: str) -> str:
    manifest = image.manifest
    if not engine.inspect("image", [manifest.image]):
        check(image)
        engine.call("image", "load", "--quiet", "--input", str(image.path), seconds=SECONDS)
    tag = f"{name}:{manifest.release}"
    engine.call("image", "tag", manifest.image, tag)
    try:
        engine.call("image", "push", "--quiet", tag, seconds=SECONDS)
    except RunFailed as error:
        raise RunFailed(
            f"{tag} cannot be pushed: {last(error.message)}",
            cure="correct icosfl_registry, or let the control node in: docker login",
        ) from error
    digests = engine.inspect("image", [tag])[0].get("RepoDigests") or []
    pushed = next((str(each).partition("@")[2] for each in digests if str(each).startswith(f"{name}@")), "")
    if not pushed:
        raise RunFailed(f"{tag} was pushed, and docker knows no digest of it", cure="push it again")
    return pushed
