"""The bridge as a service: `python -m icosfl.bridge --config bridge.toml`."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

from icosfl.bridge.server import Bridge
from icosfl.config import BridgeConfig, StoreConfig, load, schema_of
from icosfl.errors import IcosflError
from icosfl.logs import set_up_logging
from icosfl.schema import Schema
from icosfl.store import open_store
from icosfl.store.base import SeriesStore


def main(
    arguments: Sequence[str] | None = None, open_store: Callable[[StoreConfig, Schema], SeriesStore] = open_store
) -> int:
    """Run the bridge until SIGTERM or SIGINT; return the process's exit code."""
    parser = ArgumentParser("python -m icosfl.bridge", description="Take OTLP metrics and store them.")
    parser.add_argument("--config", type=Path, required=True, help="the TOML file that site.yml renders")
    path = parser.parse_args(arguments).config
    try:
        run(load(path, BridgeConfig), open_store)
    except IcosflError as error:
        sys.stderr.write(f"icosfl.bridge: {error}\n")
        return error.exit_code
    return 0


def run(config: BridgeConfig, open_store: Callable[[StoreConfig, Schema], SeriesStore]) -> None:
    """Run the bridge until SIGTERM or SIGINT.

    Raises:
        IcosflError: it cannot start, or the store cannot be used at all.
    """
    set_up_logging(config.log_level)
    bridge = Bridge(config, lambda: open_store(config.store, schema_of(config.series)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: bridge.ask_to_stop())
    bridge.start()
    bridge.wait()
    bridge.stop()


if __name__ == "__main__":
    sys.exit(main())
