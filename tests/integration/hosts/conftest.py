"""The fleet of bare hosts that these tests share."""

from __future__ import annotations

import pytest

from support.hosts import HostFleet
from support.hosts.fixtures import MakeFleet, docker_engine, make_fleet

__all__ = ["docker_engine", "make_fleet"]  # pytest finds fixtures by name


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> HostFleet:
    """A controller and a worker, one of each release."""
    return make_fleet("bare", ["bookworm", "trixie"])
