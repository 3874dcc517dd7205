"""Installs a release inside an image that is being built: `python3 -I /build/install`, as images/Dockerfile says.

It is the install of hosts (`bundle_install`), which leaves the same bytes everywhere. Then what no service needs is
taken away, uv, tests and headers, and what says when it was built gets the time of all other files.
Runs with the bundle's own interpreter, and with the standard library only.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .bundle_archive import TIME  # relative: see there
from .bundle_install import install, switch

# Below site-packages: programs that test torch, the compiler of protocols, headers, and tests with keys of their own.
NOT_RUN = (
    *("torch/test", "torch/include", "torch/bin/test_*", "torch/bin/*Test", "torch/bin/protoc*"),
    *("Crypto/SelfTest", "Cryptodome/SelfTest"),
)


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
    for packages in sorted((install_dir / "releases" / release / "venv").glob("lib/python3*/site-packages")):
        drop(packages, "uv")
        for pattern in NOT_RUN:
            for path in sorted(packages.glob(pattern)):
                _remove(path)
    laid = out / install_dir.relative_to("/")
    laid.parent.mkdir(parents=True)
    shutil.move(install_dir, laid)
    settle(out)


def drop(packages: Path, name: str) -> None:
    """Remove a distribution, by its own list of files.

    Args:
        packages: The directory site-packages.
        name: The distribution.
    """
    for info in sorted(packages.glob(f"{name}-*.dist-info")):
        with (info / "RECORD").open(encoding="utf-8", newline="") as file:
            listed = [row[0] for row in csv.reader(file) if row]
        for path in listed:
            (packages / path).unlink(missing_ok=True)
        _remove(info)
    _remove(packages / name)


def settle(root: Path) -> None:
    """Give every file and directory below, and `root` itself, the same time."""
    for path in _all(root):
        os.utime(path, (TIME, TIME), follow_symlinks=False)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _all(root: Path) -> Iterator[Path]:
    for directory, folders, files in os.walk(root, topdown=False):
        yield from (Path(directory) / name for name in sorted([*folders, *files]))
    yield root


def main() -> None:
    """Do what the Dockerfile asks for, by its argument INSTALL_DIR."""
    try:
        build(Path("/build/bundle.tar"), Path(os.environ["INSTALL_DIR"]), Path("/out"))
    except Exception as error:
        sys.exit(f"icosfl: {error}")
