from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.fleet.guard import bridge_of, guard_of, is_needed
from icosfl.fleet.service import Service
from icosfl.fleet.systemd_units import UnitLayout, marked

PREFIXES = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)


def service(name: str, publish: dict[str, str], **changes: Any) -> Service:
    return Service.of(
        {
            "name": name,
            "command": ["/bin/true"],
            "health": {"kind": "process", "timeout_seconds": 5},
            "stop_seconds": 5,
            "priority": 1,
            "ports": {"fleet": 9092, "control": 9093, "other": 9091},
            "publish": publish,
            **changes,
        }
    )


def test_only_what_is_offered_beyond_the_machine_may_be_reached() -> None:
    services = [
        service("link", {"fleet": "10.0.0.1", "control": "127.0.0.1", "other": "::1"}),
        service("redis", {}),
    ]

    guard = guard_of("icosfl-1", services)

    assert guard.rules() == (
        "# Written by Ansible: changes are lost.\n"
        "*filter\n"
        ":icosfl-1-guard - [0:0]\n"
        "-A icosfl-1-guard -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN\n"
        "-A icosfl-1-guard -p tcp --dport 9092 -j RETURN\n"
        "-A icosfl-1-guard -j DROP\n"
        "COMMIT\n"
    )
    assert " ".join(guard.jump) == "DOCKER-USER -o br-icosfl-1 ! -i br-icosfl-1 -j icosfl-1-guard"


@pytest.mark.parametrize("address", ["0.0.0.0", "10.0.0.1", "::", "2001:db8::1"])
def test_any_address_but_the_machines_own_is_beyond_it(address: str) -> None:
    assert guard_of("icosfl", [service("link", {"fleet": address})]).ports == (9092,)


@given(st.lists(PREFIXES, min_size=2, max_size=5, unique=True))
def test_names_fit_into_the_kernel_and_no_two_hosts_share_them(prefixes: list[str]) -> None:
    guards = [guard_of(prefix, []) for prefix in prefixes]

    assert len({guard.bridge for guard in guards}) == len({guard.chain for guard in guards}) == len(prefixes)
    assert all(re.fullmatch(r"br-[a-z][a-z0-9-]{0,11}", guard.bridge) for guard in guards)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]{0,21}-guard", guard.chain) for guard in guards)
    assert [guard.bridge for guard in guards] == [bridge_of(prefix) for prefix in prefixes]


@pytest.mark.parametrize(("api", "needed"), [((1, 41), True), ((1, 47), True), ((1, 48), False), ((1, 51), False)])
def test_newer_engines_guard_their_networks_themselves(api: tuple[int, ...], needed: bool) -> None:
    assert is_needed(api) is needed


def test_unit_lays_the_rules_whenever_docker_starts_and_is_the_hosts_own() -> None:
    layout = UnitLayout.at("/srv/icosfl", "icosfl", "icosfl")

    rules, jump = "/srv/icosfl/docker/guard.rules", "DOCKER-USER -o br-icosfl ! -i br-icosfl -j icosfl-guard"

    text = guard_of("icosfl", []).unit("/srv/icosfl", rules, "/sbin/ipt", "/sbin/ipt-restore")

    assert marked(text, layout)
    assert layout.guard == "icosfl-guard.service"
    for line in (
        "After=docker.service",
        "PartOf=docker.service",
        "WantedBy=docker.service",
        "RemainAfterExit=yes",
        f"ExecStart=/sbin/ipt-restore --wait --noflush {rules}",
        f"ExecStart=/bin/sh -c '/sbin/ipt --wait -C {jump} || /sbin/ipt --wait -I {jump}'",
    ):
        assert line in text.splitlines()
