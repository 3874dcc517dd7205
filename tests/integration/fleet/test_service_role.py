from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import PROJECT, Host

pytestmark = pytest.mark.timeout(600)  # several playbooks, on a machine that may be busy

RECAP = re.compile(r"edge-01\s+: ok=(?P<ok>\d+)\s+changed=(?P<changed>\d+)\s+unreachable=0\s+failed=(?P<failed>\d+)")


class Playbook:
    """A playbook with roles of its own that use the project's internal role, as the service roles do."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.roles: list[str] = []

    def role(self, name: str, definitions: list[dict[str, Any]], config: str = "") -> None:
        """Add a role that renders a file and runs services, or change it."""
        path = self.directory / "roles" / name
        write(path / "vars" / "main.yml", {f"__{name}_services": definitions, f"__{name}_config": config})
        include = {"name": "service", "apply": {"tags": [name, f"{name}_service"]}}
        variables = {"service_root": str(self.host.root), "service_definitions": f"{{{{ __{name}_services }}}}"}
        write(
            path / "tasks" / "main.yml",
            [
                {
                    "name": "Configure",
                    "ansible.builtin.copy": {
                        "content": f"{{{{ __{name}_config }}}}",
                        "dest": str(self.directory / f"{name}.toml"),
                        "mode": "0600",
                    },
                },
                {"name": "Service", "ansible.builtin.include_role": include, "vars": variables, "tags": [name]},
                {"name": "Restart", "ansible.builtin.meta": "flush_handlers"},
            ],
        )
        if name not in self.roles:
            self.roles.append(name)

    def run(self, *options: str, play: dict[str, Any] | None = None) -> tuple[int, int, str]:
        """Run it and return how many tasks changed and failed, and what it said."""
        play = play or {"roles": self.roles}
        write(self.directory / "play.yml", [{"name": "Play", "hosts": "all", "gather_facts": False, **play}])
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        write(self.directory / "hosts.yml", {"all": {"hosts": {"edge-01": variables}}})
        settings = {
            "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": f"{self.directory / 'roles'}:{PROJECT / 'roles'}",
            "ANSIBLE_LIBRARY": str(PROJECT / "plugins" / "modules"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "ansible"),
            "ANSIBLE_REMOTE_TEMP": str(self.directory / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
        }
        ended = subprocess.run(
            [sys.executable, "-m", "ansible", "playbook", "-i", "hosts.yml", "play.yml", *options],
            cwd=self.directory,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        said = ended.stdout + ended.stderr
        recap = RECAP.search(said)
        assert recap, said
        return int(recap["changed"]), int(recap["failed"]), said


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))


@pytest.fixture
def playbook(host: Host, tmp_path: Path) -> Playbook:
    return Playbook(host, tmp_path)


def test_roles_deploy_twice_and_restart_what_changed(host: Host, playbook: Playbook, tmp_path: Path) -> None:
    store = [host.service("store", files=[str(tmp_path / "storage.toml")])]
    web = [
        host.service(
            "web", files=[str(tmp_path / "website.toml")], environment={"DB_PASSWORD": "hunter22"}, priority=20
        )
    ]
    playbook.role("storage", store)
    playbook.role("website", web)

    rehearsal = playbook.run("--check", "--diff")
    assert rehearsal[:2] == (4, 0), rehearsal[2]
    assert not host.root.exists()

    first = playbook.run("--diff", "-v")
    assert first[:2] == (4, 0), first[2]
    assert (host.says("store"), host.says("web")) == ("hello", "hello")
    assert "hunter22" not in first[2]
    assert "[program:web]" in first[2]
    pids = host.pids()

    second = playbook.run()
    assert second[:2] == (0, 0), second[2]
    assert host.pids() == pids

    playbook.role("storage", store, config="capacity = 2")
    third = playbook.run()
    assert third[:2] == (3, 0), third[2]  # the file, the definition, the restart
    assert "RUNNING HANDLER [service : Restart changed services]" in third[2]
    assert host.pids()["store"] != pids["store"]
    assert host.pids()["web"] == pids["web"]

    rehearsal = playbook.run("--check", "--diff")
    assert rehearsal[:2] == (0, 0), rehearsal[2]


def test_role_stops_and_removes_what_it_is_told(host: Host, playbook: Playbook) -> None:
    host.start(host.service("one"), host.service("two"))

    def included(tasks_from: str, **variables: object) -> dict[str, Any]:
        include = {"name": "service", "tasks_from": tasks_from}
        variables["service_root"] = str(host.root)
        return {"tasks": [{"name": "Go", "ansible.builtin.include_role": include, "vars": variables}]}

    one = playbook.run(play=included("remove", service_definitions=[{"name": "one"}]))
    assert one[:2] == (1, 0), one[2]
    assert set(host.pids()) == {"two"}

    rest = playbook.run(play=included("stop"))
    assert rest[:2] == (1, 0), rest[2]
    assert host.processes() == []


def test_role_refuses_to_run_alone(host: Host, playbook: Playbook) -> None:
    alone = {"roles": [{"role": "service", "service_root": str(host.root), "service_definitions": []}]}

    _, failed, said = playbook.run(play=alone)

    assert failed == 1
    assert "The role service is internal" in said


def test_failure_names_host_service_reason_and_cure(host: Host, playbook: Playbook, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    playbook.role("website", [host.service("web")])

    _, failed, said = playbook.run()

    assert failed == 1
    assert "edge-01: service web: it ended (exit status 21)" in said
    assert "the disk of the moon is full" in said
    assert "Cure: correct what" in said
