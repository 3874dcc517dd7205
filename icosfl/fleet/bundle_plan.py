"""What goes into a bundle and what it is called, without building anything: the same project always has the same id.

The id's digest is over the lock file's part that nodes run, the project's sources and the target; it takes a few
milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from icosfl.errors import UserError

RECIPE = 2  # a bundle made in another way from the same parts has another id
OPERATOR = "operator"  # the extra that only the control node has
_BLOCK = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(?P<version>\S+)[^\n]*\n(?P<rest>(?:[ ]{4}[^\n]*\n?)*)", re.M
)
_VIA = re.compile(r"^ {4}# {1,3}(?:via)? *(?P<who>[^\s(]+)", re.M)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """The hosts that a bundle is for.

    Args:
        python: The interpreter's full version, which the bundle brings.
        tag: What wheels call it.
        machine: The architecture.
        glibc: The C library that hosts need at least: the control node's.
    """

    python: str
    tag: str
    machine: str
    glibc: str

    @property
    def minor(self) -> str:
        """As in `3.11`."""
        return self.python.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Locked:
    """One requirement of the lock file: its name, its version, the digests it may have, its whole text."""

    name: str
    version: str
    hashes: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A bundle to be."""

    id: str
    version: str
    target: Target
    requirements: tuple[Locked, ...]
    sources: tuple[str, ...]


def own_target() -> Target:
    """The target of bundles that are built here: an interpreter and wheels cannot be made for other machines.

    Raises:
        UserError: This control node is no Linux with glibc.
    """
    library, version = platform.libc_ver()
    if sys.platform != "linux" or library != "glibc":
        raise UserError(
            f"bundles cannot be built on {sys.platform} with {library or 'another C library'}",
            cure="build them on Linux with glibc, such as Debian",
        )
    python = platform.python_version()
    return Target(python, f"cp{sys.version_info.major}{sys.version_info.minor}", platform.machine(), version)


def check_target(target: Target, python: str | None, machine: str | None) -> None:
    """Refuse a target that is asked for and cannot be built for here.

    Raises:
        UserError: Another minor version or architecture.
    """
    for asked, own, what in ((python, target.minor, "Python"), (machine, target.machine, "machine")):
        if asked and asked != own:
            raise UserError(
                f"a bundle for {what} {asked} cannot be built here: this control node is {what} {own}",
                cure=f"build it on a control node with {what} {asked}, and bring it with --output",
            )


def make_plan(project: Path, target: Target, extras: Collection[str] = ()) -> Plan:
    """Read what the project is made of now.

    Args:
        project: Its directory.
        target: The hosts.
        extras: Which of the project's optional dependencies nodes get too.

    Raises:
        UserError: The project has no readable pyproject.toml or lock file, the lock lacks a dependency, or there is no
            such extra for nodes.
    """
    about, lock = _about(project)
    wanted = [*about["dependencies"], *_optional(about.get("optional-dependencies", {}), extras)]
    requirements = node_requirements(lock, [_NAME.match(each)[0] for each in wanted])  # type: ignore[index]
    sources = _sources(project)
    digest = plan_digest("".join(each.text for each in requirements), _digests(project, sources), target)
    release = f"{about['version']}-{digest[:12]}-{target.tag}-linux_{target.machine}"
    return Plan(release, about["version"], target, requirements, sources)


def is_made_of(release: str, project: Path, target: Target) -> bool:
    """Whether a release is what the project is now, with whatever extras.

    Raises:
        UserError: As `make_plan`.
    """
    extras = _extras(_about(project)[0].get("optional-dependencies", {}))
    choices = chain.from_iterable(combinations(extras, count) for count in range(len(extras) + 1))
    return any(make_plan(project, target, choice).id == release for choice in choices)


def _about(project: Path) -> tuple[dict[str, Any], str]:
    """What pyproject.toml says of the project, and the lock file."""
    try:
        about = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return about, (project / "requirements.lock").read_text(encoding="utf-8")
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{project} cannot be bundled: {error}", cure="run it in the project's directory") from error


def _extras(known: Collection[str]) -> list[str]:
    return sorted(set(known) - {OPERATOR})


def _optional(known: Mapping[str, list[str]], extras: Collection[str]) -> list[str]:
    choice = _extras(known)
    if unknown := sorted(set(extras) - set(choice)):
        raise UserError(
            f"icosfl_release_extras: nodes can have no {', '.join(unknown)}", cure=f"choose from {', '.join(choice)}"
        )
    return [requirement for extra in sorted(set(extras)) for requirement in known[extra]]


def plan_digest(lock: str, sources: Mapping[str, str], target: Target) -> str:
    """Return the digest over all that a bundle is made of."""
    value = {"recipe": RECIPE, "lock": lock, "sources": dict(sources), "target": asdict(target)}
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def node_requirements(lock: str, direct: Collection[str]) -> tuple[Locked, ...]:
    """Return what a node runs: what the project names, and what that needs, by the lock file's own notes (`# via`).

    Args:
        lock: The lock file.
        direct: The names of the project's own dependencies.

    Raises:
        UserError: The lock lacks one of them.
    """
    blocks = {canonical(match["name"]): match for match in _BLOCK.finditer(lock)}
    chosen = {canonical(name) for name in direct} | {"uv"}  # uv installs the rest
    if missing := sorted(chosen - set(blocks)):
        raise UserError(f"requirements.lock lacks {', '.join(missing)}", cure="make lock")
    asks = {name: {canonical(who) for who in _VIA.findall(match["rest"])} for name, match in blocks.items()}
    while more := {name for name, who in asks.items() if name not in chosen and who & chosen}:
        chosen |= more
    return tuple(
        Locked(name, blocks[name]["version"], frozenset(_HASH.findall(blocks[name][0])), _requirement(blocks[name][0]))
        for name in sorted(chosen)
    )


def canonical(name: str) -> str:
    """Return a distribution's name as lock files and indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirement(block: str) -> str:
    # who else asks for it does not matter: another tool of the operator must not make another release
    lines = [line.rstrip(" \\") for line in block.splitlines() if not line.lstrip().startswith("#")]
    return " \\\n".join(lines) + "\n"


def _sources(project: Path) -> tuple[str, ...]:
    paths = [path for path in (project / "icosfl").rglob("*") if path.suffix == ".py" or path.name == "py.typed"]
    return ("pyproject.toml", *sorted(str(path.relative_to(project)) for path in paths))


def _digests(project: Path, sources: Collection[str]) -> dict[str, str]:
    return {name: hashlib.sha256((project / name).read_bytes()).hexdigest() for name in sources}
