"""From a host's slot to every port and address of the fleet: plain functions on plain values.

A port is `base + slot * stride`. The slot stands in a host's own inventory line, so no host's ports depend on which
other hosts there are or in which order; and because no two bases leave the same remainder by the stride, two slots
never meet. A host's second, third, … SuperNode has ports of its own, each a larger stride further; that stride is a
multiple of the other, so that they meet no other service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icosfl.errors import InventoryError

FIRST_PORT, LAST_PORT = 1024, 65535
CONTROLLER, WORKERS, NODES = "controller", "workers", "nodes"
SUPERNODE_SERVICES = ("supernode_clientappio", "supernode_health")
MOST_SUPERNODES = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in an inventory: where, what, and what to do."""

    host: str
    key: str
    message: str
    cure: str

    def __str__(self) -> str:
        return f"{self.host}: {self.key}: {self.message}. Cure: {self.cure}"


def listen_address(service: str, runtime: str, listen: str) -> str:
    """Return the address at which a service of a host listens, and at which its neighbours on the host reach it.

    Args:
        service: Its name.
        runtime: What runs the host's services: in containers each listens at its own name on their private network.
        listen: The address elsewhere, of the host itself.
    """
    return service.replace("_", "-") if runtime == "docker" else listen


def host_ports(  # noqa: PLR0913, PLR0917 (the facts of the plan)
    bases: Mapping[str, int],
    stride: int,
    slot: int,
    overrides: Mapping[str, int] | None = None,
    supernodes: int = 1,
    supernode_stride: int = 0,
) -> dict[str, int]:
    """Return the ports of one host by service: `base + slot * stride`, or the override.

    The second SuperNode's services are called `supernode_clientappio_2` and `supernode_health_2`, and so on.

    Args:
        bases: The ports of slot 0, by service.
        stride: What a slot adds to them.
        slot: Which of its machine's logical hosts it is.
        overrides: Single ports that differ from the plan, by service.
        supernodes: How many SuperNodes the host runs.
        supernode_stride: What each SuperNode after the first adds to the first one's ports.

    Raises:
        InventoryError: the slot, a stride or the number of SuperNodes is no whole number in range, two bases would
            meet, the overrides are no mapping, one names no service, or a port is not between 1024 and 65535.
    """
    problems = [*bad_bases(bases, stride), *_bad_slot(slot), *_bad_overrides(overrides)]
    problems += bad_supernodes(supernodes, supernode_stride, stride)
    if problems:
        raise InventoryError(problems[0].message, cure=problems[0].cure)
    ports = {service: base + slot * stride for service, base in bases.items()}
    for number in range(2, supernodes + 1):
        for service in SUPERNODE_SERVICES:
            ports[f"{service}_{number}"] = ports[service] + (number - 1) * supernode_stride
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
                cure="choose a smaller icosfl_slot or fewer icosfl_supernodes, or another base in icosfl_ports",
            )
    return ports


def supernode_ports(ports: Mapping[str, int]) -> list[dict[str, int]]:
    """Return the ports of each SuperNode of a host, in their order, from all ports of the host."""
    clientappio, health = SUPERNODE_SERVICES
    found = []
    suffix = ""
    while clientappio + suffix in ports:
        found.append({"clientappio": ports[clientappio + suffix], "health": ports[health + suffix]})
        suffix = f"_{len(found) + 1}"
    return found


def address_of(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bad_bases(bases: Mapping[str, int], stride: int) -> list[Problem]:
    """Return what is wrong with the ports of slot 0 and the stride."""
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        return [Problem("all", "icosfl_port_stride", f"{stride!r} is no whole number above 0", "use 100")]
    if not isinstance(bases, Mapping):
        return [
            Problem("all", "icosfl_ports", f"{bases!r} is no mapping", "write a port for each service, by its name")
        ]
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


def bad_supernodes(supernodes: object, supernode_stride: object, stride: int) -> list[Problem]:
    """Return what is wrong with the number of a host's SuperNodes, or with what each adds to the ports."""
    if isinstance(supernodes, bool) or not isinstance(supernodes, int) or not 1 <= supernodes <= MOST_SUPERNODES:
        message = f"icosfl_supernodes is {supernodes!r}, expected a whole number from 1 to {MOST_SUPERNODES}"
        return [Problem("all", "icosfl_supernodes", message, "use 1, or a number up to that many")]
    if supernodes == 1:
        return []
    whole = isinstance(supernode_stride, int) and not isinstance(supernode_stride, bool)
    if not whole or supernode_stride < stride or supernode_stride % stride:  # type: ignore[operator]
        message = f"icosfl_supernode_port_stride is {supernode_stride!r}, expected a multiple of the stride {stride}"
        return [Problem("all", "icosfl_supernode_port_stride", message, f"use {10 * stride}")]
    return []


def _bad_slot(slot: object) -> list[Problem]:
    if isinstance(slot, bool) or not isinstance(slot, int) or slot < 0:
        return [
            Problem("all", "icosfl_slot", f"icosfl_slot is {slot!r}, expected a whole number from 0", "use 0, 1, 2, …")
        ]
    return []


def _bad_overrides(overrides: object) -> list[Problem]:
    if overrides is None or isinstance(overrides, Mapping):
        return []
    message = f"icosfl_port_overrides is {overrides!r}, expected ports by service"
    return [Problem("all", "icosfl_port_overrides", message, "write it as {forecast: 18082}")]


def _whole(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InventoryError(f"{key} is {value!r}, expected a whole number", cure="write it without quotes")
    return value
