from __future__ import annotations

from pathlib import Path

import pytest

from icosfl.errors import UserError
from icosfl.fleet import ports
from icosfl.fleet.definition import Layout
from icosfl.fleet.ports import AnyOf, ContainerFamily, Family, Listener, listeners, refuse_foreign


@pytest.fixture
def family(tmp_path: Path) -> Family:
    return Family(Layout(tmp_path), 0)


def test_another_user_s_process_is_refused_without_a_name(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "listeners", lambda wanted: {8080: Listener(8080, 0, "")})

    with pytest.raises(UserError, match=r"port 8080 \(host_metrics\) is already used by a process of another user"):
        refuse_foreign({"host_metrics": 8080, "otlp": 4317}, family)


def test_free_ports_are_nobody_s(family: Family) -> None:
    assert listeners([]) == {}
    assert refuse_foreign({}, family) == ()


def test_a_process_that_is_gone_belongs_to_nobody(family: Family) -> None:
    gone = 2**22 + 1  # above the kernel's highest process id

    assert not family.owns(gone)
    assert family.service_pid(gone) == 0


def test_port_of_a_container_is_its_hosts_whoever_of_docker_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = {1: "docker-proxy", 2: "dockerd", 3: "nginx"}
    monkeypatch.setattr(ports, "_program", programs.__getitem__)
    monkeypatch.setattr(ports, "_groups", lambda _: "")
    containers = ContainerFamily({"a" * 64}, {8080})

    assert containers.has(Listener(8080, 1, ""))
    assert containers.has(Listener(8080, 2, ""))
    assert containers.has(Listener(8080, 0, ""))
    assert not containers.has(Listener(8080, 3, ""))  # another address of the same port
    assert not containers.has(Listener(8081, 1, ""))  # another host's container
    assert not containers.has(Listener(8081, 0, ""))


@pytest.mark.parametrize("group", ["0::/system.slice/docker-{}.scope", "4:memory:/docker/{}"])
def test_process_in_a_container_is_its_hosts(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_groups", lambda _: group.format("a" * 64))

    assert ContainerFamily({"a" * 64}, ()).has(Listener(8080, 7, ""))
    assert not ContainerFamily({"b" * 64}, ()).has(Listener(8080, 7, ""))


def test_listener_may_be_any_owners(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "listeners", lambda wanted: {8080: Listener(8080, 0, "")})

    assert refuse_foreign({"a": 8080}, AnyOf([family, ContainerFamily((), {8080})]))
