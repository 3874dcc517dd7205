from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from icosfl.fleet.problems import (
    HostSpec,
    find_problems,
    unfit_otlp_listen,
    unfit_source,
    unknown_variables,
    unset_variables,
)
from icosfl.fleet.topology import Problem

FACTS = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/ports.yml").read_text(encoding="utf-8"))
BASES, STRIDE = FACTS["icosfl_ports"], FACTS["icosfl_port_stride"]
SUPERNODE_STRIDE = FACTS["icosfl_supernode_port_stride"]

CONTROLLER, WORKER = frozenset({"nodes", "controller"}), frozenset({"nodes", "workers"})


def test_two_hosts_on_one_port_by_override_are_both_named_with_a_cure() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1", 0),
        HostSpec("edge", WORKER, "192.0.2.1", 1, {"forecast": 8082}),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert problem.host == "edge"
    assert problem.key == "icosfl_port_overrides.forecast"
    assert "8082" in problem.message
    assert "hub" in problem.message


def test_two_hosts_in_one_slot_of_a_machine_are_told_a_free_slot() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1", 0),
        HostSpec("edge-1", WORKER, "192.0.2.1", 1),
        HostSpec("edge-2", WORKER, "192.0.2.1", 1),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert (problem.host, problem.key) == ("edge-2", "icosfl_slot")
    assert problem.cure.endswith("icosfl_slot: 2")


def test_a_fleet_needs_one_controller_and_a_worker() -> None:
    alone = [HostSpec("edge", frozenset({"other"}), "192.0.2.1")]

    keys = [problem.key for problem in find_problems(alone, BASES, STRIDE, ["supervisor"], ["local"])]

    assert keys == ["controller", "workers", "groups"]


def test_a_host_that_no_play_would_reach_is_named() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1"),
        HostSpec("edge-1", frozenset({"workers"}), "192.0.2.2"),
        HostSpec("edge-2", frozenset({"nodes"}), "192.0.2.3"),
    ]

    outside, idle = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert (outside.host, outside.key) == ("edge-1", "groups")
    assert "nodes" in outside.message
    assert (idle.host, idle.key) == ("edge-2", "groups")
    assert "workers" in idle.message


@pytest.mark.parametrize("address", ["192.0.2.300", "not a name", "", "a..b", "10.0.0"])
def test_a_bad_address_is_named(address) -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1"),
        HostSpec("edge", WORKER, address),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert (problem.host, problem.key) == ("edge", "icosfl_address")


def test_a_controller_on_loopback_is_refused_when_a_node_is_elsewhere() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "127.0.0.1"),
        HostSpec("edge", WORKER, "192.0.2.1"),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert problem.host == "hub"
    assert "edge" in problem.message


def test_a_runtime_that_this_release_lacks_is_refused() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1"),
        HostSpec("edge", WORKER, "192.0.2.2", runtime="kubernetes"),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert problem.key == "icosfl_runtime"
    assert "supervisor" in problem.cure


def test_a_connection_that_this_release_lacks_is_refused() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1"),
        HostSpec("edge", WORKER, "192.0.2.2", connection="ssh"),
    ]

    (problem,) = find_problems(fleet, BASES, STRIDE, ["supervisor"], ["local"])

    assert (problem.host, problem.key) == ("edge", "ansible_connection")
    assert "local" in problem.cure


def everything(fleet: list[HostSpec]) -> list[Problem]:
    """What is wrong for a release that has both runtimes."""
    return find_problems(fleet, BASES, STRIDE, ["supervisor", "systemd"], ["local", "ssh"], SUPERNODE_STRIDE)


def test_systemd_hosts_over_ssh_and_on_this_machine_are_sound() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1", runtime="systemd", connection="local"),
        HostSpec("edge", WORKER, "192.0.2.2", runtime="systemd", connection="ssh"),
    ]

    assert everything(fleet) == []


def test_a_supervisor_on_another_machine_is_refused() -> None:
    fleet = [HostSpec("hub", CONTROLLER, "192.0.2.1"), HostSpec("edge", WORKER, "192.0.2.2", connection="ssh")]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge", "icosfl_runtime")
    assert "systemd" in problem.cure


def test_hosts_of_one_machine_have_one_runtime() -> None:
    fleet = [HostSpec("hub", CONTROLLER, "192.0.2.1"), HostSpec("edge", WORKER, "192.0.2.1", 1, runtime="systemd")]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge", "icosfl_runtime")
    assert "hub" in problem.message


@pytest.mark.parametrize("home", ["/srv/icosfl", "/srv/icosfl/"])
def test_hosts_of_one_machine_do_not_share_a_directory(home: str) -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1", home="/srv/icosfl"),
        HostSpec("edge-1", WORKER, "192.0.2.1", 1, home=home),
        HostSpec("edge-2", WORKER, "192.0.2.2", home="/srv/icosfl"),
    ]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge-1", "icosfl_home")
    assert "inventory_hostname" in problem.cure


def test_hosts_of_one_machine_do_not_share_the_names_of_their_units() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1", runtime="systemd", unit_prefix="icosfl"),
        HostSpec("edge", WORKER, "192.0.2.1", 1, runtime="systemd", unit_prefix="icosfl"),
    ]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge", "icosfl_unit_prefix")


def test_a_slot_that_is_a_neighbours_second_supernode_is_refused_and_the_free_one_named() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1", 0),
        HostSpec("edge-1", WORKER, "192.0.2.1", 1, supernodes=4),
        HostSpec("edge-2", WORKER, "192.0.2.1", 11),
    ]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge-2", "icosfl_slot")
    assert "supernode_clientappio_2 of edge-1" in problem.message
    assert problem.cure.endswith("icosfl_slot: 2")


@pytest.mark.parametrize("number", [0, -1, 17, "2", True, 1.5])
def test_a_number_of_supernodes_that_cannot_be_is_named_with_its_host(number: Any) -> None:
    fleet = [HostSpec("hub", CONTROLLER, "192.0.2.1"), HostSpec("edge", WORKER, "192.0.2.2", supernodes=number)]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge", "icosfl_supernodes")


def test_an_override_that_meets_the_hosts_own_port_is_named() -> None:
    fleet = [
        HostSpec("hub", CONTROLLER, "192.0.2.1"),
        HostSpec("edge", WORKER, "192.0.2.2", 0, {"forecast": BASES["redis"]}),
    ]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("edge", "icosfl_port_overrides.forecast")


def test_a_fleet_of_no_hosts_is_refused() -> None:
    (problem,) = everything([])

    assert (problem.host, problem.key) == ("inventory", "hosts")


def test_localhost_is_no_address_for_a_controller_with_nodes_elsewhere() -> None:
    fleet = [HostSpec("hub", CONTROLLER, "localhost"), HostSpec("edge", WORKER, "192.0.2.1")]

    (problem,) = everything(fleet)

    assert (problem.host, problem.key) == ("hub", "icosfl_address")


def test_a_variable_that_is_missing_is_told_with_a_cure() -> None:
    (problem,) = unset_variables("edge", ["icosfl_slot"])

    assert str(problem).startswith("edge: icosfl_slot: it is not set. Cure: ")


def test_a_misspelt_variable_is_told_the_right_name() -> None:
    known = frozenset({"icosfl_slot", "redis_port"})

    problems = unknown_variables("edge", ["icosfl_slto", "redis_port", "my_own"], known, ["icosfl_", "redis_"])

    assert [(problem.key, problem.cure) for problem in problems] == [("icosfl_slto", "did you mean icosfl_slot?")]


def test_containers_without_a_release_to_make_them_of_are_refused() -> None:
    (problem,) = unfit_source("edge", "docker", "project")

    assert problem.key == "icosfl_python_source"
    assert problem.cure == "use bundle"
    assert not unfit_source("edge", "docker", "bundle")
    assert not unfit_source("edge", "systemd", "project")


@pytest.mark.parametrize("listen", ["", "0.0.0.0", "192.0.2.7", "::", "2001:db8::7"])
def test_a_bridge_may_listen_for_others_at_an_address(listen: str) -> None:
    assert unfit_otlp_listen("edge", listen) == []


@pytest.mark.parametrize("listen", ["edge.example.com", "localhost", "true", "192.0.2.7:4316"])
def test_a_bridge_that_would_listen_for_others_at_a_name_is_refused(listen: str) -> None:
    (problem,) = unfit_otlp_listen("edge", listen)

    assert problem.key == "icosfl_otlp_listen"
    assert listen in problem.message
