"""How a fleet's hosts are reached: the operator's key, the hosts' own keys, and an inventory that names both."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

USER = "deploy"
ENVIRONMENT = "fleet"  # the inventory's top group
RUNTIME = "systemd"  # of hosts whose line says nothing else


@dataclass(frozen=True, slots=True)
class Line:
    """A host's line in the inventory, whether its services run in Docker, and its own public key."""

    name: str
    address: str
    group: str
    in_docker: bool
    public_key: str


class Access:
    """The files beside a fleet.

    Args:
        directory: Where they lie.
        variables: More variables for the inventory's group_vars.
    """

    def __init__(self, directory: Path, variables: dict[str, object]) -> None:
        self.inventory = directory / "inventory"
        self.key = directory / "ssh" / "id_ed25519"
        self.known_hosts = directory / "ssh" / "known_hosts"
        self._variables = variables

    @property
    def public_key(self) -> str:
        """The operator's public key, one line."""
        return self.key.with_suffix(".pub").read_text(encoding="utf-8")

    @property
    def options(self) -> list[str]:
        """SSH's options: only known hosts, and nothing of the operator's own configuration."""
        files = {"UserKnownHostsFile": str(self.known_hosts), "GlobalKnownHostsFile": "/dev/null"}
        return [
            word
            for name, value in {**files, "StrictHostKeyChecking": "yes"}.items()
            for word in ("-o", f"{name}={value}")
        ]

    def make_key(self) -> None:
        """Make the operator's key."""
        self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f", str(self.key)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

    def ssh(self, address: str, *argv: str) -> list[str]:
        """The command that runs a command on a host."""
        own = ["-F", "/dev/null", "-i", str(self.key), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
        return ["ssh", *own, *self.options, f"{USER}@{address}", *argv]

    def write(self, hosts: Iterable[Line], variables: Mapping[str, object]) -> None:
        """Write known_hosts and the inventory, with these variables besides its own."""
        groups: dict[str, dict[str, dict[str, str]]] = {"controller": {}, "workers": {}}
        known = []
        for host in hosts:
            own = {"icosfl_runtime": "docker"} if host.in_docker else {}
            groups[host.group][host.name] = {"ansible_host": host.address, **own}
            known.append(f"{host.address} {' '.join(host.public_key.split()[:2])}\n")
        self.known_hosts.write_text("".join(known), encoding="utf-8")
        children = {group: {"hosts": members} for group, members in groups.items() if members}
        tree = {ENVIRONMENT: {"children": {"nodes": {"children": children}}}}
        facts = {
            "ansible_user": USER,
            "ansible_become": True,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": " ".join(self.options),
            "ansible_python_interpreter": "/usr/bin/python3",
            "icosfl_runtime": RUNTIME,
            **variables,
            **self._variables,
        }
        for path, content in ((self.inventory / "hosts.yml", tree), (self._group_vars, facts)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(content, sort_keys=False, width=160), encoding="utf-8")

    def remove(self) -> None:
        """Remove what was written."""
        for folder in (self.inventory, self.key.parent):
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _group_vars(self) -> Path:
        return self.inventory / "group_vars" / f"{ENVIRONMENT}.yml"
