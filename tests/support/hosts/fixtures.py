"""Pytest's fixtures for hosts in containers: import them in a conftest.

Tests that use them are skipped where this machine cannot have containers, with the reason; with
ICOSFL_CONTAINERS=required in the environment they fail instead, for CI.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack

import docker
import pytest

from support.hosts import engine
from support.hosts.fleet import DEFAULT_RELEASES, HostFleet
from support.hosts.image import host_images
from support.hosts.machine import PROJECT, NoContainers

MakeFleet = Callable[..., HostFleet]


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[docker.DockerClient]:
    """Docker, installed and started where it is not, with the images of hosts."""
    with ExitStack() as stack:
        try:
            client = stack.enter_context(engine.docker_engine())
            host_images(client, DEFAULT_RELEASES)
        except NoContainers as error:
            if os.environ.get("ICOSFL_CONTAINERS") == "required":
                raise
            pytest.skip(str(error))
        yield client


@pytest.fixture(scope="module")
def make_fleet(docker_engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeFleet]:
    """Make fleets by name: `make_fleet("update", ["bookworm", "trixie"])`; they end with the module's tests.

    The same name again gives a bare fleet anew. `docker` names the hosts whose services run in Docker, `engine` says
    whether they have it. More keyword arguments are variables of its inventory.
    """
    # two checkouts, or two workers of one run, never share a fleet
    owner = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:6]
    prefix = f"icosfl-test-{owner}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
    made: dict[str, HostFleet] = {}

    def make(
        name: str,
        releases: Sequence[str] = DEFAULT_RELEASES,
        docker: Collection[str] = (),
        engine: bool = True,
        **variables: object,
    ) -> HostFleet:
        directory = tmp_path_factory.mktemp(f"fleet-{name}")
        made[name] = HostFleet(docker_engine, f"{prefix}-{name}", directory, variables)
        return made[name].up(releases, docker, engine=engine)

    try:
        yield make
    finally:
        for fleet in made.values():
            fleet.down()
