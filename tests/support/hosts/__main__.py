"""Hosts in containers on this machine, made and kept: scripts/fleet up | status | down | clean.

Faults and more hosts: scripts/fleet cut | heal | kill | stop | start | reboot | add | forget HOST.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import docker

from icosfl.errors import IcosflError
from support.hosts.access import RUNTIME
from support.hosts.engine import docker_engine
from support.hosts.fleet import DEFAULT_RELEASES, HostFleet, host_names
from support.hosts.image import RELEASES, remove_images
from support.hosts.machine import PROJECT

NAME = "icosfl-fleet"
DIRECTORY = PROJECT / ".state" / "fleet"
WHOLE = ("up", "status", "down", "clean")
ONE = ("cut", "heal", "kill", "stop", "start", "reboot", "add", "forget")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/fleet", description=__doc__)
    parser.add_argument("command", choices=[*WHOLE, *ONE])
    parser.add_argument("host", nargs="?", help=f"for {', '.join(ONE)}")
    parser.add_argument(
        "--name", default=NAME, help="the fleet's name: it prefixes the containers' (default: %(default)s)"
    )
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where its inventory and its key are written")
    parser.add_argument(
        "--hosts", type=int, default=len(DEFAULT_RELEASES), help="up: how many hosts (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="up: make all hosts anew, also where they run")
    parser.add_argument(
        "--runtime",
        choices=(RUNTIME, "docker", "either"),
        default=RUNTIME,
        help="up and add: how the hosts run their services; either: they have Docker, and the inventory does not say "
        "to use it (default: %(default)s)",
    )
    parser.add_argument(
        "--docker", nargs="+", default=[], metavar="HOST", help="up: these hosts run their services in Docker"
    )
    parser.add_argument(
        "--release", choices=RELEASES, default="bookworm", help="add: its Debian (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if not 2 <= options.hosts <= 200:
        parser.error("--hosts: a fleet has 2 to 200 hosts")
    if unknown := set(options.docker) - set(host_names(options.hosts)):
        parser.error(f"--docker: there will be no {', '.join(sorted(unknown))}")
    if (options.command in ONE) != (options.host is not None):
        parser.error(f"{options.command}: {'name a host' if options.host is None else 'takes no host'}")
    try:
        with docker_engine() as engine:
            fleet = HostFleet(engine, options.name, options.directory.resolve())
            if options.command in ONE:
                return _one(fleet, options)
            return _whole(engine, fleet, options)
    except IcosflError as error:
        sys.stderr.write(f"fleet: {error}\n")
        return error.exit_code


def _whole(engine: docker.DockerClient, fleet: HostFleet, options: argparse.Namespace) -> int:
    if options.command == "up":
        started = time.monotonic()
        names = host_names(options.hosts)
        docker = set(options.docker if options.runtime == RUNTIME else names)
        runtime = "either" if options.runtime == "either" else "docker"
        wanted = {name: runtime if name in docker else RUNTIME for name in names}
        is_there = wanted == {host.name: host.runtime for host in fleet.hosts} and fleet.inventory.is_dir()
        if options.fresh or not is_there:
            fleet.up([DEFAULT_RELEASES[number % 2] for number in range(options.hosts)], docker, runtime=runtime)
            _say(f"{options.hosts} hosts booted in {time.monotonic() - started:.1f} s")
        _show(fleet)
        inventory = Path(os.path.relpath(fleet.inventory))
        _say(f"Deploy:  ansible-playbook site.yml -i {inventory}")
        _say(f"Look in: docker exec -it {fleet.name}-control bash")
        _say(f"Remove:  {'make fleet-down' if fleet.name == NAME else 'scripts/fleet down --name ' + fleet.name}")
    elif options.command == "status":
        _show(fleet)
    else:
        fleet.down()
        for tag in remove_images(engine) if options.command == "clean" else []:
            _say(f"removed image {tag}")
    return 0


def _one(fleet: HostFleet, options: argparse.Namespace) -> int:
    started = time.monotonic()
    known = [host.name for host in fleet.hosts]
    if (options.host in known) == (options.command == "add"):
        _say(f"fleet: the hosts of {fleet.name} are: {', '.join(known) or 'none'}")
        return 2
    if options.command == "add":
        fleet.add_host(options.host, options.release, docker=options.runtime == "docker")
    elif options.command == "forget":
        fleet.remove_host(options.host)
    else:
        getattr(fleet, options.command)(options.host)
    _say(f"{options.host}: {options.command} took {time.monotonic() - started:.1f} s")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _show(fleet: HostFleet) -> None:
    if not fleet.hosts:
        _say("There is no fleet. Make one: make fleet")
    for host in fleet.hosts:
        told = (f"{host.name:10}", f"{host.address:14}", f"{host.release:9}", f"{host.group:10}", f"{host.runtime:8}")
        _say(" ".join((*told, fleet.state(host.name))))


if __name__ == "__main__":
    sys.exit(main())
