"""How a service of dataClay runs to its end, without any service."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from icosfl.config import Endpoint
from icosfl.errors import RunFailed
from icosfl.store import launch, registry, services
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay.config import settings
    from dataclay.data_manager import DataManager


def test_a_watch_over_redis_that_fails_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve() -> None:
        await asyncio.Event().wait()

    async def watch(*_: object) -> str:
        raise ValueError("an answer that nobody expects")

    monkeypatch.setattr(registry, "watch", watch)
    service = services.Service(serve, services.Registration("/backend/1", "run", lambda: None))

    with pytest.raises(RunFailed, match="an answer that nobody expects"):
        asyncio.run(launch._run("backend", service, Endpoint("127.0.0.1", 1)))


def test_the_window_is_not_unloaded_when_the_hosts_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(percent=100.0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(settings, "memory_threshold_high", services._MEMORY_HIGH)

    assert not DataManager().is_memory_over_threshold()
