"""A look at a node's window through the dataClay proxy, as other dataClay clients see it."""

from __future__ import annotations

import time

from icosfl.config import Endpoint, StoreConfig
from icosfl.errors import StoreUnavailable
from icosfl.store.link import Channels, Directory, LinkLost


def rows_through(proxy: Endpoint, alias: str, dataset: str, username: str, timeout_seconds: float) -> int:
    """Ask the window called `alias` by way of the proxy how many rows it holds.

    Raises:
        StoreUnavailable: the proxy or what is behind it does not answer in time, or knows no such window.
    """
    end = time.monotonic() + timeout_seconds
    config = StoreConfig("dataclay", alias, 1, timeout_seconds, proxy, dataset, username, "")
    channels = Channels()
    try:
        link = Directory(channels, config, lambda: end - time.monotonic()).through(proxy)
        rows = int(link.call("info", timeout=end - time.monotonic())[0])
    except LinkLost as error:
        raise StoreUnavailable(
            f"the window {alias} cannot be reached through the proxy at {proxy}: {error}",
            cure="see the logs of dataclay_proxy, dataclay_metadata and dataclay_backend",
        ) from error
    finally:
        channels.close()
    return rows
