"""The image of our own: built once on the control node from a release bundle and a base, and kept as an archive.

    .state/images/<release>-<digest>.tar.gz    what `docker load` reads
    .state/images/<release>-<digest>.json      what it is: `image_manifest`
    .state/images/<release>-<digest>.cdx.json  what is in it: `image_sbom`

`image_plan` says what it will be, `image_base` what it is laid on, `image_build` builds it, `image_install` runs inside
the build, and `image_host` on hosts.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from icosfl.errors import InputError, Unavailable, UserError
from icosfl.fleet import bundle_archive, image_build, image_files, image_sbom
from icosfl.fleet.bundle_archive import BundleRefused, Manifest
from icosfl.fleet.bundle_plan import is_made_of, own_target
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_base import Base, Wish, known, lacking, prepared, remembered
from icosfl.fleet.image_files import BuiltImage
from icosfl.fleet.image_host import remove, unused
from icosfl.fleet.image_manifest import ImageManifest, layers_of
from icosfl.fleet.image_plan import DOCKERFILE, ImagePlan, check_install_dir, digest, recipe

KEPT = 2
_SOURCES = ("icosfl", "pyproject.toml", "requirements.lock")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an image is asked to be.

    Args:
        project: The project's directory.
        bundle: The release's bundle.
        base: The base image's name.
        packages: Debian packages that the base must have; those that it lacks are installed in it.
        install_dir: Where the release lies in it: where hosts have it too.
        output: The directory of images.
        public_key: Whose signature the bundle must bear; "" for nobody's.
    """

    project: Path
    bundle: Path
    base: str
    packages: tuple[str, ...]
    install_dir: str
    output: Path
    public_key: str = ""

    @property
    def release(self) -> str:
        """The release in it."""
        return self.bundle.name.removesuffix(".tar")


def found(wanted: Wanted, engine: Engine) -> BuiltImage | None:
    """Return the image that is wanted if its archive is there.

    A control node whose docker does not answer, or that has the bundle no more, uses what was built before of that
    release on the base of that name. One that has the base no more, for images were pruned, uses what was built on it
    just as it would be built now. Nothing is changed, the base is not pulled.

    Raises:
        UserError: The bundle is not rightly signed, or releases cannot lie in that directory.
        Unavailable: The control node's docker does not answer, and nothing was built before.
    """
    if not wanted.bundle.exists():
        return image_files.built_before(wanted.output, wanted.release, wanted.base)
    try:
        if base := known(engine, _wish(wanted)):
            return image_files.there(wanted.output, _plan(wanted, base).name)
        return None if engine.inspect("image", [wanted.base]) else _on_a_base_that_is_gone(wanted)
    except Unavailable:
        if before := image_files.built_before(wanted.output, wanted.release, wanted.base):
            return before
        raise


def ensure(wanted: Wanted, say: Callable[[str], None], *, fresh: bool = False) -> BuiltImage:
    """Return the image, built unless its archive is there.

    Args:
        wanted: Which.
        say: Called with what is done now.
        fresh: Whether to build every step anew, even if it is there.

    Raises:
        UserError: There is no such bundle, base or directory.
        Unavailable: The control node's docker does not answer.
        RunFailed: The image cannot be built.
    """
    engine = Engine()
    with image_files.only(wanted.output):
        there = None if fresh else found(wanted, engine)
        if there:
            return there
        if not wanted.bundle.exists():
            raise UserError(
                f"the control node has neither the image nor the bundle of release {wanted.release}",
                cure="leave icosfl_release empty for the newest, or build that release from its commit",
            )
        base = prepared(engine, _wish(wanted))
        plan = _plan(wanted, base)
        if not fresh and (there := image_files.there(wanted.output, plan.name)):
            return there  # only the base was lacking
        plan = replace(plan, revision=_revision(wanted.project, plan.release))
        built = _build(engine, plan, wanted, base, say, fresh=fresh)
        _forget_old(engine, wanted.output, plan.name)
        return built


def _on_a_base_that_is_gone(wanted: Wanted) -> BuiltImage | None:
    for built in image_files.built(wanted.output):
        if (built.manifest.release, built.manifest.base) == (wanted.release, wanted.base):
            base = remembered(wanted.output, built.manifest.base_id)
            if base and not lacking(base, wanted.packages) and _plan(wanted, base).name == built.name:
                return built
    return None


def _plan(wanted: Wanted, base: Base) -> ImagePlan:
    try:
        bundle = bundle_archive.read_manifest(wanted.bundle, public_key=wanted.public_key)
    except BundleRefused as error:
        raise UserError(error.cause, cure=error.cure) from error
    install_dir = check_install_dir(wanted.install_dir)
    return ImagePlan(
        release=bundle.id,
        version=bundle.version,
        revision="",
        base=wanted.base,
        base_id=base.id,
        base_reference=base.reference,
        install_dir=install_dir,
        made_of=digest(bundle.sha256, base.id, install_dir, recipe(wanted.project)),
    )


def _wish(wanted: Wanted) -> Wish:
    return Wish(wanted.base, wanted.packages, wanted.project, wanted.output)


def _build(  # noqa: PLR0913 (one step of ensure)
    engine: Engine, plan: ImagePlan, wanted: Wanted, base: Base, say: Callable[[str], None], *, fresh: bool
) -> BuiltImage:
    say(f"checking {wanted.bundle.name}")
    try:
        bundle = bundle_archive.read_bundle(wanted.bundle, public_key=wanted.public_key)
    except BundleRefused as error:
        raise InputError(error.cause, cure=error.cure) from error
    parts = image_build.Parts(wanted.project / DOCKERFILE, wanted.bundle, bundle, recipe(wanted.project))
    say(f"building the image of {plan.release} on {plan.base} (a minute or two)")
    began = time.monotonic()
    image_build.build(engine, plan, parts, wanted.output, fresh=fresh)
    seconds = round(time.monotonic() - began, 1)
    say(f"writing {plan.name}{image_files.ARCHIVE}")
    making = wanted.output / f".making-{plan.name}{image_files.ARCHIVE}"
    try:
        image_build.save(engine, plan.tag, making)
        manifest = replace(_describe(engine, plan, base, making), built_seconds=seconds)
        built = BuiltImage(wanted.output / manifest.archive, manifest, changed=True)
        _list_contents(built, bundle, base)
        making.replace(built.path)
        image_files.describe(built)
    finally:
        making.unlink(missing_ok=True)
    return built


def _describe(engine: Engine, plan: ImagePlan, base: Base, archive: Path) -> ImageManifest:
    (inspected,) = engine.inspect("image", [plan.tag])
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ImageManifest(
        image=str(inspected["Id"]),
        release=plan.release,
        version=plan.version,
        made_of=plan.made_of,
        base=plan.base,
        base_id=base.id,
        architecture=str(inspected["Architecture"]),
        size=int(inspected["Size"]),
        base_size=base.size,
        layers=layers_of(inspected),
        archive=f"{plan.name}{image_files.ARCHIVE}",
        archive_size=archive.stat().st_size,
        archive_sha256=sha256,
    )


def _list_contents(image: BuiltImage, bundle: Manifest, base: Base) -> None:
    distribution = image_sbom.distribution_of(base.os_release)
    text = image_sbom.sbom(image.manifest, bundle, base.dpkg_status, distribution)
    image.sbom.write_text(text, encoding="utf-8")


def _revision(project: Path, release: str) -> str:
    """The commit that a release was made of; "" where it was made of something else, or there is no git."""
    git = shutil.which("git")
    if git is None or not is_made_of(release, project, own_target()):
        return ""
    said = []
    for words in (("status", "--porcelain", "--", *_SOURCES), ("rev-parse", "HEAD")):
        done = subprocess.run(  # noqa: S603
            [git, "--no-optional-locks", "-C", str(project), *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return ""
        said.append(done.stdout.strip())
    return "" if said[0] else said[1]


def _forget_old(engine: Engine, output: Path, current: str) -> None:
    others = [path for path in image_files.archives(output) if path.name != f"{current}{image_files.ARCHIVE}"]
    for path in others[KEPT - 1 :]:
        old = image_files.there(output, path.name.removesuffix(image_files.ARCHIVE))
        if old and engine.inspect("image", [old.manifest.image]):
            remove(engine, unused(engine, [old.manifest.image]))
        image_files.forget(path)
