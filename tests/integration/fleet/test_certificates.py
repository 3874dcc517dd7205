"""Keys made by hosts and certificates signed on the control node, by the real modules under ansible-playbook."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from icosfl.fleet.pki import read_certificate

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
SERVICES = ("superlink", "otlp_bridge")
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "identity": {
                    "directory": "{{ home }}",
                    "host": "{{ inventory_hostname }}",
                    "tls_keys": {each: f"{{{{ home }}}}/{each}.key" for each in SERVICES},
                    "certificates": {each: f"{{{{ home }}}}/{each}.crt" for each in SERVICES},
                    "node_keys": ["{{ home }}/supernode.key"],
                    "secrets": ["{{ home }}/executor.secret"],
                }
            },
            {
                "certificate": {
                    "directory": "{{ pki }}",
                    "authority": "fleet",
                    "host": "{{ inventory_hostname }}",
                    "services": {"superlink": [], "otlp_bridge": ["192.0.2.1"]},
                    "days": 30,
                    "requests": "{{ ansible_facts.identity.requests }}",
                    "present": "{{ ansible_facts.identity.certificates }}",
                    "renew": "{{ renew | default(false) }}",
                },
                "register": "signed",
            },
            {
                "ansible.builtin.copy": {
                    "content": "{{ signed.certificates[item] }}",
                    "dest": "{{ home }}/{{ item }}.crt",
                    "mode": "0600",
                },
                "loop": list(SERVICES),
                "when": "not ansible_check_mode",
            },
        ],
    }
]


@dataclass(frozen=True)
class Operator:
    """Who runs the playbook on two logical hosts of this machine."""

    directory: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it, with all that Ansible can say."""
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        command = [str(BIN / "ansible-playbook"), "play.yml", "-i", "hosts.yml", "-vvv", *arguments]
        return subprocess.run(
            command, cwd=self.directory, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def certificate(self, host: str, service: str) -> str:
        """What was signed for a service of a host."""
        return (self.directory / f"hosts/{host}/{service}.crt").read_text()


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    directory = tmp_path_factory.mktemp("operator")
    values = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_remote_tmp": str(directory / "tmp"),
        "home": f"{directory}/hosts/{{{{ inventory_hostname }}}}",
        "pki": f"{directory}/pki",
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": {"hub": {}, "edge": {}}, "vars": values}}))
    (directory / "play.yml").write_text(yaml.safe_dump(PLAY))
    (directory / "password").write_text("password")
    return Operator(directory)


def test_a_check_makes_nothing(operator: Operator) -> None:
    done = operator.run("--check")

    assert done.returncode == 0, done.stdout + done.stderr
    assert not (operator.directory / "hosts").exists()
    assert not (operator.directory / "pki").exists()


def test_hosts_get_certificates_and_no_private_key_travels(operator: Operator) -> None:
    done = operator.run()

    assert done.returncode == 0, done.stdout + done.stderr
    assert "PRIVATE KEY" not in done.stdout
    private = [operator.directory / "pki/ca.key", *operator.directory.glob("hosts/*/*.key")]
    private += operator.directory.glob("hosts/*/executor.secret")
    assert len(private) == 9
    told = done.stdout + "".join(file.read_text() for file in operator.directory.glob("hosts/*/*.crt"))
    for file in private:
        assert not [line for line in file.read_text().splitlines() if "-----" not in line and line in told], file
    ca_key = (operator.directory / "pki/ca.key").read_text().splitlines()[1]
    assert not [
        file for file in operator.directory.rglob("hosts/**/*") if file.is_file() and ca_key in file.read_text()
    ]


def test_each_service_has_a_certificate_for_its_own_names(operator: Operator) -> None:
    for host in ("hub", "edge"):
        names = {each: read_certificate(operator.certificate(host, each)).names for each in SERVICES}

        assert names["otlp_bridge"] - names["superlink"] == {"192.0.2.1"}
        assert host in names["superlink"]


def test_a_second_run_signs_nothing(operator: Operator) -> None:
    done = operator.run()

    assert done.stdout.count("changed=0") == 2, done.stdout


def test_an_encrypted_ca_key_signs_only_with_the_vaults_password(operator: Operator) -> None:
    key = operator.directory / "pki/ca.key"
    vault = ["--vault-password-file", str(operator.directory / "password")]
    subprocess.run([str(BIN / "ansible-vault"), "encrypt", *vault, str(key)], check=True, capture_output=True)

    kept = operator.run()
    assert kept.stdout.count("changed=0") == 2, kept.stdout  # what needs no signature needs no password
    before = {each: operator.certificate("edge", each) for each in SERVICES}
    refused = operator.run("-e", "renew=true")
    assert refused.returncode != 0
    assert "--ask-vault-pass" in refused.stdout + refused.stderr
    renewed = operator.run("-e", "renew=true", *vault)
    assert renewed.returncode == 0, renewed.stdout + renewed.stderr
    assert renewed.stdout.count("changed=2") == 2
    assert all(operator.certificate("edge", each) != before[each] for each in SERVICES)
    assert key.read_text().startswith("$ANSIBLE_VAULT")
    assert key.stat().st_mode & 0o777 == 0o600


def test_what_was_signed_for_a_host_that_leaves_is_forgotten(operator: Operator) -> None:
    leave = {"directory": "{{ pki }}", "host": "{{ inventory_hostname }}", "state": "absent"}
    play = [{"hosts": "edge", "gather_facts": False, "tasks": [{"certificate": leave}]}]
    (operator.directory / "play.yml").write_text(yaml.safe_dump(play))

    asked, left, again = operator.run("--check"), operator.run(), operator.run()

    assert asked.stdout.count("changed=1") == left.stdout.count("changed=1") == again.stdout.count("changed=0") == 1
    kept = {file.name for file in (operator.directory / "pki/issued").iterdir()}
    assert kept == {f"hub.{service}.crt" for service in SERVICES}
