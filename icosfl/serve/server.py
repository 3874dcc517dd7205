"""The forecast service as a process: its socket, its signals, its end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from types import FrameType

import uvicorn

from icosfl.config import Endpoint, ForecastConfig, schema_of
from icosfl.errors import ConfigError, RunFailed
from icosfl.serve.app import build_app
from icosfl.serve.state import Keeper
from icosfl.store import open_store

REQUEST_DRAIN_SECONDS = 2
THREAD_DRAIN_SECONDS = 2.0

logger = logging.getLogger(__name__)


def serve(config: ForecastConfig) -> None:
    """Answer forecasts until SIGTERM or SIGINT.

    Raises:
        RunFailed: another process listens on the port.
        ConfigError: the address cannot be listened on.
    """
    node = config.node
    with listen(config.listen) as door:
        keeper = Keeper(config, lambda: open_store(node.store, schema_of(node.series), read_only=True))
        server = uvicorn.Server(
            uvicorn.Config(
                build_app(keeper, config.refresh_seconds),
                access_log=False,
                lifespan="off",
                log_config=None,
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=REQUEST_DRAIN_SECONDS,
                ws="none",
            )
        )

        def stop(_signal: int, _frame: FrameType | None) -> None:
            server.should_exit = True

        # uvicorn raises a caught signal again when it is done: with these handlers that does nothing, so we end with 0
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        keeper.start()
        logger.info("forecasts of %s on http://%s", node.host, config.listen)
        server.run(sockets=[door])
    if not keeper.stop(THREAD_DRAIN_SECONDS):
        logger.warning("a call to the store or the model still runs; leaving without it")
        logging.shutdown()
        os._exit(0)  # a thread inside torch would abort the process at the interpreter's end
    logger.info("stopped")


def listen(endpoint: Endpoint) -> socket.socket:
    """Return a socket that listens on the endpoint.

    Raises:
        RunFailed: another process listens there.
        ConfigError: this machine has no such address, or may not use it.
    """
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    try:
        return socket.create_server((endpoint.host, endpoint.port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RunFailed(
                f"another process listens on {endpoint}",
                cure=f"stop it (`ss -ltnp 'sport = :{endpoint.port}'` names it), or override the port of this host",
            ) from error
        raise ConfigError(
            f"cannot listen on {endpoint}: {error}",
            cure="use an address of this machine and a free port from 1024 to 65535",
        ) from error
