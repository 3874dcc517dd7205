from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icosfl.aggregate import run as runs
from icosfl.store.memory import MemoryStore
from support import made_up
from support.fake_grid import FakeGrid
from support.one_process import Controller, Worker


@pytest.fixture
def make_controller(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Controller]:
    """Makes a controller with two workers that can take part and one that has too few rows."""

    def open_filled(_: Any, schema: Any, *, read_only: bool) -> MemoryStore:
        assert read_only
        store = MemoryStore(schema, 1000)
        store.append(made_up.rows(200, seed=9))
        return store

    monkeypatch.setattr(runs, "open_store", open_filled)
    monkeypatch.setattr(runs, "report", lambda *_: "")  # drawn by one test only: it takes seconds

    def make(directory: Path) -> Controller:
        nodes = {
            11: Worker(directory, "worker-1", made_up.rows(200, seed=1)),
            12: Worker(directory, "worker-2", made_up.rows(150, seed=2)),
            13: Worker(directory, "worker-3", made_up.rows(15, seed=3)),
        }
        return Controller(directory, nodes, FakeGrid(nodes))

    return make


@pytest.fixture
def controller(tmp_path: Path, make_controller: Callable[[Path], Controller]) -> Controller:
    return make_controller(tmp_path)
