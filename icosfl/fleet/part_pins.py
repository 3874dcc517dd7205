"""What the fleet's parts are pinned to: `icosfl_parts`, with the operator's own files over them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from icosfl.errors import ConfigError

Source = Literal["debian", "wheel", "file"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Part:
    """A program and where it comes from.

    Args:
        name: Of the part, and of the program on hosts.
        version: The version.
        machine: The architecture, as the kernel calls it.
        source: Where the file comes from.
        location: The file: below a Debian mirror, a wheel's name, or a path.
        sha256: The file's digest.
        program: The program's path inside the file.
    """

    name: str
    version: str
    machine: str
    source: Source
    location: str
    sha256: str
    program: str

    def __str__(self) -> str:
        return f"{self.name} {self.version} for {self.machine}"


def part_of(pins: Mapping[str, Any], name: str, machine: str) -> Part:
    """Read one of the pins.

    Args:
        pins: `icosfl_parts` with `icosfl_part_files` over them: by name version, program, sha256 (one, or one for each
            machine), and where the file is: `file`, `debian` or `wheel`, with {version} and {machine} in them.
        name: The part.
        machine: The architecture, as the kernel calls it.

    Raises:
        ConfigError: There is no such part, or its version, digest or place is not known for this architecture.
    """
    pin = pins.get(name)
    if not isinstance(pin, Mapping) or not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no part", cure=f"use one of {', '.join(sorted(pins))}")
    given = f"icosfl_part_files: {{{name}: {{version: …, file: PATH, sha256: …}}}}"
    version = str(pin.get("version") or "")
    if not _VERSION.fullmatch(version):
        raise ConfigError(f"{name}: version {version!r} is none", cure=f"name a version and its file: {given}")
    source = _source(pin)
    if source is None:
        raise ConfigError(f"{name} {version} cannot be fetched, its file must be given", cure=f"name it: {given}")
    digests = pin.get("sha256")
    digest = str((digests.get(machine) if isinstance(digests, Mapping) else digests) or "").lower()
    if not _SHA256.fullmatch(digest):
        wrong = f"sha256 {digest!r} is none" if digest else f"no sha256 is known for {machine}"
        raise ConfigError(f"{name} {version}: {wrong}", cure=f"name the file for {machine} and its digest: {given}")
    location = str(pin[source])
    if source != "file":
        machine_there = _DEBIAN.get(machine, machine) if source == "debian" else machine
        location = location.format(version=version, machine=machine_there)
    return Part(name, version, machine, source, location, digest, str(pin.get("program") or name))


def _source(pin: Mapping[str, Any]) -> Source | None:
    """Where a part comes from; a file that somebody gives goes before what is fetched."""
    sources: tuple[Source, ...] = ("file", "debian", "wheel")
    return next((source for source in sources if pin.get(source)), None)
