from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from icosfl.fleet.problems import HostSpec, find_problems, unknown_variables

FACTS = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/ports.yml").read_text(encoding="utf-8"))
BASES, STRIDE = FACTS["icosfl_ports"], FACTS["icosfl_port_stride"]

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


def test_a_misspelt_variable_is_told_the_right_name() -> None:
    known = frozenset({"icosfl_slot", "redis_port"})

    problems = unknown_variables("edge", ["icosfl_slto", "redis_port", "my_own"], known, ["icosfl_", "redis_"])

    assert [(problem.key, problem.cure) for problem in problems] == [("icosfl_slto", "did you mean icosfl_slot?")]
