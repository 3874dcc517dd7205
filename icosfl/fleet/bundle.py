"""The release bundle: one file with all that a bare host needs to become a node, built once on the control node.

    manifest.json  manifest.sig?  requirements.txt  wheelhouse/*.whl  python/  app/

`bundle_plan` says what goes in and what it is called, `bundle_parts` makes the slow parts, `bundle_archive` reads and
checks, `bundle_install` installs on hosts.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from icosfl.errors import InputError, RunFailed
from icosfl.fleet import bundle_archive, bundle_parts
from icosfl.fleet.bundle_archive import MANIFEST, SIGNATURE, BundleRefused, FileFact, Manifest, dump_manifest
from icosfl.fleet.bundle_plan import Plan, check_target, make_plan, own_target
from icosfl.fleet.bundle_signing import public_key, sign

KEPT = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a bundle is asked to be.

    Args:
        project: The project's directory.
        output: The directory of bundles.
        python: The minor version that is asked for, or None for whatever the control node has.
        machine: The architecture that is asked for, or None.
        sign_key: The private key to sign with, or None.
        extras: Which of the project's optional dependencies it brings.
    """

    project: Path
    output: Path
    python: str | None = None
    machine: str | None = None
    sign_key: Path | None = None
    extras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Built:
    """A bundle that is there.

    Args:
        path: Where it lies.
        manifest: What it holds.
        changed: Whether it was built just now.
    """

    path: Path
    manifest: Manifest
    changed: bool = False


def planned(wanted: Wanted) -> Plan:
    """Return what the bundle would be, in a fraction of a second.

    Raises:
        UserError: The project cannot be read, or bundles for that target cannot be built here.
    """
    target = own_target()
    check_target(target, wanted.python, wanted.machine)
    return make_plan(wanted.project, target, wanted.extras)


def found(output: Path, release: str, sign_key: Path | None = None) -> Built | None:
    """Return the bundle of that id if there is one, signed with that key if one is given."""
    path = output / f"{release}.tar"
    if not path.exists():
        return None
    try:
        manifest = bundle_archive.read_manifest(path, public_key=public_key(sign_key) if sign_key else "")
    except BundleRefused:
        return None  # it does not count, so it is built again
    return Built(path, manifest) if manifest.id == release else None


def ensure(wanted: Wanted, say: Callable[[str], None]) -> Built:
    """Return the project's bundle, built unless it is there.

    Raises:
        UserError: The project, the target or the signing key.
        RunFailed: A part cannot be made.
    """
    plan = planned(wanted)
    if there := found(wanted.output, plan.id, wanted.sign_key):
        return there
    with _only_build(wanted.output):
        if there := found(wanted.output, plan.id, wanted.sign_key):
            return there
        manifest = _build(plan, wanted, say)
        _forget_old(wanted.output, plan.id)
        return Built(wanted.output / f"{plan.id}.tar", manifest, changed=True)


def verify(path: Path, key: str = "") -> Manifest:
    """Check every byte of a bundle, and its signature when a public key is given.

    Raises:
        InputError: It is damaged, incomplete or not rightly signed.
    """
    try:
        return bundle_archive.read_bundle(path, public_key=key)
    except BundleRefused as error:
        raise InputError(error.cause, cure=error.cure) from error


def verify_once(path: Path, key: str, sha256: str) -> None:
    """Check a bundle like `read_bundle`, unless it has been checked since it was written.

    The processes that ship it to many hosts wait for the first of them, which leaves a note beside it. Hosts check
    every byte themselves: this only spares them a bundle that was damaged here.

    Raises:
        BundleRefused: It is damaged, incomplete or not rightly signed.
    """
    bundle_archive.read_manifest(path, public_key=key, sha256=sha256)
    status = path.stat()
    now = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {sha256}\n"
    try:
        opened = _note(path).open("a+", encoding="utf-8")
    except OSError:  # a directory that one may only read
        bundle_archive.read_bundle(path)
        return
    with opened as note:
        fcntl.flock(note, fcntl.LOCK_EX)
        note.seek(0)
        if note.read() == now:
            return
        bundle_archive.read_bundle(path)
        note.truncate(0)
        note.write(now)


def _note(path: Path) -> Path:
    return path.with_suffix(".checked")


def _build(plan: Plan, wanted: Wanted, say: Callable[[str], None]) -> Manifest:
    say(f"building {plan.id}")
    parts = wanted.output / "parts"
    wheels, python = bundle_parts.wheels(plan, parts, say), bundle_parts.interpreter(plan, parts, say)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=wanted.output) as name:
        making = Path(name)
        wheelhouse = [*wheels.glob("*.whl"), *bundle_parts.own_wheels(wanted.project, plan.version, making)]
        bytecode = bundle_parts.bytecode(plan, wanted.project, wheelhouse, python, parts, say)
        wheelhouse += bytecode.glob("*.whl")
        (making / "requirements.txt").write_text(bundle_parts.requirements_text(wheelhouse), encoding="utf-8")
        files = {
            "requirements.txt": making / "requirements.txt",
            **{f"app/{source}": wanted.project / source for source in plan.sources},
            **{f"wheelhouse/{wheel.name}": wheel for wheel in wheelhouse},
            **{str(path.relative_to(python)): path for path in (python / "python").rglob("*") if path.is_file()},
        }
        say(f"packing {len(files)} files")
        write_bundle(making / "bundle.tar", plan, files, _needs(files), wanted.sign_key)
        (making / "bundle.tar").replace(wanted.output / f"{plan.id}.tar")
    bundle_parts.forget(parts, [wheels, python, bytecode])
    built = found(wanted.output, plan.id, wanted.sign_key)
    if built is None:
        raise RunFailed(f"{plan.id} was written and cannot be read", cure="look at the disk, then build again")
    return built.manifest


def write_bundle(path: Path, plan: Plan, files: Mapping[str, Path], needs_bytes: int, sign_key: Path | None) -> None:
    """Write files with their manifest to a tar that is on disk when this returns."""
    facts = {name: _fact(file) for name, file in files.items()}
    target = {key: str(value) for key, value in asdict(plan.target).items()}
    raw = dump_manifest(Manifest(plan.id, plan.version, target, needs_bytes, facts))
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            _add(archive, MANIFEST, io.BytesIO(raw), len(raw))
            if sign_key is not None:
                signature = sign(raw, sign_key)
                _add(archive, SIGNATURE, io.BytesIO(signature), len(signature))
            for name, fact in sorted(facts.items()):
                with files[name].open("rb") as source:
                    _add(archive, name, source, fact.size)
        file.flush()
        os.fsync(file.fileno())


def _add(archive: tarfile.TarFile, name: str, source: io.BufferedIOBase, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, source)


def _fact(path: Path) -> FileFact:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    return FileFact(digest, status.st_size, executable=path.parent.name == "bin" and path.suffix != ".py")


def _needs(files: Mapping[str, Path]) -> int:
    """Bytes of disk at the worst moment: the bundle itself, unpacked, and the environment made of its wheels."""
    packed = sum(path.stat().st_size for path in files.values())
    unpacked = 0
    for path in files.values():
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                unpacked += sum(info.file_size for info in wheel.infolist())
    return 2 * packed + unpacked


@contextmanager
def _only_build(output: Path) -> Iterator[None]:
    output.mkdir(parents=True, exist_ok=True)
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in output.glob(".building-*"):
            shutil.rmtree(leftover)
        yield


def _forget_old(output: Path, current: str) -> None:
    others = [path for path in output.glob("*.tar") if path.stem != current]
    for path in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT - 1 :]:
        path.unlink()
        _note(path).unlink(missing_ok=True)
