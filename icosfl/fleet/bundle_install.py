"""Installs releases from bundles on a host, switches between them, and takes old ones away.

    <install_dir>/releases/<id>/    python/ venv/ app/, and release.json once all of it works
    <install_dir>/current           -> releases/<id>, switched in one step

The same bundle at the same place leaves the same bytes and times everywhere, but for the time of `release.json` and of
the directory that holds it: they say when it was installed.

A directory without `release.json` does not count, and the next install throws it away: whatever kills an install is
cured by another one. Runs on bare hosts: the standard library only, Python 3.9. `plugins/module_utils` links to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .bundle_archive import TIME, BundleRefused, Manifest, read_bundle  # relative: see bundle_archive

STAMP = "release.json"
CURRENT = "current"
WARM = "icosfl.warm"
_LAST_LINES = 12
_PYTHON = "venv/bin/python"
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONWARNINGS": "ignore",
    "UV_PYTHON_DOWNLOADS": "never",
    "UV_NO_PROGRESS": "1",
}


@contextmanager
def locked(install_dir: Path) -> Iterator[None]:
    """Keep other installs on this machine waiting: logical hosts share its releases."""
    install_dir.mkdir(parents=True, exist_ok=True)
    with (install_dir / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def installed(install_dir: Path) -> tuple[str, ...]:
    """Return the ids of the releases that are whole, the newest first."""
    stamps = [path for path in (install_dir / "releases").glob(f"*/{STAMP}") if _works(path.parent)]
    return tuple(path.parent.name for path in sorted(stamps, key=_time, reverse=True))


def current(install_dir: Path) -> str:
    """Return the id of the release that services start from; empty when there is none."""
    try:
        return (install_dir / CURRENT).readlink().name
    except OSError:
        return ""


def check_host(target: Mapping[str, str], needs_bytes: int, install_dir: Path) -> None:
    """Refuse a release that this host cannot run or has no room for, before anything is sent to it.

    Raises:
        BundleRefused: The machine's architecture, its C library or its disk.
    """
    machine = platform.machine()
    if machine != target["machine"]:
        raise BundleRefused(
            f"this host is {machine}, the bundle is for {target['machine']}",
            f"build a bundle on a {machine} control node and install from there",
        )
    glibc = _glibc()
    if _numbers(glibc) < _numbers(target["glibc"]):
        raise BundleRefused(
            f"this host's C library is {glibc or 'not glibc'}, the bundle needs glibc {target['glibc']} or newer",
            "use a host with Debian 12 or newer, or build the bundle on an older control node",
        )
    there = install_dir
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needs_bytes:
        raise BundleRefused(
            f"{there} has {free >> 20} MB of free disk, the release needs {needs_bytes >> 20} MB",
            "free some, or lay icosfl_install_dir on another file system",
        )


def install(bundle: Path, install_dir: Path, *, public_key: str = "", sha256: str = "") -> Manifest:
    """Unpack a bundle, check each file, and make the release's environment. Nothing else on the host changes.

    Call it under `locked`. The release counts once its stamp is written, as the last step.

    Raises:
        BundleRefused: The bundle is not what it should be, or what it holds does not run here.
    """
    releases = install_dir / "releases"
    releases.mkdir(exist_ok=True)
    for leftover in _leftovers(releases):
        shutil.rmtree(leftover)
    making = releases / ".making"
    making.mkdir()
    try:
        manifest = read_bundle(bundle, making, public_key=public_key, sha256=sha256)
        release = releases / manifest.id
        making.rename(release)  # environments hold their own path, so this one is made at its place
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    try:
        make_environment(release)
        _set_times(release)
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        raise
    os.sync()  # a power cut must not leave a stamp before what it vouches for
    _write(release / STAMP, json.dumps({"id": manifest.id, "version": manifest.version, "manifest": manifest.sha256}))
    return manifest


def switch(install_dir: Path, release: str) -> None:
    """Let `current` name a release, in one step."""
    new = install_dir / ".current"
    new.unlink(missing_ok=True)
    new.symlink_to(Path("releases") / release)
    new.replace(install_dir / CURRENT)
    _sync_directory(install_dir)


def superfluous(install_dir: Path, keep: int) -> tuple[str, ...]:
    """Return the releases beyond the newest `keep`; never the current one."""
    there = installed(install_dir)
    kept = {*there[:keep], current(install_dir)}
    return tuple(release for release in there if release not in kept)


def delete(install_dir: Path, release: str) -> None:
    """Remove an installed release; without its stamp first, so that half a release never counts."""
    place = install_dir / "releases" / release
    (place / STAMP).unlink(missing_ok=True)
    shutil.rmtree(place)


def users(install_dir: Path) -> tuple[str, ...]:
    """Return the logical hosts of this machine that lie under the install directory and use its releases."""
    return tuple(sorted(path.name for path in (install_dir / "nodes").glob("*")))


def uninstall(install_dir: Path) -> None:
    """Remove all releases and parts, and the directory when nothing else lies in it."""
    (install_dir / CURRENT).unlink(missing_ok=True)
    for release in installed(install_dir):
        delete(install_dir, release)
    for programs in ("releases", "parts"):
        shutil.rmtree(install_dir / programs, ignore_errors=True)
    (install_dir / ".lock").unlink(missing_ok=True)
    for directory in (install_dir / "nodes", install_dir):
        try:
            directory.rmdir()
        except OSError:
            continue  # somebody keeps files there


def make_environment(release: Path, *, compiles: bool = False) -> None:
    """Make a release's environment of its interpreter and its wheels, and prove that all that nodes load can be loaded.

    Args:
        release: Where `python/`, `wheelhouse/` and `requirements.txt` lie; the wheels are used up.
        compiles: Whether loading leaves bytecode: for who builds bundles. On hosts it comes with the wheels.

    Raises:
        BundleRefused: What it holds does not run here.
    """
    wheelhouse, cache, temporary = release / "wheelhouse", release / ".cache", release / ".tmp"
    temporary.mkdir()
    uv = _unpack_uv(wheelhouse, temporary)
    environment = {**_ENVIRONMENT, "HOME": str(temporary), "TMPDIR": str(temporary), "UV_CACHE_DIR": str(cache)}
    offline = ["--offline", "--no-config", "--quiet"]
    python = next((release / "python" / "bin").glob("python3.*"))
    _run([str(uv), "venv", "--python", str(python), *offline, str(release / "venv")], environment)
    _run(
        [
            *(str(uv), "pip", "install", "--python", str(release / _PYTHON), *offline),
            *("--no-index", "--find-links", str(wheelhouse), "--no-deps", "--require-hashes"),
            *("--requirements", str(release / "requirements.txt"), "--link-mode", "hardlink"),
        ],
        environment,
    )
    _forget_wheels(release)
    shutil.rmtree(wheelhouse)
    shutil.rmtree(cache, ignore_errors=True)
    _run([str(release / _PYTHON), *([] if compiles else ["-B"]), "-m", WARM], environment)
    shutil.rmtree(temporary)


def _unpack_uv(wheelhouse: Path, into: Path) -> Path:
    wheel = next(wheelhouse.glob("uv-*.whl"), None)
    names = zipfile.ZipFile(wheel).namelist() if wheel else []
    name = next((name for name in names if name.endswith(".data/scripts/uv")), None)
    if wheel is None or name is None:
        raise BundleRefused("the bundle holds no uv", "build it again with icosfl bundle")
    with zipfile.ZipFile(wheel) as archive, archive.open(name) as source, (into / "uv").open("xb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
    (into / "uv").chmod(0o755)
    return into / "uv"


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        return
    lines = (done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:]
    if any("cannot open shared object file" in line for line in lines):
        cure = "install the library that is named; Debian's package python3 brings all that Python itself needs"
    else:
        cure = "look at what it says; the release before it still runs"
    said = "".join(f"\n    {line}" for line in lines) or " nothing"
    raise BundleRefused(f"{' '.join(command[:3])} ended with {done.returncode} and says:{said}\n", cure)


def _forget_wheels(release: Path) -> None:
    """Take away uv's notes of when it saw which wheel: they differ on each machine, and the wheels leave."""
    for note in release.glob("venv/lib/python*/site-packages/*.dist-info/uv_cache.json"):
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if f"/{note.name}," not in line)
        record.unlink()  # it may be a link to the cache's
        record.write_text(kept, encoding="utf-8")
        note.unlink()


def _set_times(release: Path) -> None:
    """Give all files one time: a release at the same place has the same bytes and times on each machine."""
    for directory, directories, files in os.walk(release, topdown=False):
        for name in (*files, *directories):
            os.utime(os.path.join(directory, name), (TIME, TIME), follow_symlinks=False)  # noqa: PTH118 (30000 files)


def _works(release: Path) -> bool:
    return os.access(release / _PYTHON, os.X_OK)


def _leftovers(releases: Path) -> list[Path]:
    return [path for path in releases.iterdir() if not (path / STAMP).exists() or not _works(path)]


def _time(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.parent.name


def _write(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}")
    with new.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _glibc() -> str:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (OSError, ValueError):
        return ""
    return version if name == "glibc" else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
