"""Bring up and keep a fleet of bare Debian hosts on this machine: scripts/fleet up | status | down | clean."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import docker

from icosfl.errors import IcosflError
from support.hosts.engine import docker_engine
from support.hosts.fleet import DEFAULT_RELEASES, HostFleet
from support.hosts.image import remove_images
from support.hosts.machine import PROJECT

NAME = "icosfl-fleet"
DIRECTORY = PROJECT / ".state" / "fleet"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/fleet", description=__doc__)
    parser.add_argument("command", choices=["up", "status", "down", "clean"])
    parser.add_argument(
        "--hosts", type=int, default=len(DEFAULT_RELEASES), help="how many hosts (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="up: make all hosts anew, also where they run")
    options = parser.parse_args(arguments)
    if not 2 <= options.hosts <= 200:
        parser.error("--hosts: a fleet has 2 to 200 hosts")
    try:
        with docker_engine() as engine:
            return _run(engine, options)
    except IcosflError as error:
        sys.stderr.write(f"fleet: {error}\n")
        return error.exit_code


def _run(engine: docker.DockerClient, options: argparse.Namespace) -> int:
    fleet = HostFleet(engine, NAME, DIRECTORY)
    if options.command == "up":
        started = time.monotonic()
        if options.fresh or len(fleet.hosts) != options.hosts or not fleet.inventory.is_dir():
            fleet.up([DEFAULT_RELEASES[number % 2] for number in range(options.hosts)])
            _say(f"{options.hosts} hosts booted in {time.monotonic() - started:.1f} s")
        _show(fleet)
        inventory = Path(os.path.relpath(fleet.inventory))
        _say(f"Deploy:  ansible-playbook site.yml -i {inventory}")
        _say("Look in: docker exec -it icosfl-fleet-control bash")
        _say("Remove:  make fleet-down")
    elif options.command == "status":
        _show(fleet)
    else:
        fleet.down()
        for tag in remove_images(engine) if options.command == "clean" else []:
            _say(f"removed image {tag}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _show(fleet: HostFleet) -> None:
    if not fleet.hosts:
        _say("There is no fleet. Make one: make fleet")
    for host in fleet.hosts:
        _say(f"{host.name:10} {host.address:14} {host.release:10} {host.group:10} {fleet.state(host.name)}")


if __name__ == "__main__":
    sys.exit(main())
