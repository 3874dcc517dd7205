"""Run one of dataClay's services as a fleet needs it: `python -m icosfl.store.launch metadata|backend|proxy`.

The services are dataClay's own. Around them: everything comes from one file and nothing from the environment; they may
start in any order, wait for what they need, and end with a clear line when it does not come; they end, to be started
anew by their supervisor, after an outage of Redis; the backend keeps its rows through a kill; the proxy follows a
restarted backend.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icosfl.config import DataclayConfig, Endpoint, load
from icosfl.errors import IcosflError, RunFailed, StoreUnavailable
from icosfl.logs import set_up_logging
from icosfl.store import registry

if TYPE_CHECKING:
    from icosfl.store.services import Service

logger = logging.getLogger("icosfl.store.launch")  # not __main__, as which it runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service that the command line names, and end the process with its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m icosfl.store.launch", description="Run one of dataClay's services."
    )
    parser.add_argument("service", choices=("metadata", "backend", "proxy"))
    parser.add_argument("--config", type=Path, required=True, help="the TOML file of the three services")
    options = parser.parse_args(arguments)
    set_up_logging("info")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it waits for Redis Ctrl-C ends it; then dataClay handles it
    try:
        config = load(options.config, DataclayConfig)
        set_up_logging(config.log_level)
        endpoint: Endpoint = getattr(config, options.service)
        refuse_taken(endpoint)
        service = _prepare(options.service, config)
        logger.info("%s starts at %s", options.service, endpoint)
        asyncio.run(_run_to_the_end(options.service, service, config.redis))
    except IcosflError as error:
        _leave(error)


def refuse_taken(endpoint: Endpoint) -> None:
    """Fail if something listens there: gRPC would share the port with it in silence.

    Raises:
        RunFailed: the address is taken, or not one of this host.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((endpoint.host, endpoint.port))
        except OSError as error:
            raise RunFailed(
                f"cannot listen at {endpoint}: {error.strerror}",
                cure="stop what listens there, or move the port with icosfl_port_overrides",
            ) from error


def _prepare(name: str, config: DataclayConfig) -> Service:
    from icosfl.store import services  # imports dataClay

    prepare = {
        "metadata": services.prepare_metadata,
        "backend": services.prepare_backend,
        "proxy": services.prepare_proxy,
    }
    return prepare[name](config)


async def _run_to_the_end(name: str, service: Service, redis: Endpoint) -> None:
    """Run, and end the process: leaving the event loop could wait for ever for tasks that dataClay does not end."""
    try:
        await _run(name, service, redis)
    except IcosflError as error:
        _leave(error)
    _leave(None)


async def _run(name: str, service: Service, redis: Endpoint) -> None:
    """Serve until a signal ends it, or until Redis makes a new start necessary.

    Raises:
        StoreUnavailable: Redis was away.
        RunFailed: the service failed, or the watch over Redis did.
    """
    serving = asyncio.ensure_future(service.serve())
    reason = ""
    try:
        if service.registration:
            watching = asyncio.ensure_future(registry.watch(redis, *service.registration))
            await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                reason = watching.result()
                logger.warning("%s: %s ends to start anew", reason, name)
                os.kill(os.getpid(), signal.SIGTERM)  # dataClay's own handler: it stops in peace
        await serving
    except Exception as error:
        raise RunFailed(f"dataClay's {name} failed: {error!r}", cure="set log_level to debug and look again") from error
    if reason:
        raise StoreUnavailable(f"{name} ended: {reason}", cure="its supervisor starts it again")
    logger.info("%s stopped", name)


def _leave(error: IcosflError | None) -> None:
    if error:
        logger.error("%s", error, exc_info=error.__cause__ if logger.isEnabledFor(logging.DEBUG) else None)
    logging.shutdown()
    os._exit(error.exit_code if error else 0)


if __name__ == "__main__":
    main()
