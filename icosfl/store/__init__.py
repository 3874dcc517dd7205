"""The rows of a node: from the bridge, in a sliding window, to training and forecasts.

Importing this package does not import dataClay; opening a store of kind dataclay does.
"""

from __future__ import annotations

from icosfl.config import StoreConfig
from icosfl.errors import ConfigError
from icosfl.schema import Schema
from icosfl.store.base import Position, SeriesStore, StoreInfo, Window

__all__ = ["Position", "SeriesStore", "StoreInfo", "Window", "open_store"]


def open_store(config: StoreConfig, schema: Schema, *, read_only: bool = False) -> SeriesStore:
    """Open a node's store.

    A dataclay store connects at its first call, so a service may start before the store does.

    Args:
        config: Where it is, and how many rows it keeps.
        schema: The series of its rows.
        read_only: Look at it only: neither make it where it is missing nor take on the configured number of rows, and
            refuse appends.

    Raises:
        ConfigError: a value of the configuration is out of its range.
    """
    if config.capacity_rows < 1:
        raise ConfigError(f"store.capacity_rows is {config.capacity_rows}", cure="set icosfl_window_rows to 1 or more")
    if not config.deadline_seconds > 0:
        raise ConfigError(
            f"store.deadline_seconds is {config.deadline_seconds}",
            cure="set deadline_seconds of icosfl_store above 0",
        )
    if config.kind == "memory":
        from icosfl.store.memory import MemoryStore

        return MemoryStore(schema, config.capacity_rows)
    from icosfl.store.dataclay import DataclayStore

    return DataclayStore(config, schema, read_only=read_only)
