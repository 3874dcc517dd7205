from __future__ import annotations

import ipaddress
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import InventoryError
from icosfl.fleet.problems import HostSpec, find_problems
from icosfl.fleet.topology import address_of, host_ports, supernode_ports

FACTS = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/ports.yml").read_text(encoding="utf-8"))
BASES, STRIDE = FACTS["icosfl_ports"], FACTS["icosfl_port_stride"]
SUPERNODE_STRIDE = FACTS["icosfl_supernode_port_stride"]

CONTROLLER, WORKER = frozenset({"nodes", "controller"}), frozenset({"nodes", "workers"})

names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)


@st.composite
def fleets(draw: st.DrawFn) -> list[HostSpec]:
    """A sound fleet: one controller, workers, some of them on one machine, each with its own slot there."""
    hosts = draw(st.lists(st.tuples(names, st.integers(0, 3), st.integers(0, 400)), min_size=2, max_size=12))
    unique = {(machine, slot): name for name, machine, slot in hosts}
    taken: set[str] = set()
    specs = []
    for (machine, slot), name in unique.items():
        label = name if name not in taken else f"{name}-{machine}-{slot}"
        taken.add(label)
        groups = WORKER if specs else CONTROLLER
        specs.append(HostSpec(label, groups, f"192.0.2.{machine + 1}", slot))
    if len(specs) < 2:
        specs.append(HostSpec("one-more", WORKER, "192.0.2.99", 0))
    return specs


@given(fleets())
def test_no_two_services_of_a_machine_share_a_port(fleet: list[HostSpec]) -> None:
    listening = [
        (spec.address, port) for spec in fleet for port in host_ports(BASES, STRIDE, spec.slot, spec.overrides).values()
    ]

    assert len(listening) == len(set(listening))
    assert find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"]) == []


@given(fleets(), st.randoms(), st.integers(0, 11))
def test_adding_removing_or_reordering_hosts_moves_no_other_hosts_ports(fleet, random, gone) -> None:
    before = {spec.name: host_ports(BASES, STRIDE, spec.slot) for spec in fleet}
    changed = [spec for index, spec in enumerate(fleet) if index != gone]
    changed.append(HostSpec("newcomer", WORKER, "192.0.2.1", 401))
    random.shuffle(changed)

    after = {spec.name: host_ports(BASES, STRIDE, spec.slot) for spec in changed}

    assert all(after[name] == ports for name, ports in before.items() if name in after)


def test_slot_0_gets_the_ports_of_the_table_in_the_seeds() -> None:
    ports = host_ports(BASES, STRIDE, 0)

    assert (ports["host_metrics"], ports["otlp"], ports["dataclay_proxy"]) == (8080, 4317, 8676)
    assert (ports["superlink_serverappio"], ports["superlink_fleet"], ports["superlink_control"]) == (9091, 9092, 9093)
    assert (ports["supernode_clientappio"], ports["forecast"]) == (9094, 8082)


def test_an_override_moves_one_port_only() -> None:
    ports = host_ports(BASES, STRIDE, 3, {"forecast": 18082})

    assert ports.pop("forecast") == 18082
    assert ports == {name: port for name, port in host_ports(BASES, STRIDE, 3).items() if name != "forecast"}


@pytest.mark.parametrize(
    ("slot", "overrides", "named"),
    [
        (-1, {}, "icosfl_slot"),
        ("1", {}, "icosfl_slot"),
        (True, {}, "icosfl_slot"),
        (600, {}, "65535"),
        (0, {"forcast": 1}, "forcast"),
        (0, {"forecast": 80}, "1024"),
        (0, {"forecast": "8082"}, "icosfl_port_overrides.forecast"),
        (0, ["forecast"], "icosfl_port_overrides is"),
    ],
)
def test_a_bad_slot_or_override_is_named(slot, overrides, named) -> None:
    with pytest.raises(InventoryError, match=named):
        host_ports(BASES, STRIDE, slot, overrides)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 16), st.integers(1, 16))
def test_no_supernode_of_ten_slots_meets_another_service(slot, other, supernodes, others) -> None:
    ports = list(host_ports(BASES, STRIDE, slot, {}, supernodes, SUPERNODE_STRIDE).values())
    if slot != other:
        ports += host_ports(BASES, STRIDE, other, {}, others, SUPERNODE_STRIDE).values()

    assert len(ports) == len(set(ports))


def test_more_supernodes_move_no_port_that_was_there() -> None:
    one, four = host_ports(BASES, STRIDE, 2), host_ports(BASES, STRIDE, 2, {}, 4, SUPERNODE_STRIDE)

    assert one.items() <= four.items()
    assert supernode_ports(one) == supernode_ports(four)[:1]
    assert len(supernode_ports(four)) == 4


def test_a_further_supernodes_port_can_be_overridden() -> None:
    ports = host_ports(BASES, STRIDE, 0, {"supernode_health_2": 20001}, 2, SUPERNODE_STRIDE)

    assert supernode_ports(ports)[1] == {"clientappio": ports["supernode_clientappio"] + 1000, "health": 20001}


@pytest.mark.parametrize(("supernodes", "stride"), [(2, 0), (2, 150), (2, 50), (2, "1000"), (0, 1000), (17, 1000)])
def test_a_number_or_stride_of_supernodes_that_could_clash_is_refused(supernodes, stride) -> None:
    with pytest.raises(InventoryError, match="icosfl_supernode"):
        host_ports(BASES, STRIDE, 0, {}, supernodes, stride)


def test_two_bases_that_could_meet_are_refused() -> None:
    with pytest.raises(InventoryError, match="remainder"):
        host_ports({"a": 8080, "b": 8180}, 100, 0)


@given(st.ip_addresses(), st.integers(1024, 65535))
def test_an_address_can_be_split_again(ip, port) -> None:
    text = address_of(str(ip), port)
    host, _, number = text.rpartition(":")

    assert (ipaddress.ip_address(host.strip("[]")), int(number)) == (ip, port)
