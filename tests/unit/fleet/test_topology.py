from __future__ import annotations

import ipaddress
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import InventoryError
from icosfl.fleet.topology import HostSpec, address_of, find_problems, host_ports, unknown_variables

FACTS = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/ports.yml").read_text(encoding="utf-8"))
BASES, STRIDE = FACTS["icosfl_ports"], FACTS["icosfl_port_stride"]

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
        group = "workers" if specs else "controller"
        specs.append(HostSpec(label, frozenset({group}), f"192.0.2.{machine + 1}", slot))
    if len(specs) < 2:
        specs.append(HostSpec("one-more", frozenset({"workers"}), "192.0.2.99", 0))
    return specs


@given(fleets())
def test_no_two_services_of_a_machine_share_a_port(fleet: list[HostSpec]) -> None:
    listening = [
        (spec.address, port) for spec in fleet for port in host_ports(BASES, STRIDE, spec.slot, spec.overrides).values()
    ]

    assert len(listening) == len(set(listening))
    assert find_problems(fleet, BASES, STRIDE, ["supervisor"]) == []


@given(fleets(), st.randoms(), st.integers(0, 11))
def test_adding_removing_or_reordering_hosts_moves_no_other_hosts_ports(fleet, random, gone) -> None:
    before = {spec.name: host_ports(BASES, STRIDE, spec.slot) for spec in fleet}
    changed = [spec for index, spec in enumerate(fleet) if index != gone]
    changed.append(HostSpec("newcomer", frozenset({"workers"}), "192.0.2.1", 401))
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
    ],
)
def test_a_bad_slot_or_override_is_named(slot, overrides, named) -> None:
    with pytest.raises(InventoryError, match=named):
        host_ports(BASES, STRIDE, slot, overrides)


def test_two_bases_that_could_meet_are_refused() -> None:
    with pytest.raises(InventoryError, match="remainder"):
        host_ports({"a": 8080, "b": 8180}, 100, 0)


def test_two_hosts_on_one_port_by_override_are_both_named_with_a_cure() -> None:
    fleet = [
        HostSpec("hub", frozenset({"controller"}), "192.0.2.1", 0),
        HostSpec("edge", frozenset({"workers"}), "192.0.2.1", 1, {"forecast": 8082}),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"])

    assert problem.host == "edge"
    assert problem.key == "icosfl_port_overrides.forecast"
    assert "8082" in problem.message
    assert "hub" in problem.message


def test_two_hosts_in_one_slot_of_a_machine_are_told_a_free_slot() -> None:
    fleet = [
        HostSpec("hub", frozenset({"controller"}), "192.0.2.1", 0),
        HostSpec("edge-1", frozenset({"workers"}), "192.0.2.1", 1),
        HostSpec("edge-2", frozenset({"workers"}), "192.0.2.1", 1),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"])

    assert (problem.host, problem.key) == ("edge-2", "icosfl_slot")
    assert problem.cure.endswith("icosfl_slot: 2")


def test_a_fleet_needs_one_controller_and_a_worker() -> None:
    alone = [HostSpec("edge", frozenset({"other"}), "192.0.2.1")]

    keys = [problem.key for problem in find_problems(alone, BASES, STRIDE, ["supervisor"])]

    assert keys == ["controller", "workers"]


@pytest.mark.parametrize("address", ["192.0.2.300", "not a name", "", "a..b", "10.0.0"])
def test_a_bad_address_is_named(address) -> None:
    fleet = [
        HostSpec("hub", frozenset({"controller"}), "192.0.2.1"),
        HostSpec("edge", frozenset({"workers"}), address),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"])

    assert (problem.host, problem.key) == ("edge", "icosfl_address")


def test_a_controller_on_loopback_is_refused_when_a_node_is_elsewhere() -> None:
    fleet = [
        HostSpec("hub", frozenset({"controller"}), "127.0.0.1"),
        HostSpec("edge", frozenset({"workers"}), "192.0.2.1"),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"])

    assert problem.host == "hub"
    assert "edge" in problem.message


def test_a_runtime_that_this_release_lacks_is_refused() -> None:
    fleet = [
        HostSpec("hub", frozenset({"controller"}), "192.0.2.1"),
        HostSpec("edge", frozenset({"workers"}), "192.0.2.2", runtime="kubernetes"),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"])

    assert problem.key == "icosfl_runtime"
    assert "supervisor" in problem.cure


def test_a_misspelt_variable_is_told_the_right_name() -> None:
    known = frozenset({"icosfl_slot", "redis_port"})

    problems = unknown_variables("edge", ["icosfl_slto", "redis_port", "my_own"], known, ["icosfl_", "redis_"])

    assert [(problem.key, problem.cure) for problem in problems] == [("icosfl_slto", "did you mean icosfl_slot?")]


@given(st.ip_addresses(), st.integers(1024, 65535))
def test_an_address_can_be_split_again(ip, port) -> None:
    text = address_of(str(ip), port)
    host, _, number = text.rpartition(":")

    assert (ipaddress.ip_address(host.strip("[]")), int(number)) == (ip, port)
