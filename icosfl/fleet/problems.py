"""What is wrong with an inventory: plain functions on plain values, every problem with its host, key and cure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from icosfl.errors import ConfigError
from icosfl.fleet.neighbours import Bases, HostSpec, bad_neighbours, port_clashes
from icosfl.fleet.part_pins import part_of
from icosfl.fleet.topology import CONTROLLER, NODES, WORKERS, Problem, bad_bases

__all__ = [
    "CHOICES",
    "HostSpec",
    "find_problems",
    "unfit_otlp_listen",
    "unfit_parts",
    "unfit_source",
    "unknown_choices",
    "unknown_variables",
    "unset_variables",
]

HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$"
)

# Variables that have only these values.
CHOICES = {
    "icosfl_host_metrics": ("embedded", "scaphandre", "node_exporter"),
    "icosfl_collector": ("embedded", "otelcol", "rotel"),
}

# What a runtime needs to reach its hosts by. A supervisord is the deploying user's own, on the machine he works on.
REACHES = {"supervisor": ("local",)}


def find_problems(  # noqa: PLR0913, PLR0917 (the facts of the plan, and what this release can do)
    hosts: Iterable[HostSpec],
    bases: Mapping[str, int],
    stride: int,
    runtimes: Iterable[str],
    connections: Iterable[str],
    supernode_stride: int = 0,
) -> list[Problem]:
    """Return all that is wrong with a fleet's plan, so that a user can cure it in one go; empty when it is sound.

    Args:
        hosts: Every host of the inventory.
        bases: The ports of slot 0, by service.
        stride: What a slot adds to them.
        runtimes: The ways to run services that this release has.
        connections: The ways to reach hosts that this release has.
        supernode_stride: What each SuperNode of a host after the first adds to the first one's ports.
    """
    specs = list(hosts)
    if not specs:
        return [Problem("inventory", "hosts", "it names no hosts", f"put hosts into {CONTROLLER} and {WORKERS}")]
    problems = [*bad_bases(bases, stride), *_bad_groups(specs)]
    if not problems:
        problems += port_clashes(specs, Bases(bases, stride, supernode_stride))
    runs, reaches = tuple(runtimes), tuple(connections)
    elsewhere = _first_elsewhere(specs)
    for spec in specs:
        problems += _bad_address(spec, elsewhere)
        problems += _unsupported(spec.name, "icosfl_runtime", spec.runtime, runs)
        problems += _unsupported(spec.name, "ansible_connection", spec.connection, reaches) or _out_of_reach(spec)
    return problems + list(bad_neighbours(specs))


def unset_variables(host: str, missing: Iterable[str]) -> list[Problem]:
    """Return one problem for each variable that a host must have and lacks."""
    cure = "keep playbooks/group_vars, a link to ../group_vars"
    return [Problem(host, name, "it is not set", cure) for name in missing]


def unknown_choices(host: str, values: Mapping[str, str]) -> list[Problem]:
    """Return one problem for each variable of `CHOICES` that has another value."""
    return [problem for name, value in values.items() for problem in _unsupported(host, name, value, CHOICES[name])]


def unfit_source(host: str, runtime: str, source: str) -> list[Problem]:
    """Return what is wrong with where a host's programs come from: an image is made of a release."""
    if runtime != "docker" or source == "bundle":
        return []
    return [Problem(host, "icosfl_python_source", f"is {source}, and containers are made of a release", "use bundle")]


def unfit_otlp_listen(host: str, listen: str) -> list[Problem]:
    """Return what is wrong with where a host's bridge listens for other hosts: a name may turn into loopback."""
    try:
        ipaddress.ip_address(listen or "0.0.0.0")  # noqa: S104 (nothing listens here)
    except ValueError:
        message = f"{listen!r} is no IP address"
        return [
            Problem(host, "icosfl_otlp_listen", message, "give an address of the host, 0.0.0.0 for all, or nothing")
        ]
    return []


def unfit_parts(host: str, pins: Mapping[str, object], names: Iterable[str], machine: str) -> list[Problem]:
    """Return one problem for each third-party program of a host that is not pinned to a file for this architecture."""
    problems = []
    for name in names:
        try:
            part_of(pins, name, machine)
        except ConfigError as error:
            problems.append(Problem(host, "icosfl_part_files", error.message, error.cure))
    return problems


def unknown_variables(host: str, names: Iterable[str], known: frozenset[str], prefixes: Iterable[str]) -> list[Problem]:
    """Return one problem for each variable of ours (told by its prefix) that nothing in the project reads."""
    ours = tuple(prefixes)
    return [
        Problem(host, name, "no role and no group_vars file knows this variable", _did_you_mean(name, known))
        for name in sorted(names)
        if name.startswith(ours) and name not in known
    ]


def _did_you_mean(name: str, known: frozenset[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "remove it, or see group_vars/all and the roles' argument_specs"


def _bad_groups(specs: list[HostSpec]) -> list[Problem]:
    controllers = [spec.name for spec in specs if CONTROLLER in spec.groups]
    workers = [spec.name for spec in specs if WORKERS in spec.groups]
    problems = []
    if len(controllers) != 1:
        found = ", ".join(controllers) or "none"
        problems.append(
            Problem(
                "inventory",
                CONTROLLER,
                f"a fleet has exactly one controller, found {found}",
                f"put one host into the group {CONTROLLER}",
            )
        )
    if not workers:
        problems.append(
            Problem(
                "inventory", WORKERS, "a fleet without workers trains nothing", f"put hosts into the group {WORKERS}"
            )
        )
    both = sorted(set(controllers) & set(workers))
    problems += [
        Problem(
            name,
            "groups",
            "a host is a controller or a worker, not both",
            "take it out of one group, or add a logical host with its own icosfl_slot",
        )
        for name in both
    ]
    return problems + [problem for spec in specs for problem in _bad_membership(spec)]


def _bad_membership(spec: HostSpec) -> list[Problem]:
    if not spec.groups & {CONTROLLER, WORKERS}:
        message = f"it is neither in {CONTROLLER} nor in {WORKERS}, so it would have no part in the fleet"
        return [Problem(spec.name, "groups", message, f"put it into {WORKERS}, or take it out of this inventory")]
    if NODES not in spec.groups:
        message = f"it is not in the group {NODES}, whose plays give it its store, metrics and forecasts"
        return [Problem(spec.name, "groups", message, f"make {CONTROLLER} and {WORKERS} children of {NODES}")]
    return []


def _first_elsewhere(specs: list[HostSpec]) -> dict[str, str]:
    """Return, by address, the first host of another machine; a fleet on one machine has none."""
    first: dict[str, str] = {}
    for spec in specs:
        first.setdefault(spec.address, spec.name)
    names = list(first.values())[:2]
    return {address: names[1] if name == names[0] else names[0] for address, name in first.items() if len(first) > 1}


def _bad_address(spec: HostSpec, elsewhere: Mapping[str, str]) -> list[Problem]:
    try:
        address = ipaddress.ip_address(spec.address)
    except ValueError:
        looks_numeric = re.fullmatch(r"[0-9.]+", spec.address) is not None
        if looks_numeric or not HOST_NAME.match(spec.address):
            return [
                Problem(
                    spec.name,
                    "icosfl_address",
                    f"{spec.address!r} is no IP address and no host name",
                    "correct ansible_host or icosfl_address",
                )
            ]
        loopback = spec.address.rstrip(".").lower() == "localhost"
    else:
        loopback = address.is_loopback or address.is_unspecified
    if CONTROLLER in spec.groups and spec.address in elsewhere and loopback:
        return [
            Problem(
                spec.name,
                "icosfl_address",
                f"{spec.address} is not reachable from {elsewhere[spec.address]}, which is on another machine",
                "give the controller the address that its nodes can reach",
            )
        ]
    return []


def _out_of_reach(spec: HostSpec) -> list[Problem]:
    reaches = REACHES.get(spec.runtime)
    if reaches is None or spec.connection in reaches:
        return []
    message = f"{spec.runtime} runs services on this machine only, and the host is reached by {spec.connection}"
    return [Problem(spec.name, "icosfl_runtime", message, "use systemd, or ansible_connection: local")]


def _unsupported(host: str, key: str, value: str, known: tuple[str, ...]) -> list[Problem]:
    if value in known:
        return []
    return [Problem(host, key, f"this release does not have {value!r}", f"use {' or '.join(known)}")]
