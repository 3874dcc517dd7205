"""Bare Debian hosts as containers, each with systemd, an address and an SSH key, on a network without a way out.

All that a fleet makes in Docker carries its label, so that it can be found again, and removed without touching others.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import NotFound

from icosfl.errors import RunFailed
from support.hosts.access import RUNTIME, Access, Line
from support.hosts.base_image import base_image
from support.hosts.container import Completed, Container
from support.hosts.engine import LABEL
from support.hosts.engine_image import engine_images
from support.hosts.image import host_images
from support.hosts.network import first_address, make_network

DEFAULT_RELEASES = ("bookworm", "trixie", "bookworm")
CONTROLLER = "control"  # not `controller`: Ansible warns where a host is named like a group
_PARALLEL = 4
_BOOT_SECONDS = 120.0  # a second on an idle machine
_KEPT = ("name", "address", "release", "group", "runtime")  # of a host, in its container's labels


@dataclass(frozen=True, slots=True)
class Host:
    """One bare host: `group` is `controller` or `workers`, `release` its Debian's code name.

    `runtime` is how it runs its services: systemd, docker, or either, as a playbook says. The last two can run Docker.
    """

    name: str
    address: str
    release: str
    group: str
    runtime: str
    container: str


def host_names(number: int) -> list[str]:
    """The names of a fleet's hosts: the controller, and workers."""
    return [CONTROLLER, *(f"worker-{worker}" for worker in range(1, number))]


class HostFleet:
    """A fleet's hosts, what can be done to them, and the inventory that describes them.

    Args:
        engine: Docker.
        name: The fleet's name: the prefix of its containers and its network.
        directory: Where `inventory/`, `ssh/` with the key, and known_hosts are written.
        variables: More variables for the inventory's group_vars.
    """

    def __init__(
        self,
        engine: docker.DockerClient,
        name: str,
        directory: Path,
        variables: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.access = Access(directory, dict(variables or {}))
        self._engine = engine
        self._hosts: dict[str, Host] = {}
        self._find_hosts()

    # --- the fleet ---------------------------------------------------------------------------------------------------

    @property
    def hosts(self) -> tuple[Host, ...]:
        """All hosts, the controller first."""
        return tuple(self._hosts.values())

    @property
    def inventory(self) -> Path:
        """The inventory's directory, for `ansible-playbook -i`."""
        return self.access.inventory

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def up(
        self,
        releases: Sequence[str] = DEFAULT_RELEASES,
        docker: Collection[str] = (),
        *,
        engine: bool = True,
        runtime: str = "docker",
    ) -> HostFleet:
        """Make the fleet anew: a controller and workers, one host a release. What bears its name is removed first.

        Args:
            releases: The Debian of each host.
            docker: The names of the hosts that can run Docker.
            engine: Whether these have Docker Engine already.
            runtime: How these run their services: docker, or either.

        Raises:
            NoContainers: an image is missing and cannot be built here.
            RunFailed: a host does not boot.
        """
        self.down()
        names = host_names(len(releases))
        images = self._images(
            [(release, name in docker) for name, release in zip(names, releases, strict=True)], engine
        )
        network = make_network(self._engine, self.name, self._labels)
        hosts = [
            self._host(name, release, first_address(network, number), runtime if name in docker else RUNTIME)
            for number, (name, release) in enumerate(zip(names, releases, strict=True))
        ]
        self.access.make_key()
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda host: self._create(host, images[host.release, host.name in docker]), hosts))
        self._hosts = {host.name: host for host in hosts}
        self._write_access()
        return self

    def add_host(self, name: str, release: str = "bookworm", *, docker: bool = False) -> Host:
        """Add a worker to the running fleet, and to its inventory."""
        images = self._images([(release, docker)])
        network = self._engine.networks.get(self.name)
        taken = {host.address for host in self.hosts}
        numbers = (first_address(network, number) for number in range(len(taken) + 1))
        runtime = "docker" if docker else RUNTIME
        host = self._host(name, release, next(address for address in numbers if address not in taken), runtime)
        self._create(host, images[release, docker])
        self._hosts[name] = host
        self._write_access()
        return host

    def remove_host(self, name: str) -> None:
        """Remove a host's container and its line in the inventory: the machine is gone for good."""
        self._container(name).remove()
        del self._hosts[name]
        self._write_access()

    def down(self) -> None:
        """Remove the fleet's containers, its network and the files it wrote; nothing else."""
        ours = {"label": f"{LABEL}={self.name}"}
        containers = self._engine.containers.list(all=True, filters=ours, ignore_removed=True)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda container: container.remove(force=True, v=True), containers))
        for network in self._engine.networks.list(filters=ours):
            network.remove()
        self._hosts = {}
        self.access.remove()

    # --- inside a host -----------------------------------------------------------------------------------------------

    def run(
        self, name: str, argv: Sequence[str], *, user: str = "root", check: bool = True, stdin: bytes = b""
    ) -> Completed:
        """Run a command in a host, past SSH.

        Raises:
            RunFailed: the command failed, and `check` asks that it does not.
        """
        return self._container(name).run(argv, user=user, check=check, stdin=stdin)

    def read(self, name: str, path: str) -> str:
        """A file's text."""
        return self.run(name, ["cat", path]).stdout

    def write(self, name: str, path: str, text: str) -> None:
        """Write a file as root; its directory is made where it is missing."""
        self.run(name, ["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path], stdin=text.encode())

    def files(self, name: str, *directories: str) -> dict[str, str]:
        """Every file and directory below these: owner, group, mode, size, time of change and target of a link.

        What two calls differ in is what was changed between them.
        """
        listed = self.run(
            name, ["find", *directories, "-xdev", "-printf", r"%p\t%u:%g %m %s %T@ %l\n"], check=False
        ).stdout
        return dict(line.split("\t", 1) for line in listed.splitlines())

    def changes(self, name: str) -> dict[str, str]:
        """What differs from the bare host on its disk, not in memory like /run: path, and added, changed or deleted."""
        return self._container(name).changes()

    def state(self, name: str) -> str:
        """What the host does: running, paused, exited."""
        return self._container(name).state

    def ssh(self, name: str, *argv: str) -> list[str]:
        """The command that runs a command in the host by SSH, as an operator would, the host's key checked."""
        return self.access.ssh(self[name].address, *argv)

    # --- faults ------------------------------------------------------------------------------------------------------

    def cut(self, name: str) -> None:
        """Pull the host's network cable."""
        self._engine.networks.get(self.name).disconnect(self[name].container)

    def heal(self, name: str) -> None:
        """Plug the cable in again. The address is the same; the interface's name need not be."""
        self._engine.networks.get(self.name).connect(self[name].container, ipv4_address=self[name].address)
        self.wait(name)

    def kill(self, name: str) -> None:
        """Cut the host's power."""
        self._container(name).kill()

    def stop(self, name: str) -> None:
        """Shut the host down in order."""
        self._container(name).stop()

    def start(self, name: str) -> None:
        """Switch the host on, and wait for it."""
        self._container(name).start()
        self.wait(name)

    def pause(self, name: str) -> None:
        """Hang the host: its connections stay and nothing answers."""
        self._container(name).pause()

    def unpause(self, name: str) -> None:
        """Let a hung host go on."""
        self._container(name).unpause()

    def reboot(self, name: str) -> None:
        """Reboot the host as `systemctl reboot` does, and wait until it is back."""
        container = self._container(name)
        before = container.started_at
        container.run(["systemctl", "reboot"], check=False)
        deadline = time.monotonic() + _BOOT_SECONDS
        while container.started_at == before or not container.is_running:
            if time.monotonic() > deadline:
                raise RunFailed(f"{name} did not come back from its reboot within {_BOOT_SECONDS:g} s")
            time.sleep(0.1)
        self.wait(name)

    def wait(self, name: str) -> None:
        """Wait until the host has booted and its SSH answers.

        Raises:
            RunFailed: it does not in time; the message names what failed in it.
        """
        self._container(name).wait_until_up(self[name].address, _BOOT_SECONDS)

    # --- within ------------------------------------------------------------------------------------------------------

    @property
    def _labels(self) -> dict[str, str]:
        return {LABEL: self.name}

    def _host(self, name: str, release: str, address: str, runtime: str) -> Host:
        group = "controller" if name == CONTROLLER else "workers"
        return Host(name, address, release, group, runtime, f"{self.name}-{name}")

    def _images(self, kinds: Collection[tuple[str, bool]], engine: bool = True) -> dict[tuple[str, bool], str]:
        """The image of each kind of host: its release, and whether it runs Docker."""
        bare = host_images(self._engine, [release for release, _ in kinds])
        equipped = engine_images(self._engine, [release for release, docker in kinds if docker]) if engine else bare
        return {(release, docker): (equipped if docker else bare)[release] for release, docker in kinds}

    def _container(self, name: str) -> Container:
        return Container(self._engine, self[name].container)

    def _create(self, host: Host, image: str) -> None:
        labels = {
            **self._labels,
            **{f"{LABEL}.{key}": getattr(host, key) for key in _KEPT},
        }
        container = Container.create(
            self._engine,
            host.container,
            host.name,
            image,
            self.name,
            host.address,
            labels,
            docker=host.runtime != RUNTIME,
        )
        container.start()
        container.wait_until_up(host.address, _BOOT_SECONDS)
        public = self.access.public_key.encode()
        container.run(["sh", "-c", "umask 077 && cat >~/.ssh/authorized_keys"], user="deploy", stdin=public)

    def _find_hosts(self) -> None:
        """Know the hosts of this name that are there, made by whatever process."""
        for container in self._labelled():
            label = {key: container.labels.get(f"{LABEL}.{key}") for key in _KEPT}
            if all(label.values()):  # else an earlier version of this made it: all that can be done is to remove it
                self._hosts[label["name"]] = Host(container=container.name, **label)
        self._hosts = dict(sorted(self._hosts.items(), key=lambda item: (item[1].group, item[0])))

    def _labelled(self) -> Iterator[Any]:
        try:
            yield from self._engine.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"})
        except NotFound:  # removed while they were listed
            return

    def _write_access(self) -> None:
        keys = {host.name: self.read(host.name, "/etc/ssh/ssh_host_ed25519_key.pub") for host in self.hosts}
        lines = [
            Line(host.name, host.address, host.group, host.runtime == "docker", keys[host.name]) for host in self.hosts
        ]
        has_docker = any(host.runtime != RUNTIME for host in self.hosts)
        # what no registry has to be asked for
        self.access.write(lines, {"icosfl_base_image": base_image(self._engine)} if has_docker else {})
