"""From an inventory's hosts to every port and address of the fleet: plain functions on plain values.

A port is `base + slot * stride`. The slot stands in a host's own inventory line, so no host's ports depend on which
other hosts there are or in which order; and because no two bases leave the same remainder by the stride, two slots
never meet.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from icosfl.errors import InventoryError

FIRST_PORT, LAST_PORT = 1024, 65535
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?$"
)
CONTROLLER, WORKERS = "controller", "workers"


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
    """

    name: str
    groups: frozenset[str]
    address: str
    slot: int = 0
    overrides: Mapping[str, int] = field(default_factory=dict)
    runtime: str = "supervisor"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in an inventory: where, what, and what to do."""

    host: str
    key: str
    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.host}: {self.key}: {self.message}. Cure: {self.cure}"


def host_ports(
    bases: Mapping[str, int], stride: int, slot: int, overrides: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Return the ports of one host by service: `base + slot * stride`, or the override.

    Raises:
        InventoryError: the slot or stride is no whole number in range, two bases would meet, an override names no
            service, or a port is not between 1024 and 65535.
    """
    problems = [*_bad_bases(bases, stride), *_bad_slot(slot)]
    if problems:
        raise InventoryError(problems[0].message, cure=problems[0].cure)
    ports = {service: base + slot * stride for service, base in bases.items()}
    for service, port in (overrides or {}).items():
        if service not in ports:
            raise InventoryError(
                f"icosfl_port_overrides names {service!r}, which is no service",
                cure=f"use one of {', '.join(sorted(ports))}",
            )
        ports[service] = _whole(port, f"icosfl_port_overrides.{service}")
    for service, port in ports.items():
        if not FIRST_PORT <= port <= LAST_PORT:
            raise InventoryError(
                f"{service} would listen on port {port}, which is not between {FIRST_PORT} and {LAST_PORT}",
                cure="choose a smaller icosfl_slot, or another base in icosfl_ports",
            )
    return ports


def address_of(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def find_problems(
    hosts: Iterable[HostSpec], bases: Mapping[str, int], stride: int, runtimes: Iterable[str]
) -> list[Problem]:
    """Return all that is wrong with a fleet's plan, so that a user can cure it in one go; empty when it is sound."""
    specs = list(hosts)
    problems = [*_bad_bases(bases, stride), *_bad_groups(specs)]
    if not problems:
        problems += _clashes(specs, bases, stride)
    known = tuple(runtimes)
    for spec in specs:
        problems += [*_bad_address(spec, specs), *_bad_runtime(spec, known)]
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


def _whole(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InventoryError(f"{key} is {value!r}, expected a whole number", cure="write it without quotes")
    return value


def _bad_bases(bases: Mapping[str, int], stride: int) -> list[Problem]:
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        return [Problem("all", "icosfl_port_stride", f"{stride!r} is no whole number above 0", "use 100")]
    seen: dict[int, str] = {}
    problems = []
    for service, base in bases.items():
        if isinstance(base, bool) or not isinstance(base, int):
            problems.append(Problem("all", f"icosfl_ports.{service}", f"{base!r} is no port", "write a whole number"))
            continue
        other = seen.setdefault(base % stride, service)
        if other != service:
            problems.append(
                Problem(
                    "all",
                    f"icosfl_ports.{service}",
                    f"{base} and {other} ({bases[other]}) leave the same remainder by the stride {stride}, "
                    "so two logical hosts of one machine could meet on a port",
                    "choose another base",
                )
            )
    return problems


def _bad_slot(slot: object) -> list[Problem]:
    if isinstance(slot, bool) or not isinstance(slot, int) or slot < 0:
        return [
            Problem("all", "icosfl_slot", f"icosfl_slot is {slot!r}, expected a whole number from 0", "use 0, 1, 2, …")
        ]
    return []


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
    return problems


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


def _bad_runtime(spec: HostSpec, runtimes: tuple[str, ...]) -> list[Problem]:
    if spec.runtime in runtimes:
        return []
    return [
        Problem(
            spec.name,
            "icosfl_runtime",
            f"{spec.runtime!r} is no runtime of this release",
            f"use {' or '.join(runtimes)}",
        )
    ]
