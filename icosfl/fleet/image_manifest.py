"""What an image of ours is: the JSON beside its archive, and whether an image that an engine has is the same one.

An engine calls an image by the digest of its configuration, or (Engine 29 with containerd's store) of its manifest. The
layers are the same digests everywhere, so an image that has another name is known by them and by its labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from icosfl.errors import InputError

FORMAT = 1
RELEASE_LABEL = "io.icosfl.image"
MADE_OF_LABEL = "io.icosfl.made-of"
REPOSITORY = "icosfl"
_AGAIN = "delete it, then build it again with icosfl image"


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """What an image holds and for which hosts.

    Args:
        image: Its id where it was built, "sha256:…".
        release: The release in it.
        version: The project's.
        made_of: The digest of all that went in.
        base: The base image's name.
        base_id: The base image's id.
        architecture: In Docker's words, "amd64".
        size: Bytes of disk that it takes.
        base_size: The base's part of it.
        layers: The digests of its layers, unpacked.
        archive: The archive's file name.
        archive_size: The archive's bytes.
        archive_sha256: The archive's digest.
        built_seconds: How long building took.
        pushed: The digest in each registry that it was pushed to.
    """

    image: str
    release: str
    version: str
    made_of: str
    base: str
    base_id: str
    architecture: str
    size: int
    base_size: int
    layers: tuple[str, ...]
    archive: str
    archive_size: int
    archive_sha256: str
    built_seconds: float = 0.0
    pushed: Mapping[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """The name that it has where it is loaded; identity is its digest."""
        return tag_of(self.release)


def dump(manifest: ImageManifest) -> str:
    """Return the text of the file beside the archive."""
    return json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, sort_keys=True) + "\n"


def parse(text: str, name: str) -> ImageManifest:
    """Read the text of such a file.

    Raises:
        InputError: It is none, or one of another format.
    """
    try:
        value: dict[str, Any] = json.loads(text)
        if value.pop("format") != FORMAT:
            raise InputError(f"{name} has a format that this release does not read", cure=_AGAIN)
        value["layers"] = tuple(str(layer) for layer in value["layers"])
        return ImageManifest(**value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name} describes no image ({error!r})", cure=_AGAIN) from error


def read(path: Path) -> ImageManifest | None:
    """Return what stands beside an archive; None where there is nothing that counts."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, InputError):
        return None


def tag_of(release: str) -> str:
    """Return what an engine calls the image of a release."""
    return f"{REPOSITORY}:{release}"


def layers_of(inspected: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the digests of an image's layers, as `docker image inspect` tells them."""
    return tuple((inspected.get("RootFS") or {}).get("Layers") or ())


def labels_of(inspected: Mapping[str, Any]) -> Mapping[str, str]:
    """Return an image's labels."""
    return (inspected.get("Config") or {}).get("Labels") or {}


def is_same(inspected: Mapping[str, Any], image: str, made_of: str, layers: tuple[str, ...]) -> bool:
    """Tell whether an image of an engine is the one that is meant."""
    if layers_of(inspected) != layers:
        return False
    return bool(inspected.get("Id") == image or labels_of(inspected).get(MADE_OF_LABEL) == made_of)
