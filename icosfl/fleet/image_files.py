"""The files of an image on the control node: its archive, what it is, and what is in it."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import InputError
from icosfl.fleet.image_manifest import ImageManifest, dump, read

ARCHIVE = ".tar.gz"
DESCRIPTION = ".json"
CONTENTS = ".cdx.json"


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image that is there.

    Args:
        path: Its archive.
        manifest: What it is.
        changed: Whether it was built just now.
    """

    path: Path
    manifest: ImageManifest
    changed: bool = False

    @property
    def name(self) -> str:
        """What its files are called."""
        return self.path.name.removesuffix(ARCHIVE)

    @property
    def sbom(self) -> Path:
        """Where the list of what is in it lies."""
        return self.path.with_name(self.name + CONTENTS)


def there(output: Path, name: str) -> BuiltImage | None:
    """Return the image of a name; None when it is not there, or not whole."""
    path = output / f"{name}{ARCHIVE}"
    manifest = read(output / f"{name}{DESCRIPTION}")
    if manifest is None or not path.is_file() or path.stat().st_size != manifest.archive_size:
        return None
    return BuiltImage(path, manifest)


def archives(output: Path) -> list[Path]:
    """Return all archives, the newest first."""
    return sorted(output.glob(f"*{ARCHIVE}"), key=lambda path: path.stat().st_mtime, reverse=True)


def built(output: Path) -> list[BuiltImage]:
    """Return all images that are there, the newest first."""
    found = (there(output, path.name.removesuffix(ARCHIVE)) for path in archives(output))
    return [image for image in found if image]


def built_before(output: Path, release: str, base: str) -> BuiltImage | None:
    """Return the newest image of a release on a base of that name, whatever it was made of."""
    return next(
        (each for each in built(output) if (each.manifest.release, each.manifest.base) == (release, base)), None
    )


def describe(image: BuiltImage) -> None:
    """Write what an image is beside its archive: from then on it counts."""
    path = image.path.with_name(image.name + DESCRIPTION)
    new = path.with_name(f".making-{path.name}")
    new.write_text(dump(image.manifest), encoding="utf-8")
    new.replace(path)


def forget(image: Path) -> None:
    """Delete an archive and what stands beside it."""
    for suffix in (DESCRIPTION, CONTENTS, ARCHIVE):
        image.with_name(image.name.removesuffix(ARCHIVE) + suffix).unlink(missing_ok=True)


def check(image: BuiltImage) -> None:
    """Check that an archive is what was built: a damaged one must not reach any host.

    Raises:
        InputError: It is not.
    """
    with image.path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == image.manifest.archive_sha256:
            return
    raise InputError(f"{image.path} is damaged", cure="delete it, and it is built again")


@contextmanager
def only(output: Path) -> Iterator[None]:
    """Let nobody else build or push in this directory; what a killed build left is thrown away."""
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in output.glob(".building-*"):
            shutil.rmtree(leftover)
        for file in output.glob(".making-*"):
            file.unlink()
        yield
