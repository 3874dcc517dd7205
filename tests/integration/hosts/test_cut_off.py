"""A play that is cut off in the middle is cured by running it again: two logical hosts of one machine, in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from support.hosts import HostFleet
from support.hosts.fixtures import MakeFleet
from support.hosts.playbook import cut_off, run

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]  # the first test may install Docker and build images


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
    listed = fleet.run("control", ["systemctl", "list-units", "--plain", "--no-legend", "icosfl-*.service"]).stdout
    units = {line.split()[0]: line.split()[3] for line in listed.splitlines()}
    assert set(units.values()) == {"running"}
    wanted = ("icosfl-superlink", "icosfl-redis", "icosfl-1-redis", "icosfl-1-supernode", "icosfl-1-supernode-2")
    assert {f"{name}.service" for name in wanted} <= units.keys()
