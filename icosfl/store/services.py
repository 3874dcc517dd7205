"""What each of dataClay's services needs before it runs: settings from our file, our parts in place of some of its.

Every function waits for what its service needs, and returns the coroutine function that serves, with what must be
watched in Redis meanwhile.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from icosfl.config import DataclayConfig
from icosfl.errors import RunFailed
from icosfl.store import durable, mending, proxy, registry
from icosfl.store.health import Gate
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay import event_loop, runtime
    from dataclay.backend import api as backend_api
    from dataclay.backend import servicer as backend_servicer
    from dataclay.config import BackendSettings, MetadataSettings, ProxySettings, settings
    from dataclay.metadata import servicer as metadata_servicer

_GRACE_SECONDS = 1
_IO_THREADS = 64
_MEMORY_HIGH = 1.01
"""The share of the host's memory from which dataClay unloads objects: more than there is.

A backend has one window, and its writer and readers come every moment: unloaded, it would be loaded again at once,
under another epoch. That frees nothing, writes flash, and makes the bridge hand rows over again.
"""


class Registration(NamedTuple):
    """What a service has in Redis: its key, the Redis's run id, and what to do when the key is there."""

    key: str
    run_id: str
    seen: Callable[[], None]


class Service(NamedTuple):
    """A service ready to run; one without a registration does not care for Redis."""

    serve: Callable[[], Awaitable[None]]
    registration: Registration | None


def prepare_metadata(config: DataclayConfig) -> Service:
    """The metadata service, once Redis answers.

    Raises:
        StoreUnavailable: Redis does not answer in time.
    """
    run_id = registry.wait_for(config.redis, None, config.start_timeout_seconds)
    _take_settings(config)
    with quiet_dataclay():
        settings.metadata = MetadataSettings(
            host=config.metadata.host, port=config.metadata.port, listen_address=config.metadata.host
        )
    gate = Gate()
    metadata_servicer.health = gate.module()
    return Service(metadata_servicer.serve, Registration("/dataclay/this", run_id, gate.open))


def prepare_backend(config: DataclayConfig) -> Service:
    """The backend, once the metadata service has registered itself in Redis.

    Raises:
        StoreUnavailable: Redis does not answer in time, the metadata service has not been there, or an object's file
            cannot be read.
        RunFailed: another process serves as this backend, or its directory cannot be used.
    """
    run_id = registry.wait_for(config.redis, "/dataclay/this", config.start_timeout_seconds)
    try:
        config.storage_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        backend_id = mending.backend_id_of(config)
        mending.mend_registry(config, backend_id)
    except OSError as error:
        raise RunFailed(
            f"storage_dir: {error.filename or config.storage_dir}: {error.strerror}",
            cure="make it readable and writable for this user, and free space if there is none",
        ) from error
    _take_settings(config)
    with quiet_dataclay():
        settings.backend = BackendSettings(
            id=backend_id, host=config.backend.host, port=config.backend.port, listen_address=config.backend.host
        )
    event_loop.io_bound_executor = ThreadPoolExecutor(_IO_THREADS)
    backend_api.threadpool_limits = functools.partial(_limit_if_asked, backend_api.threadpool_limits)
    backend_api.BackendRuntime = durable.DurableRuntime
    runtime.DataManager = functools.partial(durable.DurableDataManager, config.storage_dir, config.checkpoint_seconds)
    gate = Gate()
    backend_servicer.health = gate.module()
    return Service(backend_servicer.serve, Registration(f"/backend/{backend_id}", run_id, gate.open))


def prepare_proxy(config: DataclayConfig) -> Service:
    """The proxy; it needs the others only when it is called."""
    _take_settings(config)
    with quiet_dataclay():
        settings.proxy = ProxySettings(
            mds_host=config.metadata.host,
            mds_port=config.metadata.port,
            port=config.proxy.port,
            listen_address=config.proxy.host,
        )
    return Service(functools.partial(proxy.serve_proxy, config), None)


def _take_settings(config: DataclayConfig) -> None:
    """Give dataClay its settings, so that none of importance comes from the environment."""
    if config.log_level.lower() == "debug":
        logging.getLogger("dataclay").setLevel(logging.DEBUG)
    settings.kv_host, settings.kv_port = config.redis.host, config.redis.port
    settings.root_username, settings.root_password = config.username, config.password
    settings.root_dataset = config.dataset
    settings.storage_path = str(config.storage_dir)
    settings.shutdown_grace_period = _GRACE_SECONDS
    settings.memory_threshold_high = _MEMORY_HIGH


def _limit_if_asked(limiter: Callable[..., Any], limits: int | None) -> AbstractContextManager[Any]:
    """Spare the search through all loaded libraries that dataClay makes at every call, even to set no limit."""
    return nullcontext() if limits is None else limiter(limits=limits)
