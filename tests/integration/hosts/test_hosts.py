"""The containers that stand for hosts behave as hosts do: only then do tests on them prove anything."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from urllib.parse import urlsplit

import docker
import pytest
import yaml

from icosfl.errors import RunFailed
from support.hosts import HostFleet, machine
from support.hosts.engine import LABEL
from support.hosts.fixtures import MakeFleet

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]  # the first test may install Docker and build images


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def unit(fleet: HostFleet, host: str, *words: str) -> int:
    """The exit code of a program that systemd runs as a unit with these properties."""
    return fleet.run(host, ["systemd-run", "--quiet", "--wait", "--collect", *words], check=False).code


def answers(address: str, port: int) -> bool:
    """Whether somebody listens there, or begins to within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as connection:
            if connection.connect_ex((address, port)) == 0:
                return True
        time.sleep(0.1)
    return False


def mounts() -> list[str]:
    """The machine's mounts, without those that Docker makes for itself."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not re.search(r" (/var/lib/docker|/run/docker)\b", line)]


def test_a_bare_host_has_ssh_python_and_sudo_and_its_release(fleet: HostFleet) -> None:
    for host in fleet.hosts:
        done = call(fleet.ssh(host.name, "sudo -n id -un; python3 -m venv --help >/dev/null; cat /etc/os-release"))

        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("root\n")
        assert f"VERSION_CODENAME={host.release}\n" in done.stdout
        assert fleet.run(host.name, ["python3", "-c", "import ensurepip"], check=False).code == 1
        assert fleet.run(host.name, ["sh", "-c", "command -v pip3 redis-server docker"], check=False).stdout == ""


def test_ansible_reaches_every_host_by_the_written_inventory(fleet: HostFleet) -> None:
    done = call(["ansible", "nodes", "-i", str(fleet.inventory), "-m", "ansible.builtin.ping"])

    assert done.stdout.count("SUCCESS") == len(fleet.hosts), done.stdout + done.stderr


def test_a_host_whose_key_is_another_or_unknown_is_refused(fleet: HostFleet, tmp_path: Path) -> None:
    control, worker = fleet.hosts
    known = fleet.access.known_hosts.read_text(encoding="utf-8")
    forged = tmp_path / "known_hosts"
    for text, complaint in (
        (known.replace(worker.address, "other").replace(control.address, worker.address), "HAS CHANGED"),
        ("", "host key is known"),
    ):
        forged.write_text(text, encoding="utf-8")
        command = [word.replace(str(fleet.access.known_hosts), str(forged)) for word in fleet.ssh(worker.name, "true")]

        done = call(command)

        assert done.returncode == 255
        assert complaint in done.stderr


def test_a_host_does_not_reach_what_the_machine_reaches(fleet: HostFleet) -> None:
    site = urlsplit(machine.mirror())
    address = socket.gethostbyname(str(site.hostname))
    port = site.port or {"http": 80, "https": 443}[site.scheme]
    socket.create_connection((address, port), timeout=30).close()
    connect = f"import socket; socket.create_connection(('{address}', {port}), timeout=3)"

    for host in fleet.hosts:
        assert "timed out" in fleet.run(host.name, ["python3", "-c", connect], check=False).stderr
        assert fleet.run(host.name, ["getent", "hosts", str(site.hostname)], check=False).stdout == ""


def test_systemd_enforces_limits_and_sandboxes(fleet: HostFleet) -> None:
    fill = ["python3", "-c", "bytearray(200 << 20)"]
    for host in fleet.hosts:
        assert unit(fleet, host.name, "-p", "MemoryMax=400M", *fill) == 0
        assert unit(fleet, host.name, "-p", "MemoryMax=50M", "-p", "MemorySwapMax=0", *fill) != 0
        assert unit(fleet, host.name, "-p", "ProtectSystem=strict", "touch", "/etc/written") != 0
        writable = ["-p", "ProtectSystem=strict", "-p", "ReadWritePaths=/etc"]
        assert unit(fleet, host.name, *writable, "touch", "/etc/written") == 0


def test_a_rebooted_host_is_back_with_its_key_its_disk_and_an_empty_memory(fleet: HostFleet) -> None:
    for host in fleet.hosts:
        fleet.write(host.name, "/etc/kept", "kept\n")
        fleet.write(host.name, "/run/lost", "lost\n")

        fleet.reboot(host.name)

        done = call(fleet.ssh(host.name, "cat /etc/kept; cat /run/lost"))
        assert done.stdout == "kept\n"
        assert "No such file" in done.stderr


def test_a_host_that_was_cut_off_or_lost_its_power_is_back_at_its_address(fleet: HostFleet) -> None:
    worker = fleet["worker-1"]
    for fault, cure in ((fleet.cut, fleet.heal), (fleet.kill, fleet.start), (fleet.pause, fleet.unpause)):
        fault(worker.name)
        assert call(fleet.ssh(worker.name, "true")).returncode == 255
        cure(worker.name)
        assert call(fleet.ssh(worker.name, "true")).returncode == 0


def test_what_was_changed_on_a_host_can_be_told(fleet: HostFleet) -> None:
    before = fleet.files("control", "/etc")
    fleet.write("control", "/etc/icosfl/new.conf", "a = 1\n")
    fleet.run("control", ["chmod", "0600", "/etc/hostname"])
    after = fleet.files("control", "/etc")

    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert {"/etc/icosfl", "/etc/icosfl/new.conf", "/etc/hostname"} <= changed
    assert fleet.changes("control")["/etc/icosfl/new.conf"] == "added"
    assert fleet.read("control", "/etc/icosfl/new.conf") == "a = 1\n"
    with pytest.raises(RunFailed, match="No such file"):
        fleet.read("control", "/etc/icosfl/absent")


def test_a_fleet_grows_is_found_again_and_leaves_nothing_but_others(
    make_fleet: MakeFleet, fleet: HostFleet, docker_engine: docker.DockerClient
) -> None:
    before = mounts()
    make_fleet("short", ["bookworm"])
    short = make_fleet("short", ["bookworm"])  # as if an earlier run had been killed
    added = short.add_host("late", "trixie")
    assert call(short.ssh("late", "true")).returncode == 0
    workers = yaml.safe_load((short.inventory / "hosts.yml").read_text(encoding="utf-8"))
    assert "late" in str(workers)

    found = HostFleet(docker_engine, short.name, short.inventory.parent)
    assert found.hosts == short.hosts
    assert found["late"] == added
    found.remove_host("late")
    found.down()

    ours = {"label": f"{LABEL}={short.name}"}
    assert not docker_engine.containers.list(all=True, filters=ours)
    assert not docker_engine.networks.list(filters=ours)
    assert call(fleet.ssh("control", "true")).returncode == 0
    assert mounts() == before


def test_hosts_that_shall_have_docker_run_containers_with_limits_and_leave_no_volume(
    make_fleet: MakeFleet, docker_engine: docker.DockerClient
) -> None:
    both = make_fleet("docker", ["bookworm", "trixie"], docker=["control", "worker-1"])
    python = "/usr/bin/python3 /usr/lib/python3.* $(ldd /usr/bin/python3 | grep -o '/[^ ]*')"
    listen = "import socket; socket.create_server(('', 8080)).accept(); import time; time.sleep(99)"
    start = ["docker", "run", "--detach", "--user=9:9", "--memory=32m", "--publish=8080:8080", "--name=one", "tiny"]
    for host in both.hosts:
        both.run(host.name, ["sh", "-ec", f"tar --create --dereference {python} | docker import - tiny"])
        both.run(host.name, [*start, "/usr/bin/python3", "-c", listen])

        told = "{{.State.Running}} {{.HostConfig.Memory}}"
        assert both.run(host.name, ["docker", "inspect", "--format", told, "one"]).stdout == "true 33554432\n"
        assert answers(host.address, 8080)
        assert both.run(host.name, ["docker", "exec", "one", "/usr/bin/python3", "-c", "print(1)"]).stdout == "1\n"
    volumes = {volume.name for volume in docker_engine.volumes.list()}
    ours = {
        mount["Name"]
        for host in both.hosts
        for mount in docker_engine.containers.get(host.container).attrs["Mounts"]
        if mount["Type"] == "volume"
    }
    assert len(ours & volumes) == 2
    assert "icosfl_runtime: docker" in (both.inventory / "hosts.yml").read_text(encoding="utf-8")

    both.down()

    assert not ours & {volume.name for volume in docker_engine.volumes.list()}


def test_a_machine_without_root_or_apt_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine.as_root.cache_clear()
    monkeypatch.setattr(machine.shutil, "which", lambda *_, **__: None)
    with pytest.raises(machine.NoContainers, match="no apt-get"):
        machine.install({"dockerd": "docker.io"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(machine.NoContainers, match=r"needs root .*sudo"):
        machine.as_root()
    machine.as_root.cache_clear()
