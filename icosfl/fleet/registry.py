"""Which SuperNodes may take part: the keys that hosts have, against those that the SuperLink knows.

Flower lists keys, not names. So the controller keeps a file of its own beside the SuperLink's state: name -> key.
Names are the inventory's; the second SuperNode of a host is `host/2`.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet.flower import Flower, KeyRevoked, Node

DRAIN_POLL_SECONDS = 1.0

_READABLE = 0o644  # the keys are the public ones


@dataclass(frozen=True, slots=True)
class Plan:
    """What must be done.

    Args:
        register: Keys that the SuperLink does not know yet, by name.
        unregister: Nodes that may no longer take part, by name.
        names: The names and keys that hold afterwards.
    """

    register: Mapping[str, str]
    unregister: Mapping[str, int]
    names: Mapping[str, str]

    @property
    def empty(self) -> bool:
        """Whether the SuperLink knows all that it should already."""
        return not self.register and not self.unregister


def node_names(host: str, count: int) -> tuple[str, ...]:
    """The names of a host's SuperNodes: `host`, then `host/2`, `host/3`."""
    return tuple(host if index == 0 else f"{host}/{index + 1}" for index in range(count))


def plan(known: Mapping[str, str], hosts: Mapping[str, Iterable[str]], nodes: Iterable[Node]) -> Plan:
    """What must be done so that exactly these keys of these hosts may take part; other hosts stay as they are.

    Args:
        known: Names and keys as the file has them.
        hosts: The keys that each host has now, in the order of its SuperNodes; none for a host that leaves.
        nodes: What the SuperLink knows.

    Raises:
        ConfigError: two SuperNodes have the same key.
    """
    wanted: dict[str, str] = {}
    for host, keys in hosts.items():
        listed = list(keys)
        wanted |= dict(zip(node_names(host, len(listed)), listed, strict=True))
    others = {name: key for name, key in known.items() if name.split("/")[0] not in hosts}
    names = others | wanted
    owners: dict[str, str] = {}
    for name, key in names.items():
        if key in owners:
            raise ConfigError(
                f"{owners[key]} and {name} have the same key",
                cure=f"delete the supernode keys below pki/ on {name.split('/')[0]}; site.yml makes new ones",
            )
        owners[key] = name
    ids = {node.public_key: node.node_id for node in nodes}
    gone = {name: key for name, key in known.items() if names.get(name) != key and key not in owners}
    return Plan(
        register={name: key for name, key in wanted.items() if key not in ids},
        unregister={name: ids[key] for name, key in gone.items() if key in ids},
        names=names,
    )


def carry_out(flower: Flower, file: Path, hosts: Mapping[str, Iterable[str]], *, dry: bool = False) -> Plan:
    """Let exactly these keys of these hosts take part, and note who they are.

    Args:
        flower: The SuperLink.
        file: The file of names and keys.
        hosts: The keys of each host; none for a host that leaves.
        dry: Only say what would be done.

    Raises:
        ConfigError: two SuperNodes have the same key, or the file cannot be read or written.
        UserError: the SuperLink refuses a key, for example one that was unregistered once.
        Unavailable: the SuperLink does not answer.
    """
    known = read_names(file)
    todo = plan(known, hosts, flower.nodes())
    if dry:
        return todo
    # The file is written last: whoever is cut off here finds on the next try every node that it must unregister.
    for name, key in todo.register.items():
        _register(flower, name, key)
    for node_id in todo.unregister.values():
        flower.unregister(node_id)
    if dict(todo.names) != known or _is_private(file):
        _write_names(file, todo.names)
    return todo


def _register(flower: Flower, name: str, key: str) -> None:
    try:
        flower.register(key)
    except KeyRevoked as error:
        host = name.split("/", maxsplit=1)[0]
        raise ConfigError(
            f"{name} was removed from the federation, and Flower never takes a removed key again",
            cure=f"delete the supernode keys below pki/ on {host}, then run site.yml: it makes new ones",
        ) from error


def drain(flower: Flower, seconds: float) -> str:
    """Wait until no run is under way, or until the time is over; returns what was found.

    Raises:
        Unavailable: the SuperLink does not answer.
    """
    end = time.monotonic() + seconds
    while runs := flower.open_runs():
        if time.monotonic() >= end:
            return f"run {', '.join(runs)} is still under way after {seconds:g} s: it goes on without who leaves"
        time.sleep(DRAIN_POLL_SECONDS)
    return "no run is under way"


def read_names(file: Path) -> dict[str, str]:
    """The names and keys of a file; none when there is no file.

    Raises:
        ConfigError: it cannot be read.
    """
    cure = "delete it; site.yml without --limit writes it"
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}", cure="delete it; site.yml without --limit writes it"
        ) from error
    if not isinstance(names, dict) or not all(isinstance(key, str) for key in names.values()):
        raise ConfigError(f"{file} does not hold names and keys", cure=cure)
    return names


def _is_private(file: Path) -> bool:
    """Whether only its owner may read the file: who submits a run is another user, and wants to name who is missing."""
    try:
        return file.stat().st_mode & _READABLE != _READABLE
    except FileNotFoundError:
        return False


def _write_names(file: Path, names: Mapping[str, str]) -> None:
    try:
        number, scratch = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            json.dump(dict(sorted(names.items())), stream, indent=1)
            os.fchmod(number, _READABLE)
        Path(scratch).replace(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}", cure="free disk on the controller") from error
