"""The Redis in which dataClay's services find each other: waiting for it, watching it, mending what a crash left.

dataClay's services subscribe to Redis once, and never again: after a Redis restart they go on answering, but no longer
learn of each other. So each watches Redis and asks to be started anew once it is back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from icosfl.config import Endpoint
from icosfl.errors import StoreUnavailable

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
_WATCH_SECONDS = 1.0
_CALL_SECONDS = 5.0


def connect(endpoint: Endpoint) -> redis.Redis:
    """A client that tries each command once, and not for long."""
    return redis.Redis(
        host=endpoint.host,
        port=endpoint.port,
        socket_timeout=_CALL_SECONDS,
        socket_connect_timeout=_CALL_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )


def wait_for(endpoint: Endpoint, key: str | None, timeout: float) -> str:
    """Return once Redis answers, and has `key` if one is given.

    Returns:
        The run id: another one after each start of the server.

    Raises:
        StoreUnavailable: not within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    with connect(endpoint) as client:
        while True:
            try:
                client.ping()  # refused while it still loads its file, and while it cannot write it
                run_id = str(client.info("server")["run_id"])
                if key is None or client.exists(key):
                    return run_id
                missing = f"has no {key}"
                cure = "see whether the service that writes it runs: icosfl status"
            except RedisError as error:
                missing = f"does not answer: {error}"
                cure = "see its state and its log: icosfl status"
            if time.monotonic() > end:
                raise StoreUnavailable(f"Redis at {endpoint} {missing} (waited {timeout:g} s)", cure=cure)
            time.sleep(_POLL_SECONDS)


async def watch(endpoint: Endpoint, key: str, run_id: str, tell_seen: Callable[[], None]) -> str:
    """Return once this process must start anew: Redis was away and is back, or lost `key`.

    Args:
        endpoint: Where Redis listens.
        key: What it must keep, from when it is first seen.
        run_id: The run id that it had when this process started.
        tell_seen: Called when the key is first seen.

    Returns:
        The reason.
    """
    client = redis.asyncio.Redis(
        host=endpoint.host,
        port=endpoint.port,
        socket_timeout=_CALL_SECONDS,
        socket_connect_timeout=_CALL_SECONDS,
        retry=AsyncRetry(NoBackoff(), 0),
    )
    seen = away = False
    async with client:
        while True:
            await asyncio.sleep(_WATCH_SECONDS if seen else _POLL_SECONDS)
            try:
                now = str((await client.info("server"))["run_id"])
                there = bool(await client.exists(key))
            except RedisError as error:
                if not away:
                    logger.warning("Redis at %s is away: %s", endpoint, error)
                away = True
                continue
            if away or now != run_id:
                return f"Redis at {endpoint} was away and is back"
            if seen and not there:
                return f"Redis at {endpoint} lost {key}"
            if there and not seen:
                seen = True
                tell_seen()
