"""A data plane for all faults, and their table at the end of the test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.faults import FaultyNode, table_of

TABLE = pytest.StashKey[str]()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[FaultyNode]:
    node = FaultyNode(tmp_path_factory.mktemp("faults"))
    try:
        node.start()
        yield node
        if node.phases:
            request.config.stash[TABLE] = table_of(node.accounts())
    finally:
        node.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash.get(TABLE, "")
    if table:
        terminalreporter.section("what became of acknowledged points")
        terminalreporter.write_line(table)
