"""Builds an image with the control node's docker, and makes the archive that hosts without a registry get."""

from __future__ import annotations

import gzip
import os
import re
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import RunFailed
from icosfl.fleet.bundle_archive import Manifest
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_plan import STAGE_LABEL, ImagePlan, build_command

BUILD_SECONDS = 3600.0
_BLOCK_BYTES = 16 << 20
_LEVEL = 4  # of 854 MB: 12 s and 259 MB; level 6 takes 30 s for 249 MB, level 1 8 s for 285 MB
_OLD = "24h"
_LAST_LINES = 15
_MAIN = "from fleet.image_install import main\n\nmain()\n"


@dataclass(frozen=True, slots=True)
class Parts:
    """What an image is built from.

    Args:
        dockerfile: How.
        bundle: The release's bundle.
        manifest: The bundle's.
        recipe: The code that runs in the image, by file name.
    """

    dockerfile: Path
    bundle: Path
    manifest: Manifest
    recipe: Mapping[str, str]


def build(engine: Engine, plan: ImagePlan, parts: Parts, scratch: Path, *, fresh: bool = False) -> None:
    """Build an image under its tag.

    The legacy builder leaves nothing else in the engine. BuildKit leaves its cache, which it bounds by itself and
    `docker builder prune` empties.

    Args:
        engine: The control node's.
        plan: The image.
        parts: What it is built from.
        scratch: A directory on the file system of the bundles, for the context.
        fresh: Whether to build every step anew.

    Raises:
        RunFailed: The builder refuses, and says why.
    """
    stage = secrets.token_hex(8)
    with _context(scratch, parts) as context:
        command = build_command(plan, parts.dockerfile, context, stage, fresh=fresh)
        try:
            said = engine.call(*command, seconds=BUILD_SECONDS)
        except RunFailed as error:
            raise RunFailed(
                f"the image of {plan.release} cannot be built on {plan.base}:\n{last(error.message)}",
                cure=_cure(error.message),
            ) from error
        finally:
            forget_stages(engine, stage)
    if not engine.inspect("image", [plan.tag]):
        raise RunFailed(
            f"docker built the image, said {said.strip()!r}, and has no {plan.tag}",
            cure="let docker build with the builder of its own engine: docker buildx use default",
        )


def forget_stages(engine: Engine, stage: str) -> None:
    """Remove what the builder keeps of a build's first stage, and what builds left that were killed long ago."""
    engine.call("image", "prune", "--force", "--filter", f"label={STAGE_LABEL}={stage}", seconds=BUILD_SECONDS)
    engine.call(
        *("image", "prune", "--force", "--filter", f"label={STAGE_LABEL}", "--filter", f"until={_OLD}"),
        seconds=BUILD_SECONDS,
    )


def save(engine: Engine, tag: str, path: Path) -> None:
    """Write an image to an archive that `docker load` reads, compressed on all processors.

    Raises:
        RunFailed: The disk is full, or the engine refuses.
    """
    plain = path.with_suffix(".tar")
    try:
        engine.call("image", "save", "--output", str(plain), tag, seconds=BUILD_SECONDS)
        compress(plain, path)
    except OSError as error:
        raise RunFailed(f"{path} cannot be written: {error}", cure="free some disk, then build again") from error
    finally:
        plain.unlink(missing_ok=True)


def compress(source: Path, target: Path) -> None:
    """Compress a file with gzip, block by block: the same bytes give the same archive."""
    workers = os.cpu_count() or 1
    with source.open("rb") as plain, target.open("wb") as packed, ThreadPoolExecutor(workers) as pool:
        while blocks := [block for _ in range(2 * workers) if (block := plain.read(_BLOCK_BYTES))]:
            for part in pool.map(lambda block: gzip.compress(block, _LEVEL, mtime=0), blocks):
                packed.write(part)
        packed.flush()
        os.fsync(packed.fileno())


def last(text: str) -> str:
    """Return the end of what a builder said, without its colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line for line in plain.splitlines() if line.strip() and "DEPRECATED" not in line]
    return "\n".join(lines[-_LAST_LINES:])


@contextmanager
def _context(scratch: Path, parts: Parts) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".building-", dir=scratch) as name:
        context = Path(name)
        code = context / "install" / "fleet"
        code.mkdir(parents=True)
        (code / "__init__.py").touch()
        (code.parent / "__main__.py").write_text(_MAIN, encoding="utf-8")
        for file, text in parts.recipe.items():
            if file.endswith(".py"):
                (code / file).write_text(text, encoding="utf-8")
        _interpreter(parts.bundle, parts.manifest, context)
        try:
            (context / "bundle.tar").hardlink_to(parts.bundle)
        except OSError:  # another file system
            shutil.copyfile(parts.bundle, context / "bundle.tar")
        yield context


def _interpreter(bundle: Path, manifest: Manifest, into: Path) -> None:
    """Unpack the bundle's Python, which starts the installer: the base has none."""
    with tarfile.open(bundle, "r:") as archive:
        for member in archive:
            fact = manifest.files.get(member.name)
            source = archive.extractfile(member) if fact and member.name.startswith("python/") else None
            if fact is None or source is None:
                continue
            path = into / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            path.chmod(0o755 if fact.executable else 0o644)
    python = next(iter(sorted((into / "python" / "bin").glob("python3.*"))), None)
    if python is None:
        raise RunFailed(f"{bundle} holds no interpreter", cure="build it again with icosfl bundle")
    (python.parent / "python3").symlink_to(python.name)


def _cure(said: str) -> str:
    if "shared object file" in said or "no such file or directory" in said:
        return "add the package with that library to icosfl_base_packages, or name a base that has it"
    if "no space left" in said:
        return "free some of the disk that the control node's docker lies on"
    return "look at what it says"
