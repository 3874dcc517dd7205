"""Hosts that cannot carry the fleet: one good host, and one that is bad in many ways."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

from support.hosts.fleet import CONTROLLER, HostFleet

_OLD = "import sys; sys.version_info = (3, 8, 20); "
# Containers have their machine's clock, so a host with a wrong one is a Python that reads it wrongly.
_LATE = "import time; now = time.time; time.time = lambda: now() - 90; "
_PORT = 21999


class BadHosts:
    """Each way to be bad has a name and a slot of its own in the inventory, so that each host has one fault.

    Args:
        fleet: A controller, which stays good, and a worker, which is made bad.
        directory: Where the inventory is written.
    """

    def __init__(self, fleet: HostFleet, directory: Path) -> None:
        self.fleet = fleet
        self.inventory = directory / "inventory"
        self.good, self.bad = (host.name for host in fleet.hosts)
        self._directory = directory
        self._spoil()
        self._write()
        for name in (self.good, self.bad):  # the first login of all writes a little on its own
            subprocess.run(fleet.ssh(name, "sudo -n true"), check=True, stdin=subprocess.DEVNULL)

    def state(self, host: str) -> tuple[object, ...]:
        """All that is on a host's disk, but for what every login writes, and in small file systems on it."""
        changes = {path: kind for path, kind in self.fleet.changes(host).items() if not path.startswith("/var/log")}
        return changes, self.fleet.files(host, "/etc", "/home", "/opt", "/root", "/srv", "/usr/local", "/var/lib")

    def _spoil(self) -> None:
        self._run("useradd --create-home stranger && cp -r ~deploy/.ssh ~stranger/ && chown -R stranger ~stranger/.ssh")
        self._run("mkdir /opt/icosfl && mount -t tmpfs -o size=8m tmpfs /opt/icosfl")
        for name, first in (("old", _OLD), ("late", _LATE)):
            # called as `python -EsB -c TEXT`
            text = f'#!/bin/sh\nexec /usr/bin/python3 "$1" "$2" "{first}$3"\n'
            self.fleet.write(self.bad, f"/usr/local/bin/python-{name}", text)
        self._run("chmod 755 /usr/local/bin/python-*")
        listen = f"import socket, time; server = socket.create_server(('0.0.0.0', {_PORT})); time.sleep(9999)"
        self._run(f'systemd-run --quiet --unit=squatter python3 -c "{listen}"')

    def _run(self, script: str) -> None:
        self.fleet.run(self.bad, ["sh", "-ec", script])

    def _write(self) -> None:
        workers = {}
        for slot, (name, variables) in enumerate(self._variables().items(), 1):
            # /opt/icosfl is too small for all of them
            roomy = {} if name == "small-disk" else {"icosfl_install_dir": "/srv/icosfl"}
            workers[name] = {"ansible_host": self.fleet[self.bad].address, "icosfl_slot": slot, **roomy, **variables}
        address = self.fleet[self.good].address
        control: dict[str, dict[str, Any]] = {CONTROLLER: {"ansible_host": address}}
        # two logical hosts of one machine, both good
        workers["neighbour"] = {"ansible_host": address, "icosfl_slot": 1}
        groups = {"controller": {"hosts": control}, "workers": {"hosts": workers}}
        self.inventory.mkdir()
        text = yaml.safe_dump({"fleet": {"children": {"nodes": {"children": groups}}}}, sort_keys=False)
        (self.inventory / "hosts.yml").write_text(text, encoding="utf-8")
        (self.inventory / "group_vars").symlink_to(self.fleet.inventory / "group_vars")

    def _variables(self) -> dict[str, dict[str, Any]]:
        """What is wrong with each."""
        address, access = self.fleet[self.bad].address, self.fleet.access
        known, key = self._directory / "known_hosts", self._directory / "key"
        text = access.known_hosts.read_text(encoding="utf-8").replace(address, "elsewhere")
        known.write_text(text.replace(self.fleet[self.good].address, address), encoding="utf-8")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        python = "ansible_python_interpreter"
        alone = {"ansible_ssh_extra_args": "-o ControlPath=none"}  # no connection of another name of the same host
        return {
            "unreachable": {"ansible_host": f"{address.rpartition('.')[0]}.200"},
            "other-key": {"ansible_ssh_private_key_file": str(key), **alone},
            "other-host-key": {
                "ansible_ssh_common_args": " ".join(access.options).replace(str(access.known_hosts), str(known)),
                **alone,
            },
            "no-sudo": {"ansible_user": "stranger"},
            "small-disk": {},
            "no-python": {python: "/usr/bin/python3.99"},
            "old-python": {python: "/usr/local/bin/python-old"},
            "late-clock": {python: "/usr/local/bin/python-late"},
            "taken-port": {"icosfl_port_overrides": {"forecast": _PORT}},
        }
