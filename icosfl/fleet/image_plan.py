"""What an image will be, before anything is built: the same release on the same base always has the same name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icosfl.errors import UserError
from icosfl.fleet.image_manifest import tag_of

DOCKERFILE = Path("images/Dockerfile")
STAGE_LABEL = "io.icosfl.stage"
_FIRST = "image_install.py"
_IMPORT = re.compile(r"^from \.(\w+) import ", re.M)


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """An image to be.

    Args:
        release: The release in it.
        version: The project's.
        revision: The commit that the release was made of; "" where that is not known.
        base: The base image's name.
        base_id: The id of what the build is laid on.
        base_reference: What the build calls that.
        install_dir: Where the release lies in it: where hosts have it too.
        made_of: The digest of all that goes in.
    """

    release: str
    version: str
    revision: str
    base: str
    base_id: str
    base_reference: str
    install_dir: str
    made_of: str

    @property
    def name(self) -> str:
        """What its archive is called: a release may be built on several bases."""
        return f"{self.release}-{self.made_of[:8]}"

    @property
    def tag(self) -> str:
        """What the control node's docker calls it from the moment it is built: none that cleans up takes it away."""
        return tag_of(self.release)


def digest(bundle_sha256: str, base_id: str, install_dir: str, recipe: Mapping[str, str]) -> str:
    """Return the digest of all that an image is made of.

    Args:
        bundle_sha256: The digest of the bundle's manifest.
        base_id: The base image's id.
        install_dir: Where the release lies.
        recipe: The Dockerfile and the code that runs in it, by name.
    """
    value = {"bundle": bundle_sha256, "base": base_id, "install_dir": install_dir, "recipe": dict(recipe)}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def recipe(project: Path) -> dict[str, str]:
    """Return the texts that say how an image is built: the Dockerfile and the code that runs in it, by name.

    Raises:
        UserError: The project lacks one.
    """
    try:
        found = {DOCKERFILE.name: (project / DOCKERFILE).read_text(encoding="utf-8")}
        wanted = [_FIRST]
        while wanted:
            name = wanted.pop()
            found[name] = (project / "icosfl" / "fleet" / name).read_text(encoding="utf-8")
            wanted += [f"{each}.py" for each in _IMPORT.findall(found[name]) if f"{each}.py" not in found]
    except OSError as error:
        raise UserError(
            f"{project} has no image to build: {error}", cure="run it in the project's directory"
        ) from error
    return found


def check_install_dir(path: str) -> str:
    """Return the directory as Docker writes it.

    Raises:
        UserError: It cannot be that of an image.
    """
    pure = PurePosixPath(path)
    if not pure.is_absolute() or ".." in pure.parts or len(pure.parts) < 2:
        raise UserError(f"{path!r} is no directory for releases", cure="set icosfl_install_dir to an absolute path")
    return str(pure)


def build_arguments(plan: ImagePlan, stage: str) -> dict[str, str]:
    """Return what the Dockerfile asks for.

    Args:
        plan: The image.
        stage: What tells this build's first stage from all others.
    """
    return {
        "STAGE": stage,
        "BASE": plan.base_reference,
        "INSTALL_DIR": plan.install_dir,
        "RELEASE": plan.release,
        "VERSION": plan.version,
        "REVISION": plan.revision,
        "BASE_NAME": plan.base,
        "BASE_ID": plan.base_id,
        "MADE_OF": plan.made_of,
    }


def build_command(plan: ImagePlan, dockerfile: Path, context: Path, stage: str, *, fresh: bool) -> tuple[str, ...]:
    """Return the words after `docker` that build it, for BuildKit and for the builder before it.

    Args:
        plan: The image.
        dockerfile: The Dockerfile.
        context: What its COPY reads.
        stage: What tells this build's first stage from all others.
        fresh: Whether to build every step anew.
    """
    values = build_arguments(plan, stage).items()
    return (
        *("build", "--quiet", "--force-rm", "--pull=false", "--file", str(dockerfile), "--tag", plan.tag),
        *(("--no-cache",) if fresh else ()),
        *(word for key, value in values for word in ("--build-arg", f"{key}={value}")),
        str(context),
    )
