"""What is wrong with an inventory: plain functions on plain values, every problem with its host, key and cure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from icosfl.errors import InventoryError
from icosfl.fleet.topology import CONTROLLER, LAST_PORT, NODES, WORKERS, Problem, bad_bases, host_ports

HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$"
)


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What an inventory says of one logical host.

    Args:
        name: The inventory's name of the host.
        groups: The names of its groups.
        address: Where the fleet reaches it; hosts with one address share a machine.
        slot: Which of the machine's logical hosts it is.
        overrides: Single ports that differ from the plan, by service.
        runtime: How its services are run.
        connection: How Ansible reaches it.
    """

    name: str
    groups: frozenset[str]
    address: str
    slot: int = 0
    overrides: Mapping[str, int] = field(default_factory=dict)
    runtime: str = "supervisor"
    connection: str = "local"


def find_problems(
    hosts: Iterable[HostSpec],
    bases: Mapping[str, int],
    stride: int,
    runtimes: Iterable[str],
    connections: Iterable[str],
) -> list[Problem]:
    """Return all that is wrong with a fleet's plan, so that a user can cure it in one go; empty when it is sound.

    Args:
        hosts: Every host of the inventory.
        bases: The ports of slot 0, by service.
        stride: What a slot adds to them.
        runtimes: The ways to run services that this release has.
        connections: The ways to reach hosts that this release has.
    """
    specs = list(hosts)
    problems = [*bad_bases(bases, stride), *_bad_groups(specs)]
    if not problems:
        problems += _clashes(specs, bases, stride)
    runs, reaches = tuple(runtimes), tuple(connections)
    for spec in specs:
        problems += _bad_address(spec, specs)
        problems += _unsupported(spec, "icosfl_runtime", spec.runtime, runs)
        problems += _unsupported(spec, "ansible_connection", spec.connection, reaches)
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


def _clashes(specs: list[HostSpec], bases: Mapping[str, int], stride: int) -> list[Problem]:
    problems = []
    taken: dict[tuple[str, int], tuple[str, str]] = {}
    slots: dict[str, set[int]] = {}
    for spec in specs:
        slots.setdefault(spec.address, set()).add(spec.slot if isinstance(spec.slot, int) else 0)
    for spec in specs:
        try:
            ports = host_ports(bases, stride, spec.slot, spec.overrides)
        except InventoryError as error:
            problems.append(Problem(spec.name, "icosfl_slot, icosfl_port_overrides", error.message, error.cure))
            continue
        for service, port in ports.items():
            holder = taken.setdefault((spec.address, port), (spec.name, service))
            if holder == (spec.name, service):
                continue
            if service in spec.overrides:
                key, cure = f"icosfl_port_overrides.{service}", "remove the override, or choose a free port"
            else:
                free = next(slot for slot in range(LAST_PORT) if slot not in slots[spec.address])
                key, cure = "icosfl_slot", f"give it a slot of its own, for example icosfl_slot: {free}"
            problems.append(
                Problem(
                    spec.name,
                    key,
                    f"{service} would listen on {spec.address}:{port}, where {holder[1]} of {holder[0]} listens",
                    cure,
                )
            )
            break
    return problems


def _bad_address(spec: HostSpec, specs: list[HostSpec]) -> list[Problem]:
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
        return []
    elsewhere = [other.name for other in specs if other.address != spec.address]
    if CONTROLLER in spec.groups and elsewhere and (address.is_loopback or address.is_unspecified):
        return [
            Problem(
                spec.name,
                "icosfl_address",
                f"{spec.address} is not reachable from {elsewhere[0]}, which is on another machine",
                "give the controller the address that its nodes can reach",
            )
        ]
    return []


def _unsupported(spec: HostSpec, key: str, value: str, known: tuple[str, ...]) -> list[Problem]:
    if value in known:
        return []
    return [Problem(spec.name, key, f"this release does not have {value!r}", f"use {' or '.join(known)}")]
