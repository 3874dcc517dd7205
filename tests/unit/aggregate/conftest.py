from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icosfl.aggregate import run as runs
from icosfl.store.memory import MemoryStore
from support import made_up
from support.fake_grid import FakeGrid
from support.one_process import Controller, Worker


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    def open_filled(_: Any, schema: Any, *, read_only: bool) -> MemoryStore:
        assert read_only
        store = MemoryStore(schema, 1000)
        store.append(made_up.rows(200, seed=9))
        return store

    monkeypatch.setattr(runs, "open_store", open_filled)
    nodes = {
        11: Worker(tmp_path, "worker-1", made_up.rows(200, seed=1)),
        12: Worker(tmp_path, "worker-2", made_up.rows(150, seed=2)),
        13: Worker(tmp_path, "worker-3", made_up.rows(15, seed=3)),
    }
    return Controller(tmp_path, nodes, FakeGrid(nodes))
