"""The bridge as a whole: gRPC server, health, pages, the spool and what hands it on to the store.

A thread pool and not asyncio: a request waits for the spool's disk, with others that share one write. Measured, the two
serve equally many points.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Lock

import grpc
from google.protobuf.internal import api_implementation
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from icosfl.bridge.batch import Batch, Reader
from icosfl.bridge.forward import Forwarder
from icosfl.bridge.keeper import StoreKeeper
from icosfl.bridge.metrics import BridgeMetrics
from icosfl.bridge.pages import make_app, serve_pages
from icosfl.bridge.rules import compile_rules
from icosfl.bridge.senders import Senders
from icosfl.bridge.servicer import SERVICE, MetricsServicer
from icosfl.bridge.spool import Spool, SpoolLimits
from icosfl.bridge.tls import server_credentials
from icosfl.config import BridgeConfig, Endpoint, schema_of
from icosfl.errors import ConfigError, RunFailed
from icosfl.store.base import SeriesStore

# Calls of one connection at the same time, more than senders make: of what is beyond gRPC has most wait, but answers
# some UNAVAILABLE. A call whose message does not come holds a thread, so there are more than one connection can hold.
_STREAMS = 64
_THREADS = _STREAMS + 16

# Calls that are let in at all; more than ever come, for what is beyond is refused in words that OTLP calls final. Those
# that find no thread free wait, with no more of their message than gRPC's window.
_CALLS = 1024

# A host that was cut off says nothing any more: its connection goes after so long, and its threads are free.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_TIMEOUT_MS = 20_000
# Clients may ask as often themselves.
_SHORTEST_PING_MS = 10_000

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
        self._schema = schema_of(config.series)
        self._reader = Reader(
            rules=compile_rules(config.rules, self._schema),
            width=len(self._schema),
            row_tolerance=round(config.row_tolerance_seconds * 1e9),
            future_tolerance=round(config.future_tolerance_seconds * 1e9),
        )
        self._config = config
        self._clock = clock
        self._metrics = BridgeMetrics()
        self._keeper = StoreKeeper(open_store, self._metrics.set_store_up)
        self._health = HealthServicer()  # it says SERVING for the server as a whole
        self._serving: bool | None = None
        self._reading = Lock()  # one at a time: the interpreter has no more anyway, and each takes many times its bytes
        self._pool = ThreadPoolExecutor(_THREADS, "otlp")
        self._asked: SimpleQueue[None] = SimpleQueue()  # unlike an Event it may be used from a signal handler

    def start(self) -> None:
        """Take requests, and hand their rows to the store as soon as it answers.

        Raises:
            RunFailed: an address cannot be listened on, the spool cannot be used, or a certificate cannot be read.
        """
        config = self._config
        with ExitStack() as undo:
            limits = SpoolLimits(config.spool.max_bytes, config.spool.fsync, config.spool.fsync_seconds)
            self._spool = Spool(config.spool.directory, self._schema, limits)
            undo.callback(self._spool.close)
            self._server = self._make_server()
            app = make_app(self._metrics.registry, lambda: self._spool.trouble, self._store_trouble)
            self._pages = serve_pages(config.metrics_listen, app)
            undo.pop_all()
        self.pages_listen = Endpoint(config.metrics_listen.host, self._pages.server_port)
        self._metrics.show(self._spool)
        self._forwarder = Forwarder(self._spool, self._keeper, self._metrics, self._report, config.retry_seconds)
        self._report()
        self._server.start()
        self._forwarder.start(self.ask_to_stop)
        logger.info("OTLP on %s, pages on %s", self.listens, self.pages_listen)

    def _store_trouble(self) -> str:
        return self._spool.read_trouble or self._keeper.trouble

    def _make_server(self) -> grpc.Server:
        config = self._config
        servicer = MetricsServicer(self._read, self._spool, Senders(config.limits), self._metrics, config.retry_seconds)
        options = [
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", _STREAMS),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", _SHORTEST_PING_MS),
        ]
        server = grpc.server(self._pool, handlers=[servicer.handler()], options=options, maximum_concurrent_rpcs=_CALLS)
        add_HealthServicer_to_server(self._health, server)
        self.listens = _listen("listen", config.listen, server.add_insecure_port)
        if config.tls is not None:
            credentials = server_credentials(config.tls)
            self.listens_tls = _listen(
                "tls.listen", config.tls.listen, lambda address: server.add_secure_port(address, credentials)
            )
        return server

    def _read(self, body: bytes) -> Batch:
        with self._reading:
            return self._reader.read(body, self._clock(), self._keeper.earliest)

    def _report(self) -> None:
        """Let the service's health be what it is: whether points are taken.

        The server's own, OVERALL_HEALTH, stays SERVING as long as the process works: it is what the watchdogs ask, and
        a restart makes no room on a disk.
        """
        serving = not self._spool.trouble
        if serving != self._serving:
            self._serving = serving
            status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
            self._health.set(SERVICE, status)

    def ask_to_stop(self) -> None:
        """Let `wait` return; may be called from a signal handler."""
        self._asked.put(None)

    def wait(self) -> None:
        """Block until the bridge is asked to stop, or its way to the store has ended by an error."""
        self._asked.get()

    def stop(self) -> None:
        """Refuse new requests, finish those in flight, hand over what there is time for, and let go of everything.

        What the store has not got by then stays in the spool.

        Raises:
            ConfigError: the store's configuration is wrong, which ended the way to it.
        """
        end = time.monotonic() + self._config.drain_seconds
        self._health.enter_graceful_shutdown()
        self._server.stop(self._config.drain_seconds).wait()
        try:
            self._forwarder.stop(max(end - time.monotonic(), 0.0))
        finally:
            self._pool.shutdown()
            self._spool.close()
            self._pages.shutdown()
            self._pages.server_close()
            logger.info("stopped")


def _listen(name: str, endpoint: Endpoint, add_port: Callable[[str], int]) -> Endpoint:
    """Have a server listen at an endpoint; returns the one that it got."""
    try:
        port = add_port(str(endpoint))
    except RuntimeError as error:
        raise RunFailed(
            f"{name}: cannot listen on {endpoint}",
            cure="stop what listens there, or give the host another slot or port",
        ) from error
    return Endpoint(endpoint.host, port)


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
