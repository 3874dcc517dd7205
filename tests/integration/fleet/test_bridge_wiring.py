"""Where a bridge listens for other hosts, and what proves it there: the inventory makes a service and its files."""

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
from pydantic import TypeAdapter

from icosfl.config import BridgeConfig
from icosfl.fleet.service import Service, services_of

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[3]
HOSTS = {
    "closed": {"icosfl_runtime": "systemd"},
    "unit": {"icosfl_runtime": "systemd", "icosfl_otlp_listen": "192.0.2.7"},
    "container": {"icosfl_runtime": "docker", "icosfl_otlp_listen": "192.0.2.8"},
}
FACTS = ("icosfl_tls_services", "host_base_ports", "host_metrics_certificates")
PLAY = """
- name: Declare the bridges
  hosts: nodes
  gather_facts: false
  roles:
    - role: otlp_bridge
  tasks:
    - name: Write what they declared, and facts that go with it
      ansible.builtin.copy:
        content: "{{ {'declared': ansible_facts.declared, 'facts': found} | to_json }}"
        dest: "{{ playbook_dir }}/{{ inventory_hostname }}.json"
        mode: "0600"
      delegate_to: localhost
"""


@dataclass(frozen=True)
class Declared:
    """What the role wants of one host, and what else is said of the host."""

    of_bridge: dict[str, Any]
    facts: dict[str, Any]

    @property
    def service(self) -> Service:
        """The bridge."""
        (service,) = services_of(self.of_bridge["services"])
        return service

    @property
    def config(self) -> BridgeConfig:
        """Its configuration, as it reads it."""
        return TypeAdapter(BridgeConfig).validate_python(tomllib.loads(self.of_bridge["files"][0]["content"]))

    @property
    def asked(self) -> list[str]:
        """Where `icosfl verify` asks."""
        return [question["address"] for question in self.of_bridge["questions"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs the play on these hosts, with further variables."""

    def play(*more: str) -> tuple[subprocess.CompletedProcess[str], Path]:
        scratch = tmp_path_factory.mktemp("wiring")
        facts = {name: f"{{{{ {name} }}}}" for name in FACTS}
        own = {"ansible_connection": "local", "found": facts}
        groups = {"controller": {"hosts": {}}, "workers": {"hosts": HOSTS}}
        (scratch / "inventory.yml").write_text(yaml.safe_dump({"nodes": {"children": groups, "vars": own}}))
        (scratch / "play.yml").write_text(PLAY)
        (scratch / "group_vars").symlink_to(ROOT / "group_vars")
        command = [str(Path(sys.executable).parent / "ansible-playbook"), str(scratch / "play.yml")]
        done = subprocess.run(
            [*command, "-i", str(scratch / "inventory.yml"), *more],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        return done, scratch

    return play


@pytest.fixture(scope="module")
def declared(run) -> dict[str, Declared]:
    done, scratch = run()
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    found = {name: json.loads((scratch / f"{name}.json").read_text()) for name in HOSTS}
    return {name: Declared(each["declared"]["otlp_bridge"], each["facts"]) for name, each in found.items()}


def test_without_the_variable_nobody_outside_is_listened_to(declared) -> None:
    host = declared["closed"]

    assert host.config.tls is None
    assert set(host.service.ports) == {"otlp", "bridge_metrics"}
    assert host.facts["icosfl_tls_services"] == []
    assert set(host.facts["host_metrics_certificates"]) == {"ca"}
    assert "otlp_remote" not in host.facts["host_base_ports"]
    assert host.asked == ["127.0.0.1:4317"]


@pytest.mark.parametrize("name", ["unit", "container"])
def test_with_it_the_bridge_has_a_second_port_with_a_certificate_for_its_names(declared, name) -> None:
    host = declared[name]
    tls, (signed,) = host.config.tls, host.facts["icosfl_tls_services"]

    assert (str(tls.certificate), str(tls.key)) == (signed["certificate"], signed["key"])
    assert signed["names"][-1] == HOSTS[name]["icosfl_otlp_listen"]
    assert host.facts["host_metrics_certificates"]["otlp_bridge"] == signed["certificate"]
    assert host.facts["host_base_ports"]["otlp_remote"] == host.service.ports["otlp_remote"] == tls.listen.port


@pytest.mark.parametrize("name", ["unit", "container"])
def test_the_bridge_may_read_what_proves_it_and_starts_anew_with_a_new_certificate(declared, name) -> None:
    host = declared[name]
    tls, service = host.config.tls, host.service

    assert {str(tls.certificate), str(tls.authority)} < set(service.files)
    assert service.reads == (str(tls.key),)


def test_only_the_second_port_leaves_the_host(declared) -> None:
    unit, container = declared["unit"], declared["container"]

    assert (unit.config.listen.host, unit.config.tls.listen.host) == ("127.0.0.1", "192.0.2.7")
    assert {container.config.listen.host, container.config.tls.listen.host} == {"otlp-bridge"}
    assert container.service.publish == {
        "otlp": "127.0.0.1",
        "bridge_metrics": "127.0.0.1",
        "otlp_remote": "192.0.2.8",
    }
    assert container.asked == ["127.0.0.1:4317", "192.0.2.8:4316"]


def test_a_plain_port_beyond_the_host_is_refused_with_the_cure(run) -> None:
    done, _ = run("-e", "icosfl_listen=192.0.2.9")

    text = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "takes metrics at 192.0.2.9 on unit" in text
    assert "takes metrics at 192.0.2.9 on container" in text  # at that address Docker would offer it
    assert "give otlp_bridge_remote_listen_host" in text


def test_a_port_for_others_without_a_certificate_is_refused(run) -> None:
    done, _ = run("-e", "otlp_bridge_key_file=")

    text = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "shall listen on 192.0.2.7, and otlp_bridge_key_file is not set" in text
