"""Whoever measures a host and whatever brings it to the bridge: what the inventory chooses makes exactly one path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from icosfl.fleet.service import Service, services_of
from support.otelcol_shape import checked

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[3]
CHOICES = [
    ("embedded", "embedded", "docker"),
    ("node_exporter", "rotel", "docker"),
    ("scaphandre", "rotel", "systemd"),
    ("embedded", "otelcol", "docker"),
    ("node_exporter", "otelcol", "systemd"),
    ("scaphandre", "otelcol", "docker"),
]
PLAY = """
- name: Declare what measures the hosts
  hosts: nodes
  gather_facts: false
  roles:
    - role: otel_collector
      when: icosfl_collector != 'embedded'
    - role: host_metrics
  tasks:
    - name: Write what they declared
      ansible.builtin.copy:
        content: "{{ ansible_facts.declared | to_json }}"
        dest: "{{ playbook_dir }}/{{ inventory_hostname }}.json"
        mode: "0600"
      delegate_to: localhost
"""
FILE = {"version": "0.130.0", "file": "/srv/otelcol-contrib", "sha256": "0" * 64}


@dataclass(frozen=True)
class Declared:
    """What the roles want of one host."""

    facts: dict[str, Any]

    def service(self, role: str) -> Service:
        """The role's only service."""
        (service,) = services_of(self.facts[role]["services"])
        return service

    @property
    def collect(self) -> dict[str, Any]:
        """The configuration of icosfl.collect."""
        return tomllib.loads(self.facts["host_metrics"]["files"][0]["content"])

    @property
    def otelcol(self) -> dict[str, Any]:
        """The configuration of otelcol."""
        return dict(yaml.safe_load(self.facts["otel_collector"]["files"][0]["content"]))

    def into_the_bridge(self) -> list[str]:
        """Every address to which this host's services send metrics, by who sends."""
        found = [f"{push['host']}:{push['port']}"] if (push := self.collect.get("push_to")) else []
        if "otel_collector" in self.facts:
            command = self.service("otel_collector").command
            if "--otlp-exporter-endpoint" in command:
                found.append(command[command.index("--otlp-exporter-endpoint") + 1].removeprefix("http://"))
            else:
                found.append(checked(self.otelcol).exporters.bridge.endpoint)
        return [address for address in found if address.endswith(":4317")]


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], Declared]:
    scratch = tmp_path_factory.mktemp("wiring")
    names = {choice: "-".join(choice).replace("_", "-") for choice in CHOICES}
    hosts = {
        name: {"icosfl_host_metrics": measured, "icosfl_collector": collector, "icosfl_runtime": runtime}
        for (measured, collector, runtime), name in names.items()
    }
    own = {"ansible_connection": "local", "icosfl_part_files": {"otelcol": FILE}}
    groups = {"controller": {"hosts": {}}, "workers": {"hosts": hosts}}
    (scratch / "inventory.yml").write_text(yaml.safe_dump({"nodes": {"children": groups, "vars": own}}))
    (scratch / "play.yml").write_text(PLAY)
    (scratch / "group_vars").symlink_to(ROOT / "group_vars")
    command = [str(Path(sys.executable).parent / "ansible-playbook"), str(scratch / "play.yml"), "-f", "2"]
    done = subprocess.run(
        [*command, "-i", str(scratch / "inventory.yml")],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return {choice: Declared(json.loads((scratch / f"{name}.json").read_text())) for choice, name in names.items()}


EACH = pytest.mark.parametrize("choice", CHOICES, ids="-".join)


@EACH
def test_one_path_feeds_the_bridge(declared, choice) -> None:
    assert len(declared[choice].into_the_bridge()) == 1


@EACH
def test_whoever_pushes_finds_somebody_who_listens(declared, choice) -> None:
    host = declared[choice]
    push = host.collect.get("push_to")

    if choice[1] == "embedded":
        assert push == {"host": "127.0.0.1", "port": 4317}
    elif push:
        ports = host.service("otel_collector").ports
        assert push == {"host": "127.0.0.1", "port": ports["collector_otlp"]}
    else:
        assert choice[:2] == ("scaphandre", "otelcol")


@EACH
def test_one_asks_the_exporter(declared, choice) -> None:
    host = declared[choice]
    askers = ["host_metrics"] if host.collect["source"] == "both" else []
    if choice[1] == "otelcol" and "prometheus" in host.otelcol["receivers"]:
        askers.append("otel_collector")

    assert len(askers) == (choice[0] != "embedded")


@pytest.mark.parametrize("choice", [each for each in CHOICES if each[1] == "otelcol"], ids="-".join)
def test_otelcols_configuration_has_the_documented_shape_and_its_service_what_it_needs(declared, choice) -> None:
    host = declared[choice]
    shape, service = checked(host.otelcol), host.service("otel_collector")
    directory = shape.extensions.file_storage.directory

    assert service.writes == (directory,)
    assert directory in [each["path"] for each in host.facts["otel_collector"]["directories"]]
    assert service.files == (host.facts["otel_collector"]["files"][0]["path"],)
    assert service.limits.memory_max_mb is None  # they are the fleet's
    assert shape.processors.memory_limiter.limit_mib < 256
    assert service.health.port == int(shape.extensions.health_check.endpoint.rpartition(":")[2])
    scrapes = shape.receivers.prometheus is not None
    assert service.sees_host == scrapes
    assert (shape.processors.asked is not None) == scrapes
    assert (shape.extensions.health_check.endpoint.startswith("otel-collector:")) == (
        choice[2] == "docker" and not scrapes
    )


@pytest.mark.parametrize("choice", [each for each in CHOICES if each[1] == "rotel"], ids="-".join)
def test_rotel_listens_at_a_number_for_it_takes_no_names(declared, choice) -> None:
    service = declared[choice].service("otel_collector")
    where = service.command[service.command.index("--otlp-grpc-endpoint") + 1]

    assert where == ("0.0.0.0:4319" if choice[2] == "docker" else "127.0.0.1:4319")
    assert service.publish["collector_otlp"] == service.health.host == "127.0.0.1"
