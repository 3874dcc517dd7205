"""Bare Debian hosts for tests: `with docker_engine() as engine: HostFleet(engine, name, directory).up()`."""

from support.hosts.container import Completed
from support.hosts.engine import docker_engine
from support.hosts.fleet import CONTROLLER, DEFAULT_RELEASES, Host, HostFleet
from support.hosts.machine import NoContainers

__all__ = ["CONTROLLER", "DEFAULT_RELEASES", "Completed", "Host", "HostFleet", "NoContainers", "docker_engine"]
