"""Hosts asked by the real playbook look.yml and the module node_report, as all hosts of other machines are."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from icosfl.fleet import everywhere
from icosfl.fleet.inventory import Fleet, load_fleet

from .conftest import Host, eventually

ROOT = Path(__file__).parents[3]


@pytest.fixture
def fleet(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Two hosts: `edge-01` is of this machine and has services, `edge-02` is at a port where no sshd listens."""
    values = yaml.safe_load((ROOT / "inventories/local/group_vars/local.yml").read_text(encoding="utf-8"))
    values |= {
        "icosfl_project_dir": str(ROOT),
        "icosfl_home": str(host.root),
        "icosfl_venv": str(Path(sys.executable).parents[1]),
    }
    gone = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1, "icosfl_slot": 1}
    groups = {"controller": {"hosts": {"edge-01": {}}}, "workers": {"hosts": {"edge-02": gone}}}
    inventory = tmp_path / "lab"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(yaml.safe_dump({"local": {"children": {"nodes": {"children": groups}}}}))
    (inventory / "group_vars/local.yml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(everywhere, "asked_here", lambda _host: False)  # so that Ansible asks every host
    return load_fleet(inventory, ROOT)


def test_a_fleet_is_asked_by_ansible_and_a_host_that_is_gone_is_named_with_its_cure(
    fleet: Fleet, host: Host, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: shutil.rmtree(ROOT / ".state" / "lab", ignore_errors=True))  # Ansible's logs
    host.start(host.service("one"))

    def found() -> Any:
        return {each.host: each for each in everywhere.look(fleet).hosts}

    assert eventually(lambda: any(each.name == "one" and each.green for each in found()["edge-01"].services))
    status = found()
    assert {each.name: each.pid for each in status["edge-01"].services if each.pid} == host.pids()
    assert "redis" in {each.name for each in status["edge-01"].services if each.state == "NOT DEPLOYED"}
    assert status["edge-02"].condition == "unreachable"
    assert "sshd" in status["edge-02"].cure
