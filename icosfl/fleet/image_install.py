"""Installs a release inside an image that is being built: `python3 -I /build/install`, as images/Dockerfile says.

It is the install of hosts (`bundle_install`). Then all is taken away that would differ between two builds, or that no
service needs: uv and its notes, torch's tests and headers, times, and bytecode that is checked against times.
Runs with the bundle's own interpreter, and with the standard library only.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from .bundle_install import install, switch  # relative: see bundle_archive

TIME = 315532800  # of every file: the first day that a wheel can hold
SHARES = 4  # bytecode depends on what its process compiled before: never on how many processors there are
# Below site-packages: programs that test torch, the compiler of protocols, and headers.
NOT_RUN = ("torch/test", "torch/include", "torch/bin/test_*", "torch/bin/*Test", "torch/bin/protoc*")
_NOTE = "uv_cache.json"  # uv's, with the time of the wheel
_CHECKED_BY_TIME = 0
_FLAGS = slice(4, 8)
_COMPILE = """
import py_compile, sys
for line in sys.stdin:
    source, target = line.rstrip("\\n").split("\\t")
    py_compile.compile(source, target, doraise=True, quiet=1, optimize=0,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
"""


def build(bundle: Path, install_dir: Path, out: Path) -> None:
    """Install a bundle and lay the release below `out`, ready to be copied to `/`.

    Args:
        bundle: The release bundle.
        install_dir: Where the release lies in the image: environments hold their own path.
        out: What the image gets.

    Raises:
        BundleRefused: The bundle is damaged, or what it holds does not run in this base.
    """
    os.umask(0o022)
    install_dir.mkdir(parents=True)
    release = install(bundle, install_dir).id
    switch(install_dir, release)
    place = install_dir / "releases" / release
    packages = next(iter(sorted((place / "venv").glob("lib/python3*/site-packages"))))
    drop(packages, "uv")
    forget_wheels(packages)
    for pattern in NOT_RUN:
        for path in sorted(packages.glob(pattern)):
            _remove(path)
    compile_again(place)
    laid = out / install_dir.relative_to("/")
    laid.parent.mkdir(parents=True)
    shutil.move(install_dir, laid)
    settle(out)


def drop(packages: Path, name: str) -> None:
    """Remove a distribution, by its own list of files."""
    for info in sorted(packages.glob(f"{name}-*.dist-info")):
        for path in _recorded(info):
            (packages / path).unlink(missing_ok=True)
        _remove(info)
    _remove(packages / name)


def forget_wheels(packages: Path) -> None:
    """Remove what uv notes of the wheels that it installed: their times, which nobody asks for."""
    for note in sorted(packages.glob(f"*.dist-info/{_NOTE}")):
        note.unlink()
        record = note.with_name("RECORD")
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if f"/{_NOTE}," not in line), encoding="utf-8")


def compile_again(release: Path) -> None:
    """Replace bytecode that is checked against the times of sources, which `settle` changes, by such that is not."""
    stale = [path for path in sorted(release.rglob("*.pyc")) if checked_by_time(path)]
    pairs = [(source, path) for path in stale if (source := source_of(path)) is not None]
    shares = [pairs[share::SHARES] for share in range(SHARES)]
    python = next(iter(sorted((release / "venv" / "bin").glob("python"))))
    running = []
    for share in shares:
        for _, path in share:
            path.unlink()
        process = subprocess.Popen(  # noqa: S603
            [str(python), "-I", "-S", "-c", _COMPILE], stdin=subprocess.PIPE, text=True, env={"PYTHONHASHSEED": "0"}
        )
        running.append((process, "".join(f"{source}\t{path}\n" for source, path in share)))
    for process, text in running:
        process.communicate(text)
        if process.returncode:
            raise SystemExit(f"bytecode cannot be written: python ended with {process.returncode}")


def checked_by_time(path: Path) -> bool:
    """Tell whether bytecode counts only while its source has the time that is noted in it."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(16)[_FLAGS], "little") == _CHECKED_BY_TIME


def source_of(path: Path) -> Path | None:
    """Return the source of bytecode; None where there is none any more."""
    try:
        source = Path(importlib.util.source_from_cache(str(path)))
    except ValueError:
        return None
    return source if source.is_file() else None


def settle(root: Path) -> None:
    """Give every file and directory below, and `root` itself, the same time."""
    for path in _all(root):
        os.utime(path, (TIME, TIME), follow_symlinks=False)


def _recorded(info: Path) -> list[str]:
    with (info / "RECORD").open(encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file) if row]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _all(root: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(root, topdown=False):
        yield from (Path(directory) / name for name in sorted([*folders, *files]))
    yield root


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the Dockerfile asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, default=Path("/build/bundle.tar"))
    parser.add_argument("--install-dir", type=Path, default=Path(os.environ.get("INSTALL_DIR", "/opt/icosfl")))
    parser.add_argument("--out", type=Path, default=Path("/out"))
    options = parser.parse_args(arguments)
    try:
        build(options.bundle, options.install_dir, options.out)
    except Exception as error:
        sys.exit(f"icosfl: {error}")
