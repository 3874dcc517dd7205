"""Docker for molecule's scenarios."""

from __future__ import annotations

import pytest

from support.hosts.fixtures import docker_engine

__all__ = ["docker_engine"]  # pytest finds fixtures by name


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs every scenario."""
    parser.addoption("--all-scenarios", action="store_true", help="run all of molecule's scenarios, not only some")
