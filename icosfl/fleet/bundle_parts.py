"""The parts of a bundle that take long, each made once: the lock file's wheels, their bytecode and the interpreter.

A part lies in a directory named after all that it is made of, and gets that name once it is whole. So a change of the
project's own code costs seconds, and what a killed build leaves is never mistaken for a part.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from icosfl.errors import RunFailed
from icosfl.fleet.bundle_archive import BundleRefused
from icosfl.fleet.bundle_bytecode import bytecode_wheel, compile_files, loaded_sources, outside_names
from icosfl.fleet.bundle_install import make_environment
from icosfl.fleet.bundle_interpreter import copy_interpreter
from icosfl.fleet.bundle_plan import RECIPE, Plan, canonical

Say = Callable[[str], None]

_LAST_LINES = 8


def wheels(plan: Plan, parts: Path, say: Say) -> Path:
    """Return a directory with one wheel for each requirement, by the lock file's hashes; sdists are built.

    Raises:
        RunFailed: pip cannot get or build one of them.
    """

    def make(into: Path) -> None:
        say(f"fetching {len(plan.requirements)} wheels (torch is large)")
        wanted = into / "wanted.txt"
        wanted.write_text("".join(each.text for each in plan.requirements), encoding="utf-8")
        _pip(["wheel", "--no-deps", "--require-hashes", "-r", str(wanted), "-w", str(into)], say)
        wanted.unlink()

    return _part("wheels", "".join(each.text for each in plan.requirements) + str(plan.target), parts, make)


def interpreter(plan: Plan, parts: Path, say: Say) -> Path:
    """Return a directory with the interpreter that runs this process, ready to be moved.

    Raises:
        UserError: This Python cannot be moved.
    """

    def make(into: Path) -> None:
        say(f"copying Python {plan.target.python}")
        copy_interpreter(Path(sys.executable), into / "python")

    return _part("python", f"{plan.target}{sys.base_prefix}{sys.version}", parts, make)


def bytecode(  # noqa: PLR0913, PLR0917 (what it is made of)
    plan: Plan, project: Path, wheelhouse: Sequence[Path], python: Path, parts: Path, say: Say
) -> Path:
    """Return a directory with the wheel of bytecode of all that nodes load, but for the project's own.

    What they load is found by making the environment as hosts do. It is thereby proved to work before any host has it.

    Raises:
        RunFailed: The environment cannot be made or loaded, or not compiled.
    """

    def make(into: Path) -> None:
        say("loading and compiling what nodes load")
        release = into / "release"
        shutil.copytree(python / "python", release / "python", copy_function=os.link)
        (release / "wheelhouse").mkdir()
        for wheel in wheelhouse:
            shutil.copyfile(wheel, release / "wheelhouse" / wheel.name)
        (release / "requirements.txt").write_text(requirements_text(wheelhouse), encoding="utf-8")
        try:
            make_environment(release, compiles=True)
        except BundleRefused as error:
            raise RunFailed(f"the release does not work: {error.cause}", cure=error.cure) from error
        packages = release / "venv" / "lib" / f"python{plan.target.minor}" / "site-packages"
        compiled = compile_files(loaded_sources(packages, but="icosfl"), packages)
        bytecode_wheel(into, "icosfl_dependencies_bytecode", plan.target.python, compiled)
        shutil.rmtree(release)

    names = outside_names(project, plan.sources)
    made_of = [each.text for each in plan.requirements], str(plan.target), sys.version, names, _warm(project)
    return _part("bytecode", json.dumps(made_of), parts, make)


def own_wheels(project: Path, version: str, into: Path) -> list[Path]:
    """Build the project's own wheel and that of its bytecode; the same sources give the same bytes.

    Raises:
        RunFailed: hatchling refuses.
    """
    wheel = _own_wheel(project, into)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(into / "own")
    compiled = compile_files((into / "own" / "icosfl").rglob("*.py"), into / "own")
    return [wheel, bytecode_wheel(into, "icosfl_bytecode", version, compiled)]


def _own_wheel(project: Path, into: Path) -> Path:
    """Build the project's own wheel; the same sources give the same bytes.

    Raises:
        RunFailed: hatchling refuses.
    """
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(into)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RunFailed(
            f"the project's own wheel cannot be built: {_last(done.stdout + done.stderr)}",
            cure="make setup, then look at pyproject.toml",
        )
    return next(into.glob("*.whl"))


def requirements_text(wheelhouse: Sequence[Path]) -> str:
    """Return what the installer installs: exactly these wheels, by hash."""
    lines = []
    for wheel in sorted(wheelhouse):
        name, version = wheel.name.split("-")[:2]
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        lines.append(f"{canonical(name)}=={version} --hash=sha256:{digest}\n")
    return "".join(lines)


def _warm(project: Path) -> str:
    return (project / "icosfl" / "warm.py").read_text(encoding="utf-8")


def forget(parts: Path, kept: Sequence[Path]) -> None:
    """Delete parts that no bundle will be made of again, and what killed builds left."""
    for path in parts.iterdir():
        if path not in kept:
            shutil.rmtree(path)


def _part(kind: str, made_of: str, parts: Path, make: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(f"{RECIPE}{made_of}".encode()).hexdigest()
    part = parts / f"{kind}-{digest[:12]}"
    if _whole(part):
        return part
    shutil.rmtree(part, ignore_errors=True)
    parts.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".making-", dir=parts))
    try:
        make(making)
        (making / "sizes.json").write_text(json.dumps(_sizes(making)), encoding="utf-8")
        making.rename(part)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return part


def _whole(part: Path) -> bool:
    try:
        expected = json.loads((part / "sizes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(expected == _sizes(part))


def _sizes(part: Path) -> dict[str, int]:
    files = (path for path in part.rglob("*") if path.is_file() and path.name != "sizes.json")
    return {str(path.relative_to(part)): path.stat().st_size for path in files}


def _pip(arguments: list[str], say: Say) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off"]
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as running:
        for line in running.stdout or ():
            lines.append(line)
            if line.startswith(("Collecting", "Building wheel")):
                say(line.strip().split(" (from")[0].lower())
    if running.returncode:
        errors = [line for line in lines if line.startswith("ERROR")]
        raise RunFailed(
            f"pip cannot get the wheels: {_last(''.join(errors or lines))}",
            cure="look at what it says; PIP_FIND_LINKS names a directory or page with wheels that no index has, "
            "such as torch's CPU build",
        )


def _last(text: str) -> str:
    return "".join(f"\n    {line}" for line in text.strip().splitlines()[-_LAST_LINES:])
