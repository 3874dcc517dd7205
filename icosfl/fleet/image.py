"""The image of our own: built once on the control node from a release bundle and a base, and kept as an archive.

    .state/images/<release>-<digest>.tar.gz    what `docker load` reads
    .state/images/<release>-<digest>.json      what it is: `image_manifest`
    .state/images/<release>-<digest>.cdx.json  what is in it: `image_sbom`

`image_plan` says what it will be, `image_build` builds it, `image_install` runs inside the build, and `image_host` on
hosts.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from icosfl.errors import InputError, RunFailed, Unavailable, UserError
from icosfl.fleet import bundle_archive, image_build, image_sbom
from icosfl.fleet.bundle_archive import BundleRefused, Manifest
from icosfl.fleet.bundle_plan import make_plan, own_target
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_host import is_used
from icosfl.fleet.image_manifest import REPOSITORY, ImageManifest, dump, layers_of, read
from icosfl.fleet.image_plan import DOCKERFILE, ImagePlan, check_install_dir, digest, recipe

KEPT = 2
PUSH_SECONDS = 3600.0
_SOURCES = ("icosfl", "pyproject.toml", "requirements.lock")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an image is asked to be.

    Args:
        project: The project's directory.
        bundle: The release's bundle.
        base: The base image's name.
        install_dir: Where the release lies in it: where hosts have it too.
        output: The directory of images.
        public_key: Whose signature the bundle must bear; "" for nobody's.
    """

    project: Path
    bundle: Path
    base: str
    install_dir: str
    output: Path
    public_key: str = ""

    @property
    def release(self) -> str:
        """The release in it."""
        return self.bundle.name.removesuffix(".tar")


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
    def sbom(self) -> Path:
        """Where the list of what is in it lies."""
        return self.path.with_name(f"{self.path.name.removesuffix('.tar.gz')}.cdx.json")


def planned(engine: Engine, wanted: Wanted) -> ImagePlan:
    """Return what the image would be; the base is pulled where it is missing.

    Raises:
        UserError: There is no such bundle, base or directory.
        Unavailable: The control node's docker does not answer.
    """
    manifest = _bundle(wanted)
    base = image_build.base_image(engine, wanted.base)
    install_dir = check_install_dir(wanted.install_dir)
    made_of = digest(manifest.sha256, str(base["Id"]), install_dir, recipe(wanted.project))
    return ImagePlan(manifest.id, manifest.version, "", wanted.base, str(base["Id"]), install_dir, made_of)


def found(wanted: Wanted, engine: Engine) -> BuiltImage | None:
    """Return the image that is wanted if its archive is there.

    A control node whose docker does not answer, or that has the bundle no more, uses what was built before of that
    release on the base of that name.

    Raises:
        UserError: The bundle is not rightly signed, or there is no such base or directory.
        Unavailable: The control node's docker does not answer, and nothing was built before.
    """
    if not wanted.bundle.exists():
        return _built_before(wanted)
    try:
        return _there(wanted.output, planned(engine, wanted).name)
    except Unavailable:
        if before := _built_before(wanted):
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
    with only(wanted.output):
        there = None if fresh else found(wanted, engine)
        if there:
            return there
        if not wanted.bundle.exists():
            raise UserError(
                f"the control node has neither the image nor the bundle of release {wanted.release}",
                cure="leave icosfl_release empty for the newest, or build that release from its commit",
            )
        plan = planned(engine, wanted)
        plan = replace(plan, revision=_revision(wanted.project, plan.release))
        built = _build(engine, plan, wanted, say, fresh=fresh)
        _forget_old(engine, wanted.output, plan.name)
        return built


def check(image: BuiltImage) -> None:
    """Check that an archive is what was built: a damaged one must not reach any host.

    Raises:
        InputError: It is not.
    """
    with image.path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == image.manifest.archive_sha256:
            return
    raise InputError(f"{image.path} is damaged", cure="delete it, and it is built again")


def name_in(registry: str) -> str:
    """Return what our image is called in a registry, without its digest."""
    return f"{registry.rstrip('/')}/{REPOSITORY}"


def push(image: BuiltImage, registry: str, *, again: bool = False) -> str:
    """Push an image to a registry unless that was done, and return the name with the digest that hosts pull.

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
        now = _there(image.path.parent, image.path.name.removesuffix(".tar.gz")) or image
        if (known := now.manifest.pushed.get(name)) and not again:
            return f"{name}@{known}"
        known = _push(Engine(), now, name)
        _write(now.path, replace(now.manifest, pushed={**now.manifest.pushed, name: known}))
        return f"{name}@{known}"


def _push(engine: Engine, image: BuiltImage, name: str) -> str:
    manifest = image.manifest
    if not engine.inspect("image", [manifest.image]):
        check(image)
        engine.call("image", "load", "--quiet", "--input", str(image.path), seconds=PUSH_SECONDS)
    tag = f"{name}:{manifest.release}"
    engine.call("image", "tag", manifest.image, tag)
    try:
        engine.call("image", "push", "--quiet", tag, seconds=PUSH_SECONDS)
    except RunFailed as error:
        raise RunFailed(
            f"{tag} cannot be pushed: {image_build.last(error.message)}",
            cure="correct icosfl_registry, or let the control node in: docker login",
        ) from error
    digests = engine.inspect("image", [tag])[0].get("RepoDigests") or []
    pushed = next((each.partition("@")[2] for each in digests if each.startswith(f"{name}@")), "")
    if not pushed:
        raise RunFailed(f"{tag} was pushed, and docker knows no digest of it", cure="push it again")
    return pushed


def _build(engine: Engine, plan: ImagePlan, wanted: Wanted, say: Callable[[str], None], *, fresh: bool) -> BuiltImage:
    say(f"checking {wanted.bundle.name}")
    try:
        bundle = bundle_archive.read_bundle(wanted.bundle, public_key=wanted.public_key)
    except BundleRefused as error:
        raise InputError(error.cause, cure=error.cure) from error
    parts = image_build.Parts(wanted.project / DOCKERFILE, wanted.bundle, bundle, recipe(wanted.project))
    say(f"building the image of {plan.release} on {plan.base} (a minute or two)")
    began = time.monotonic()
    image = image_build.build(engine, plan, parts, wanted.output, fresh=fresh)
    seconds = round(time.monotonic() - began, 1)
    tag = f"{REPOSITORY}:{plan.release}"
    engine.call("image", "tag", image, tag)
    say(f"writing {plan.name}.tar.gz")
    making = wanted.output / f".making-{plan.name}.tar.gz"
    try:
        image_build.save(engine, tag, making)
        manifest = _describe(engine, plan, image, making, seconds)
        path = wanted.output / manifest.archive
        _write_sbom(engine, BuiltImage(path, manifest), bundle)
        making.replace(path)
        _write(path, manifest)
    finally:
        making.unlink(missing_ok=True)
    return BuiltImage(path, manifest, changed=True)


def _describe(engine: Engine, plan: ImagePlan, image: str, archive: Path, seconds: float) -> ImageManifest:
    (inspected,) = engine.inspect("image", [image])
    (base,) = engine.inspect("image", [plan.base_id])
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ImageManifest(
        image=str(inspected["Id"]),
        release=plan.release,
        version=plan.version,
        made_of=plan.made_of,
        base=plan.base,
        base_id=plan.base_id,
        architecture=str(inspected["Architecture"]),
        size=int(inspected["Size"]),
        base_size=int(base["Size"]),
        layers=layers_of(inspected),
        archive=f"{plan.name}.tar.gz",
        archive_size=archive.stat().st_size,
        archive_sha256=sha256,
        built_seconds=seconds,
    )


def _write_sbom(engine: Engine, image: BuiltImage, bundle: Manifest) -> None:
    status, os_release = image_build.base_files(engine, image.manifest.base_id, image.path.parent)
    text = image_sbom.sbom(image.manifest, bundle, status, image_sbom.distribution_of(os_release))
    image.sbom.write_text(text, encoding="utf-8")


def _built_before(wanted: Wanted) -> BuiltImage | None:
    paths = sorted(wanted.output.glob(f"{wanted.release}-*.tar.gz"), key=lambda path: path.stat().st_mtime)
    images = (_there(wanted.output, path.name.removesuffix(".tar.gz")) for path in reversed(paths))
    return next((image for image in images if image and image.manifest.base == wanted.base), None)


def _bundle(wanted: Wanted) -> Manifest:
    try:
        return bundle_archive.read_manifest(wanted.bundle, public_key=wanted.public_key)
    except BundleRefused as error:
        raise UserError(error.cause, cure=error.cure) from error


def _there(output: Path, name: str) -> BuiltImage | None:
    path = output / f"{name}.tar.gz"
    manifest = read(output / f"{name}.json")
    if manifest is None or not path.is_file() or path.stat().st_size != manifest.archive_size:
        return None
    return BuiltImage(path, manifest)


def _write(archive: Path, manifest: ImageManifest) -> None:
    path = archive.with_name(f"{archive.name.removesuffix('.tar.gz')}.json")
    new = path.with_name(f".making-{path.name}")
    new.write_text(dump(manifest), encoding="utf-8")
    new.replace(path)


def _revision(project: Path, release: str) -> str:
    """The commit that a release was made of; "" where it was made of something else, or there is no git."""
    git = shutil.which("git")
    if git is None or make_plan(project, own_target()).id != release:
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


def _forget_old(engine: Engine, output: Path, current: str) -> None:
    others = [path for path in output.glob("*.tar.gz") if path.name != f"{current}.tar.gz"]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT - 1 :]:
        old = _there(output, path.name.removesuffix(".tar.gz"))
        if old and engine.inspect("image", [old.manifest.image]) and not is_used(engine, old.manifest.image):
            engine.call("image", "rm", "--force", old.manifest.image)
        for suffix in (".tar.gz", ".json", ".cdx.json"):
            path.with_name(path.name.removesuffix(".tar.gz") + suffix).unlink(missing_ok=True)
