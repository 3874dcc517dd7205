"""Fixtures that several stages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from support.dataclay_stack import DataclayStack

# no test depends on how fast the machine is
settings.register_profile("icosfl", deadline=None)
settings.load_profile("icosfl")


@pytest.fixture(scope="session")
def dataclay_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataclayStack]:
    """A real object store: use an alias of your own, and leave its services running."""
    stack = DataclayStack(tmp_path_factory.mktemp("dataclay"))
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
