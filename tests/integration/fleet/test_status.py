"""What `icosfl status` says of services that really run below a real supervisord."""

from __future__ import annotations

from pathlib import Path

import psutil

from icosfl.fleet.inventory import Fleet
from icosfl.fleet.inventory import Host as Planned
from icosfl.fleet.machine import gather
from icosfl.fleet.place import place_of
from icosfl.fleet.status import look_at
from support.fleet import make_host

from .conftest import Host, eventually


def planned(host: Host) -> Planned:
    return make_host("edge-01", host.root, paths={"root": host.root}, ports=dict(host.ports) | {"forecast": 1})


def test_running_services_are_green_with_their_processes_and_ports(host: Host) -> None:
    host.start(host.service("late", priority=20), host.service("early"))
    eventually(lambda: look_at(place_of(planned(host))).green)

    status = look_at(place_of(planned(host)))

    assert status.green, status.reason
    assert [service.name for service in status.services] == ["early", "late"]
    assert {service.name: service.pid for service in status.services} == host.pids()
    assert status.services[0].ports == {"early": host.ports["early"]}


def test_a_service_that_runs_but_answers_badly_is_not_green(host: Host) -> None:
    host.start(host.service("one"))
    host.server.with_name("ill").touch()

    assert eventually(lambda: "no rows yet" in look_at(place_of(planned(host))).reason)


def test_a_killed_service_is_green_again_by_itself(host: Host) -> None:
    host.start(host.service("one"))
    assert eventually(lambda: look_at(place_of(planned(host))).green)
    killed = host.pids()["one"]

    psutil.Process(killed).kill()

    assert eventually(lambda: look_at(place_of(planned(host))).green and host.pids()["one"] != killed)


def test_stopped_services_are_listed_as_not_running(host: Host) -> None:
    host.start(host.service("one"))
    host.stop()

    status = look_at(place_of(planned(host)))

    assert status.condition == "down"
    assert [(service.name, service.state, service.pid) for service in status.services] == [("one", "NOT RUNNING", 0)]


def test_the_fleets_own_ports_are_not_busy_for_the_preflight(host: Host) -> None:
    host.start(host.service("one"))
    project = Path(__file__).parents[3]
    stranger = make_host("edge-02", host.root / "other", paths={"root": host.root / "other"}, ports=dict(host.ports))

    facts = gather(Fleet(project, project / "inventories" / "local", (planned(host), stranger)))

    assert [(busy.host, busy.port) for busy in facts.ports_busy] == [("edge-02", host.ports["one"])]
