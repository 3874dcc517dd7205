"""Releases from a small bundle, installed by its own real uv and interpreter into a directory of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from icosfl.fleet.bundle import write_bundle
from icosfl.fleet.bundle_archive import BundleRefused
from icosfl.fleet.bundle_bytecode import bytecode_wheel, compile_files
from icosfl.fleet.bundle_install import (
    current,
    delete,
    install,
    installed,
    locked,
    superfluous,
    switch,
    uninstall,
    users,
)
from icosfl.fleet.bundle_interpreter import copy_interpreter
from icosfl.fleet.bundle_parts import requirements_text
from icosfl.fleet.bundle_plan import Plan, own_target
from support.small_bundle import UV, WORKS, wheel


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter and uv's wheel, which all bundles of this module share."""
    parts = tmp_path_factory.mktemp("parts")
    copy_interpreter(Path(sys.executable), parts / "python", compiled=False)
    wheel(parts, "uv", {}, {"uv": UV})
    return parts


@pytest.fixture
def bundle(parts: Path, tmp_path: Path) -> Callable[..., Path]:
    """Builds a bundle whose project does what it is given when it is loaded."""

    def make(release: str, warm: str = WORKS) -> Path:
        source = tmp_path / f"source-{release}"
        source.mkdir()
        own = wheel(source, "icosfl", {"icosfl/__init__.py": b"", "icosfl/warm.py": warm.encode()})
        (source / "icosfl").mkdir()
        (source / "icosfl" / "__init__.py").touch()
        compiled = compile_files([source / "icosfl" / "__init__.py"], source)
        wheels = [own, bytecode_wheel(source, "icosfl_bytecode", "1", compiled), parts / "uv-1-py3-none-any.whl"]
        (source / "requirements.txt").write_text(requirements_text(wheels), encoding="utf-8")
        files = {
            "requirements.txt": source / "requirements.txt",
            **{f"wheelhouse/{each.name}": each for each in wheels},
            **{str(path.relative_to(parts)): path for path in (parts / "python").rglob("*") if path.is_file()},
        }
        write_bundle(tmp_path / f"{release}.tar", Plan(release, "1", own_target(), (), ()), files, 1, None)
        return tmp_path / f"{release}.tar"

    return make


def put(bundle: Path, root: Path) -> str:
    with locked(root):
        release = install(bundle, root).id
        switch(root, release)
    return release


def test_a_release_runs_with_its_own_interpreter_and_keeps_no_wheels(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "opt"

    put(bundle("1-a"), root)

    python = root / "current" / "venv" / "bin" / "python"
    said = subprocess.run(
        [python, "-c", "import sys, ssl, sqlite3, ctypes, icosfl; print(sys.base_prefix)"],
        env={},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert said == str(root / "releases" / "1-a" / "python")
    assert not (root / "releases" / "1-a" / "wheelhouse").exists()
    assert installed(root) == ("1-a",)


def test_installing_compiles_nothing_and_leaves_the_same_bytes_and_times_wherever_it_is_done(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    root, made = tmp_path / "opt", bundle("1-a", "import json, icosfl\n")
    left = []
    for _ in range(2):
        put(made, root)
        release = root / "releases" / "1-a"
        files = [path for path in release.rglob("*") if path.is_file() and path.name != "release.json"]
        left.append({path: (path.stat().st_mode, path.stat().st_mtime, path.read_bytes()) for path in files})
        uninstall(root)

    assert left[0] == left[1]
    assert {path.name for path in left[0] if path.suffix == ".pyc"} == {"__init__.cpython-311.pyc"}


def test_one_goes_back_to_a_release_that_is_still_there(bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "opt"
    for release in ("1-a", "1-b", "1-c"):
        put(bundle(release), root)

    assert current(root) == "1-c"
    assert superfluous(root, 2) == ("1-a",)
    delete(root, "1-a")
    switch(root, "1-b")

    assert current(root) == "1-b"
    assert installed(root) == ("1-c", "1-b")
    assert superfluous(root, 1) == ()


def test_a_release_that_cannot_be_loaded_never_counts_and_the_one_before_stays(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    root = tmp_path / "opt"
    put(bundle("1-a"), root)

    with pytest.raises(BundleRefused, match=r"libmissing\.so"):
        put(bundle("1-b", "raise ImportError('libmissing.so: cannot open shared object file')\n"), root)

    assert (current(root), installed(root)) == ("1-a", ("1-a",))
    assert [path.name for path in (root / "releases").iterdir()] == ["1-a"]


def test_a_damaged_bundle_changes_nothing(bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "opt"
    put(bundle("1-a"), root)
    damaged = bundle("1-b")
    with damaged.open("r+b") as file:
        file.seek(damaged.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))

    with pytest.raises(BundleRefused, match="damaged"):
        put(damaged, root)

    assert (current(root), installed(root)) == ("1-a", ("1-a",))
    assert [path.name for path in (root / "releases").iterdir()] == ["1-a"]


def test_an_install_that_was_killed_is_cured_by_another_one(bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "opt"
    hangs = bundle("1-a", "import time; time.sleep(600)\n")
    code = (
        "import sys; from pathlib import Path; from icosfl.fleet.bundle_install import *\n"
        "with locked(Path(sys.argv[2])): install(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, hangs, root], start_new_session=True) as running:
        while not (root / "releases" / "1-a" / "venv" / "bin" / "python").exists():
            assert running.poll() is None
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)

    assert installed(root) == ()
    assert (root / "releases" / "1-a").exists()
    put(bundle("1-b"), root)

    assert installed(root) == ("1-b",)
    assert [path.name for path in (root / "releases").iterdir()] == ["1-b"]


def test_releases_leave_with_the_last_logical_host(bundle: Callable[..., Path], tmp_path: Path) -> None:
    root = tmp_path / "opt"
    put(bundle("1-a"), root)
    (root / "nodes" / "worker-2").mkdir(parents=True)
    assert users(root) == ("worker-2",)

    (root / "nodes" / "worker-2").rmdir()
    uninstall(root)

    assert not root.exists()
