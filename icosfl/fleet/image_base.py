"""The base of our image: pulled where it is missing, and completed by its own apt where it lacks packages, once."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from icosfl.errors import RunFailed, UserError
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_sbom import installed_packages

REPOSITORY = "icosfl-base"
DOCKERFILE = Path("images/base.Dockerfile")
_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Base:
    """A base image that is there.

    Args:
        reference: What the build calls it.
        id: Its id.
        size: Bytes of disk that it takes.
        dpkg_status: Its list of Debian packages; "" for a base of another kind.
        os_release: Its /etc/os-release.
    """

    reference: str
    id: str
    size: int
    dpkg_status: str
    os_release: str


def lacking(base: Base, packages: Collection[str]) -> tuple[str, ...]:
    """Return the packages that a Debian base lacks; none for a base of another kind, which must have all itself."""
    there = {package["Package"] for package in installed_packages(base.dpkg_status)}
    return tuple(sorted(set(packages) - there)) if there else ()


@dataclass(frozen=True, slots=True)
class Wish:
    """The base that is asked for.

    Args:
        name: The base image's name.
        packages: Debian packages that it must have.
        project: The project's directory, where the Dockerfile lies.
        output: The directory of images; what is known of bases is kept there.
    """

    name: str
    packages: tuple[str, ...]
    project: Path
    output: Path


def known(engine: Engine, wish: Wish) -> Base | None:
    """Return the base if the control node has it, completed where it must be.

    Raises:
        Unavailable: The control node's docker does not answer.
    """
    base = _look(engine, wish.name, wish.output)
    missing = lacking(base, wish.packages) if base else ()
    return _look(engine, _tag(base, missing, wish), wish.output) if base and missing else base


def prepared(engine: Engine, wish: Wish) -> Base:
    """Return the base, pulled and completed first where it must be.

    Raises:
        UserError: The base is not there and cannot be pulled, or lacks packages that cannot be installed.
        Unavailable: The control node's docker does not answer.
    """
    if base := known(engine, wish):
        return base
    if (base := _look(engine, wish.name, wish.output)) is None:
        _pull(engine, wish.name)
        base = _look(engine, wish.name, wish.output)
    missing = lacking(base, wish.packages) if base else ()
    if base and missing:
        tag = _tag(base, missing, wish)
        _complete(engine, base, missing, wish.project / DOCKERFILE, tag)
        base = _look(engine, tag, wish.output)
    if base is None:
        raise UserError(f"the base image {wish.name} is not what was pulled", cure="correct icosfl_base_image")
    return base


def remembered(output: Path, identity: str) -> Base | None:
    """Return what a base was, by its id, whether or not the engine still has it; None when it was never looked at."""
    try:
        kept = Base(**json.loads(_note(output, identity).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return kept if kept.id == identity else None


def last(text: str) -> str:
    """Return the last line of what docker said."""
    return (text.strip().splitlines() or ["nothing"])[-1]


def _tag(base: Base, missing: Collection[str], wish: Wish) -> str:
    recipe = json.dumps([base.id, list(missing), (wish.project / DOCKERFILE).read_text(encoding="utf-8")])
    return f"{REPOSITORY}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def _pull(engine: Engine, name: str) -> None:
    try:
        engine.call("image", "pull", "--quiet", name, seconds=_SECONDS)
    except RunFailed as error:
        raise UserError(
            f"the base image {name} is not on the control node and cannot be pulled: {last(error.message)}",
            cure="correct icosfl_base_image, or bring the image: docker load, docker import",
        ) from error


def _complete(engine: Engine, base: Base, missing: Collection[str], dockerfile: Path, tag: str) -> None:
    arguments = {"BASE": base.reference, "PACKAGES": " ".join(missing)}
    words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    with tempfile.TemporaryDirectory(prefix="icosfl-base-") as empty:
        try:
            engine.call(
                *("build", "--quiet", "--force-rm", "--file", str(dockerfile), "--tag", tag),
                *(*words, empty),
                seconds=_SECONDS,
            )
        except RunFailed as error:
            raise UserError(
                f"the base image {base.reference} lacks {', '.join(missing)}, and they cannot be installed in it: "
                f"{last(error.message)}",
                cure="give the control node's docker a Debian mirror, or name a base that has them (icosfl_base_image)",
            ) from error


def _look(engine: Engine, reference: str, output: Path) -> Base | None:
    """What a base is, if it is there; its files are read once, for each look at them takes a container."""
    inspected = next(iter(engine.inspect("image", [reference])), None)
    if inspected is None:
        return None
    identity = str(inspected["Id"])
    if kept := remembered(output, identity):
        return replace(kept, reference=reference)
    base = Base(reference, identity, int(inspected["Size"]), *_files(engine, reference))
    output.mkdir(parents=True, exist_ok=True)
    path = _note(output, identity)
    new = path.with_name(f".making-{path.name}")
    new.write_text(json.dumps(asdict(base)), encoding="utf-8")
    new.replace(path)
    return base


def _note(output: Path, identity: str) -> Path:
    return output / f"base-{identity.removeprefix('sha256:')[:12]}.json"


def _files(engine: Engine, base: str) -> tuple[str, str]:
    container = engine.call("container", "create", base, "/nothing").strip()
    try:
        with tempfile.TemporaryDirectory(prefix="icosfl-base-") as name:
            return (
                _copied(engine, f"{container}:/var/lib/dpkg/status", Path(name) / "dpkg-status"),
                _copied(engine, f"{container}:/etc/os-release", Path(name) / "os-release"),
            )
    finally:
        engine.call("container", "rm", "--force", "--volumes", container)


def _copied(engine: Engine, source: str, target: Path) -> str:
    try:
        engine.call("container", "cp", "--follow-link", source, str(target))
    except RunFailed:
        return ""  # a base of another kind
    return target.read_text(encoding="utf-8", errors="replace") if target.is_file() else ""
