"""What logical hosts that share a machine may not share: ports, directories, names of units; and what they must."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from icosfl.errors import InventoryError
from icosfl.fleet.topology import LAST_PORT, Problem, bad_supernodes, host_ports


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
        supernodes: How many SuperNodes it runs.
        home: Where everything of it lies; "" where it has its machine for itself, so that it does not matter.
        unit_prefix: What its units or containers begin with; "" as above.
    """

    name: str
    groups: frozenset[str]
    address: str
    slot: int = 0
    overrides: Mapping[str, int] = field(default_factory=dict)
    runtime: str = "supervisor"
    connection: str = "local"
    supernodes: int = 1
    home: str = ""
    unit_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Bases:
    """The facts of the plan of ports: those of slot 0, what a slot adds, and what a further SuperNode adds."""

    ports: Mapping[str, int]
    stride: int
    supernode_stride: int

    def of(self, spec: HostSpec) -> dict[str, int]:
        """Return the ports of a host by service.

        Raises:
            InventoryError: its slot, overrides or number of SuperNodes are wrong.
        """
        return host_ports(self.ports, self.stride, spec.slot, spec.overrides, spec.supernodes, self.supernode_stride)


def port_clashes(specs: Iterable[HostSpec], bases: Bases) -> list[Problem]:
    """Return one problem for each host with a port that is none, or that another service of its machine has."""
    hosts = list(specs)
    problems = []
    taken: dict[tuple[str, int], tuple[str, str]] = {}
    for spec in hosts:
        wrong = bad_supernodes(spec.supernodes, bases.supernode_stride, bases.stride)
        if wrong:
            problems.append(replace(wrong[0], host=spec.name))
            continue
        try:
            ports = bases.of(spec)
        except InventoryError as error:
            problems.append(Problem(spec.name, "icosfl_slot, icosfl_port_overrides", error.message, error.cure))
            continue
        met = [
            (service, port, taken[spec.address, port])
            for service, port in ports.items()
            if (spec.address, port) in taken
        ]
        if met:
            service, port, (host, other) = met[0]
            if service in spec.overrides:
                key, cure = f"icosfl_port_overrides.{service}", "remove the override, or choose a free port"
            else:
                key, cure = "icosfl_slot", _free_slot(spec, hosts, bases)
            message = f"{service} would listen on {spec.address}:{port}, where {other} of {host} listens"
            problems.append(Problem(spec.name, key, message, cure))
            continue
        inner: dict[int, str] = {}
        for service, port in ports.items():
            taken[spec.address, port] = (spec.name, service)
            other = inner.setdefault(port, service)
            if other != service:
                key = f"icosfl_port_overrides.{service if service in spec.overrides else other}"
                message = f"{service} would listen on port {port}, where {other} of the same host listens"
                problems.append(Problem(spec.name, key, message, "choose a free port"))
    return problems


def _free_slot(spec: HostSpec, specs: list[HostSpec], bases: Bases) -> str:
    """Return the cure for a slot that is another's: the lowest one that is nobody's on the machine."""
    taken: set[int] = set()
    for other in specs:
        if other.address == spec.address and other.name != spec.name:
            try:
                taken |= set(bases.of(other).values())
            except InventoryError:
                continue  # it has a problem of its own
    for slot in range(LAST_PORT // bases.stride):
        try:
            if taken.isdisjoint(bases.of(replace(spec, slot=slot)).values()):
                return f"give it a slot of its own, for example icosfl_slot: {slot}"
        except InventoryError:
            break
    return "give it a slot of its own, or another machine: this one has no free slot for it"


def bad_neighbours(specs: Iterable[HostSpec]) -> Iterator[Problem]:
    """Yield what logical hosts of one machine may not share, or must."""
    machines: defaultdict[str, list[HostSpec]] = defaultdict(list)
    for spec in specs:
        machines[spec.address].append(spec)
    for address, neighbours in machines.items():
        first, homes, prefixes = neighbours[0], dict[str, str](), dict[str, HostSpec]()
        for spec in neighbours:
            if spec.runtime != first.runtime:
                message = f"it runs its services by {spec.runtime}, {first.name} on the same machine ({address}) by "
                yield Problem(spec.name, "icosfl_runtime", message + first.runtime, "give both the same runtime")
            if spec.home and homes.setdefault(spec.home.rstrip("/"), spec.name) != spec.name:
                message = f"{spec.home} is the directory of {homes[spec.home.rstrip('/')]}, on the same machine, too"
                yield Problem(spec.name, "icosfl_home", message, "put {{ inventory_hostname }} into icosfl_home")
            owner = prefixes.setdefault(spec.unit_prefix, spec)
            # Those of one slot are told so because of their ports.
            if spec.runtime != "supervisor" and spec.unit_prefix and owner.slot != spec.slot:
                message = f"{owner.name} on the same machine names its units {spec.unit_prefix}-*, too"
                yield Problem(spec.name, "icosfl_unit_prefix", message, "give each an icosfl_slot or prefix of its own")
