"""A play that is cut off in the middle is cured by running it again: two logical hosts of one machine, in full."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from support.hosts import HostFleet
from support.hosts.fixtures import MakeFleet
from support.hosts.playbook import cut_off, run

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]  # the first test may install Docker and build images

SECONDS = 60.0  # for a service that its health check restarts just then


@pytest.fixture
def fleet(make_fleet: MakeFleet, tmp_path: Path) -> HostFleet:
    return make_fleet("cut", ["bookworm"], icosfl_pki_dir=str(tmp_path / "pki"))


@pytest.fixture
def inventory(fleet: HostFleet, tmp_path: Path) -> Path:
    """A controller and a worker that share the one machine."""
    machine = {"ansible_host": fleet["control"].address}
    groups = {
        "controller": {"hosts": {"control": machine}},
        "workers": {"hosts": {"worker": {**machine, "icosfl_slot": 1, "icosfl_supernodes": 2}}},
    }
    directory = tmp_path / "one-machine"
    directory.mkdir()
    text = yaml.safe_dump({"fleet": {"children": {"nodes": {"children": groups}}}})
    (directory / "hosts.yml").write_text(text, encoding="utf-8")
    (directory / "group_vars").symlink_to(fleet.inventory / "group_vars")
    return directory


def services(fleet: HostFleet, host: str) -> dict[str, str]:
    """What systemd says of each unit of ours that runs all the time: of all but the health checks that timers start."""
    told = ["systemctl", "show", "--property=Id,Type,SubState", "icosfl-*.service"]
    units = [
        dict(line.split("=", 1) for line in unit.splitlines())
        for unit in fleet.run(host, told).stdout.strip().split("\n\n")
    ]
    return {unit["Id"]: unit["SubState"] for unit in units if unit["Type"] != "oneshot"}


def settled(fleet: HostFleet, host: str) -> dict[str, str]:
    """The same, once all of them run; what they do instead when that takes too long."""
    deadline = time.monotonic() + SECONDS
    while set((found := services(fleet, host)).values()) != {"running"} and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def test_a_play_that_was_killed_twice_is_cured_by_running_it_again(
    fleet: HostFleet, inventory: Path, tmp_path: Path
) -> None:
    def exists(pattern: str) -> bool:
        return fleet.run("control", ["sh", "-c", f"ls {pattern}"], check=False).code == 0

    installing = "/opt/icosfl/releases/*/venv/bin/python"
    cut_off("site.yml", inventory, tmp_path / "log-1", lambda: exists(installing))
    assert not exists("/opt/icosfl/current")
    configuring = "/etc/systemd/system/icosfl-1-redis.service"
    cut_off("site.yml", inventory, tmp_path / "log-2", lambda: exists(configuring))

    cured = run("site.yml", inventory)
    again = run("site.yml", inventory)

    assert cured.code == 0, cured.output
    assert again.code == 0, again.output
    assert [again.counts(host)["changed"] for host in ("control", "worker")] == [0, 0], again.output
    units = settled(fleet, "control")
    assert set(units.values()) == {"running"}, units
    wanted = ("icosfl-superlink", "icosfl-redis", "icosfl-1-redis", "icosfl-1-supernode", "icosfl-1-supernode-2")
    assert {f"{name}.service" for name in wanted} <= units.keys()
