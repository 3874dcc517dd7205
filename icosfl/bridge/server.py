"""The bridge as a whole: gRPC server, health, pages, and the watch over the store.

A thread pool and not asyncio: the work of a request is to wait for the store, whose calls block, and then health checks
need threads of their own anyway. Measured, the two serve equally many points.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event

import grpc
from google.protobuf.internal import api_implementation
from grpc_health.v1.health import OVERALL_HEALTH, HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from icosfl.bridge.batch import Reader
from icosfl.bridge.keeper import StoreKeeper
from icosfl.bridge.metrics import BridgeMetrics
from icosfl.bridge.pages import serve_pages
from icosfl.bridge.rules import compile_rules
from icosfl.bridge.servicer import SERVICE, Limits, MetricsServicer
from icosfl.config import BridgeConfig, Endpoint, schema_of
from icosfl.errors import ConfigError, RunFailed
from icosfl.store.base import SeriesStore

# Threads, and how many of them may wait for the store: the others keep answering health checks and "come again".
_THREADS = 16
_IN_HAND = 14

# Calls that are let in at all. Each may hold one message of the configured size.
_CALLS = 64

logger = logging.getLogger(__name__)


class Bridge:
    """A bridge that runs from `start` to `stop`.

    Args:
        config: The configuration.
        open_store: Opens the store; may raise `StoreUnavailable` while it cannot be had.
        clock: The time now, in ns since the epoch.

    Raises:
        ConfigError: the rules are wrong, or protobuf runs without its compiled part.
        SchemaMismatch: the configured series are wrong.
    """

    def __init__(
        self, config: BridgeConfig, open_store: Callable[[], SeriesStore], clock: Callable[[], int] = time.time_ns
    ) -> None:
        require_compiled_protobuf(api_implementation.Type())
        schema = schema_of(config.series)
        reader = Reader(
            rules=compile_rules(config.rules, schema),
            width=len(schema),
            row_tolerance=round(config.row_tolerance_seconds * 1e9),
            future_tolerance=round(config.future_tolerance_seconds * 1e9),
        )
        limits = Limits(retry_seconds=config.retry_seconds, in_hand=_IN_HAND)
        self._config = config
        self._metrics = BridgeMetrics()
        self._keeper = StoreKeeper(open_store, self._report)
        self._servicer = MetricsServicer(reader, self._keeper, self._metrics, limits, clock)
        self._health = HealthServicer()
        self._pool = ThreadPoolExecutor(_THREADS, "otlp")
        self._watcher = ThreadPoolExecutor(1, "store-watch")
        self._stop_watching = Event()
        self._asked: SimpleQueue[None] = SimpleQueue()  # unlike an Event it may be used from a signal handler

    def start(self) -> None:
        """Listen, and begin to look for the store; until it answers, senders are told to come again.

        Raises:
            RunFailed: an address cannot be listened on.
        """
        self._report("the store has not been looked at yet")
        self._server, self.listens = self._make_server()
        self._pages = serve_pages(self._config.metrics_listen, self._metrics.registry, lambda: self._keeper.trouble)
        self.pages_listen = Endpoint(self._config.metrics_listen.host, self._pages.server_port)
        self._server.start()
        self._watching: Future[None] = self._watcher.submit(
            self._keeper.watch, self._stop_watching, self._config.retry_seconds
        )
        self._watching.add_done_callback(lambda _: self.ask_to_stop())
        logger.info("OTLP on %s, pages on %s", self.listens, self.pages_listen)

    def _make_server(self) -> tuple[grpc.Server, Endpoint]:
        options = [
            ("grpc.max_receive_message_length", self._config.max_message_bytes),
            ("grpc.so_reuseport", 0),
        ]
        server = grpc.server(
            self._pool, handlers=[self._servicer.handler()], options=options, maximum_concurrent_rpcs=_CALLS
        )
        add_HealthServicer_to_server(self._health, server)
        listen = self._config.listen
        try:
            port = server.add_insecure_port(str(listen))
        except RuntimeError as error:
            raise RunFailed(
                f"listen: cannot listen on {listen}",
                cure="stop what listens there, or give the host another slot or port",
            ) from error
        return server, Endpoint(listen.host, port)

    def _report(self, trouble: str) -> None:
        status = HealthCheckResponse.NOT_SERVING if trouble else HealthCheckResponse.SERVING
        for service in (OVERALL_HEALTH, SERVICE):
            self._health.set(service, status)
        self._metrics.set_store_up(not trouble)

    def ask_to_stop(self) -> None:
        """Let `wait` return; may be called from a signal handler."""
        self._asked.put(None)

    def wait(self) -> None:
        """Block until the bridge is asked to stop, or its watch over the store has ended by an error."""
        self._asked.get()

    def stop(self) -> None:
        """Refuse new requests, finish those in flight, and let go of everything.

        Raises:
            ConfigError: the store's configuration is wrong, which ended the watch over it.
        """
        self._health.enter_graceful_shutdown()
        self._stop_watching.set()
        self._server.stop(self._config.drain_seconds).wait()
        self._keeper.close()
        self._pool.shutdown()
        self._watcher.shutdown()
        self._pages.shutdown()
        self._pages.server_close()
        logger.info("stopped")
        self._watching.result()


def require_compiled_protobuf(implementation: str) -> None:
    """Refuse to run on protobuf's Python implementation.

    Raises:
        ConfigError: it is not upb, the compiled one, which reads two hundred times as many points a second.
    """
    if implementation != "upb":
        raise ConfigError(
            f"protobuf runs as {implementation!r}, expected 'upb'",
            cure="unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION, or install protobuf from its binary wheel",
        )
