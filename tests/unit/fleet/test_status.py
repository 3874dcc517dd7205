from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from icosfl.fleet.definition import Layout
from icosfl.fleet.everywhere import look
from icosfl.fleet.place import place_of
from icosfl.fleet.process_status import Status
from icosfl.fleet.retraining import STATE_FILE, StateFile
from icosfl.fleet.schedule import Memory
from icosfl.fleet.service import Service
from icosfl.fleet.status import NOT_DEPLOYED, FleetStatus, Found, HostStatus, join, look_at, notes_of
from icosfl.serve.values import Readiness, StoreState
from support.fleet import make_fleet, make_host

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
READINESS = Readiness(False, ("no model yet",), (), "worker-1", StoreState(61, 600, NOON, 0.4), None)


def service(name: str, port: int) -> Service:
    return Service.of(
        {
            "name": name,
            "command": ["/bin/true"],
            "health": {"kind": "tcp", "host": "127.0.0.1", "port": port, "timeout_seconds": 5},
            "ports": {name: port},
            "stop_seconds": 5,
            "priority": 10,
        }
    )


INSTALLED = (service("redis", 6400), service("otlp_bridge", 4400))


def joined(
    tmp_path: Path,
    statuses: dict[str, Status] | None,
    problems: dict[str, str] | None = None,
    readiness: Readiness | None = READINESS,
    planned: tuple[str, ...] = (),
) -> HostStatus:
    layout = Layout.at(str(tmp_path / "worker-1"))
    found = Found(statuses, problems or {}, readiness, planned)
    return join(place_of(make_host("worker-1", tmp_path)), lambda name: str(layout.log(name)), INSTALLED, found)


def all_running() -> dict[str, Status]:
    return {service.name: running(service.name, 11) for service in INSTALLED}


def running(name: str, pid: int) -> Status:
    return Status(name, "RUNNING", pid, 90)


def test_a_host_is_green_when_all_services_run_and_work(tmp_path: Path) -> None:
    host = joined(tmp_path, {"redis": running("redis", 11), "otlp_bridge": running("otlp_bridge", 12)})

    assert host.green
    assert host.reason == ""
    assert [(each.name, each.pid, dict(each.ports)) for each in host.services] == [
        ("redis", 11, {"redis": 6400}),
        ("otlp_bridge", 12, {"otlp_bridge": 4400}),
    ]
    assert host.services[0].log == str(tmp_path / "worker-1" / "log" / "redis.log")
    assert host.readiness is READINESS


def test_a_service_that_runs_but_does_not_work_is_named_with_its_reason(tmp_path: Path) -> None:
    statuses = {"redis": running("redis", 11), "otlp_bridge": running("otlp_bridge", 12)}

    host = joined(tmp_path, statuses, {"otlp_bridge": "127.0.0.1:4400: gRPC health: NOT_SERVING"})

    assert host.condition == "down"
    assert host.reason == "otlp_bridge: 127.0.0.1:4400: gRPC health: NOT_SERVING"
    assert [each.green for each in host.services] == [True, False]


def test_a_service_without_a_process_is_not_green_and_says_what_its_manager_knows(tmp_path: Path) -> None:
    statuses = {"redis": Status("redis", "BACKOFF", reason="Exited too quickly"), "otlp_bridge": running("b", 12)}

    host = joined(tmp_path, statuses)

    assert host.reason == "redis: Exited too quickly"
    assert (host.services[0].state, host.services[0].pid) == ("BACKOFF", 0)


def test_a_service_that_its_manager_does_not_know_is_not_green(tmp_path: Path) -> None:
    host = joined(tmp_path, {"redis": running("redis", 11)})

    assert not host.green
    assert host.services[1].state == "NOT RUNNING"


def test_a_service_that_was_never_deployed_is_missed_by_name(tmp_path: Path) -> None:
    host = joined(tmp_path, all_running(), planned=("redis", "otlp_bridge", "supernode"))

    assert host.condition == "down"
    assert host.reason == "supernode: it was never deployed: icosfl up"
    assert [(each.name, each.state, each.pid) for each in host.services][-1] == ("supernode", "NOT DEPLOYED", 0)


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        (StoreState(0, 600, None, None), "its store is empty: see the logs of host_metrics and otlp_bridge"),
        (StoreState(61, 600, NOON, 31.0), "its newest row is 31 s old: see the logs of host_metrics and otlp_bridge"),
        (StoreState(61, 600, NOON, -31.0), "its newest row lies 31 s in the future: set the clocks"),
        (None, "its forecast service cannot read the store: no model yet"),
    ],
)
def test_a_host_without_new_rows_is_not_green_and_says_why(
    tmp_path: Path, store: StoreState | None, reason: str
) -> None:
    host = joined(tmp_path, all_running(), readiness=replace(READINESS, store=store))

    assert host.condition == "no new rows"
    assert not host.green
    assert host.reason.startswith(reason)


def test_what_a_running_service_says_of_itself_is_told_and_of_one_that_is_down_its_reason(tmp_path: Path) -> None:
    statuses = {"redis": running("redis", 11), "otlp_bridge": Status("otlp_bridge", "BACKOFF", reason="it died")}
    found = Found(statuses, {}, READINESS, (), {"redis": "next: tomorrow", "otlp_bridge": "next: today"})

    host = join(place_of(make_host("worker-1", tmp_path)), str, INSTALLED, found)

    assert [(each.note, each.problem) for each in host.services] == [("next: tomorrow", ""), ("", "it died")]


def test_the_service_that_trains_by_itself_says_what_is_due_once_it_has_looked(tmp_path: Path) -> None:
    retraining = replace(service("retraining", 4), writes=(str(tmp_path), "/elsewhere"))
    assert notes_of((*INSTALLED, retraining)) == {}

    StateFile(tmp_path / STATE_FILE).save(Memory(), "next: training tomorrow")

    assert notes_of((*INSTALLED, retraining)) == {"retraining": "next: training tomorrow"}
    assert notes_of(INSTALLED) == {}


def test_a_forecast_service_that_says_nothing_this_time_does_not_make_a_host_ill(tmp_path: Path) -> None:
    assert joined(tmp_path, all_running(), readiness=None).green


def test_a_stopped_host_lists_its_services_and_the_cure(tmp_path: Path) -> None:
    host = joined(tmp_path, None)

    assert host.condition == "down"
    assert "icosfl up" in host.reason
    assert {each.state for each in host.services} == {"NOT RUNNING"}


def test_an_empty_machine_is_not_deployed_rather_than_an_error(tmp_path: Path) -> None:
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "site.yml").write_text("- hosts: nodes\n", encoding="utf-8")

    found = look(make_fleet(tmp_path, make_host("control", tmp_path), make_host("worker-1", tmp_path)))

    assert not found.green
    assert {(host.condition, host.reason) for host in found.hosts} == {("not deployed", NOT_DEPLOYED)}


def test_a_damaged_description_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    description = Layout.at(str(tmp_path / "worker-1")).description("redis")
    description.parent.mkdir(parents=True)
    description.write_text("{", encoding="utf-8")

    host = look_at(place_of(make_host("worker-1", tmp_path)))

    assert host.condition == "down"
    assert "redis.json" in host.reason


@pytest.mark.parametrize(("conditions", "green"), [(["green", "green"], True), (["green", "down"], False)])
def test_a_fleet_is_green_when_every_host_is(conditions: list[str], green: bool) -> None:
    hosts = tuple(HostStatus("h", (), condition, "", (), None) for condition in conditions)  # type: ignore[arg-type]

    assert FleetStatus("lab", hosts).green is green
