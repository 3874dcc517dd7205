"""The newest batch as a Prometheus page: OpenTelemetry's names in Prometheus form, and beside them those of Scaphandre.

A dashboard or a bridge that reads Scaphandre's host metrics reads this page unchanged. A metric without a value is
absent. `/metrics` is the page; `/healthz` answers 200, and 503 when the service's loop stands still.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from socket import AF_INET6
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from icosfl.collect import sampler
from icosfl.collect.certificates import certificate_families
from icosfl.collect.points import Attributes, Batch, Kind, Point
from icosfl.collect.push import PushCounts
from icosfl.config import Endpoint
from icosfl.errors import RunFailed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# How long `close` waits at most for the server to notice.
_POLL_SECONDS = 0.2

OWN_PREFIX = "icosfl_collect_"
_INVALID = re.compile(r"[^a-zA-Z0-9_:]")
_UNIT_SUFFIXES = {"By": "_bytes", "J": "_joules", "W": "_watts", "s": "_seconds", "%": "_percent"}


@dataclass(frozen=True, slots=True)
class Alias:
    """A Scaphandre metric and the point that it shows: value * factor of the metric with these attributes."""

    name: str
    help: str
    metric: str
    attributes: Attributes = ()
    factor: float = 1.0


# Scaphandre calls its energy counter without the _total that a Prometheus counter has to have: it is shown untyped.
SCAPHANDRE = (
    Alias("scaph_host_power_microwatts", "Power of the host's packages and memory", sampler.HOST_POWER, factor=1e6),
    Alias("scaph_host_energy_microjoules", "Energy used since the start", sampler.HOST_ENERGY, factor=1e6),
    Alias("scaph_host_load_avg_one", "Load average over 1 minute", sampler.LOAD_AVERAGES[0]),
    Alias("scaph_host_load_avg_five", "Load average over 5 minutes", sampler.LOAD_AVERAGES[1]),
    Alias("scaph_host_load_avg_fifteen", "Load average over 15 minutes", sampler.LOAD_AVERAGES[2]),
    Alias("scaph_host_memory_total_bytes", "Total memory", sampler.MEMORY_LIMIT),
    Alias("scaph_host_memory_available_bytes", "Memory available without swapping", sampler.MEMORY_AVAILABLE),
    Alias("scaph_host_memory_free_bytes", "Unused memory", sampler.MEMORY_USAGE, ((sampler.MEMORY_STATE, "free"),)),
)


@dataclass(frozen=True, slots=True)
class Health:
    """The service's own counts.

    Args:
        samples: Batches taken so far.
        failures: Samples or scrapes that failed.
        missed: Periods in which no sample could start because the one before took too long.
        last_monotonic: When the loop last turned, on the monotonic clock.
        push: What became of the batches.
    """

    samples: int
    failures: int
    missed: int
    last_monotonic: float
    push: PushCounts


def prometheus_name(point: Point) -> str:
    """A point's metric name in Prometheus form, by OpenTelemetry's rules: unit as suffix, _total on counters.

    A name without a dot is a Prometheus name already and stays.
    """
    if "." not in point.name:
        return point.name
    suffix = "_ratio" if point.unit == "1" and point.kind is Kind.GAUGE else _UNIT_SUFFIXES.get(point.unit, "")
    return _INVALID.sub("_", point.name) + suffix + ("_total" if point.kind is Kind.COUNTER else "")


def point_families(points: Iterable[Point]) -> Iterator[Metric]:
    """The points by metric, in Prometheus form; those that would hide the service's own are left out."""
    families: dict[str, Metric] = {}
    for point in points:
        name = prometheus_name(point)
        if name.startswith(OWN_PREFIX):
            continue
        if name not in families:
            families[name] = _family(name, point)
        labels = {_INVALID.sub("_", key): value for key, value in point.attributes}
        families[name].add_sample(name, labels, point.value)
    yield from families.values()


def _family(name: str, point: Point) -> Metric:
    if point.kind is not Kind.COUNTER:
        return Metric(name, point.name, "gauge")
    # The text format wants _total on every counter; a scraped one without it keeps its name, and is shown untyped.
    base = name.removesuffix("_total")
    return Metric(base, point.name, "unknown" if base == name else "counter")


def scaphandre_families(points: Iterable[Point]) -> Iterator[Metric]:
    """The points that Scaphandre has names for, under those names."""
    known = list(points)
    for alias in SCAPHANDRE:
        for point in known:
            if point.name == alias.metric and set(alias.attributes) <= set(point.attributes):
                family = Metric(alias.name, alias.help, "unknown" if point.kind is Kind.COUNTER else "gauge")
                labels = {key: value for key, value in point.attributes if (key, value) not in alias.attributes}
                family.add_sample(alias.name, labels, point.value * alias.factor)
                yield family


def health_families(health: Health) -> Iterator[Metric]:
    """The service's own series."""
    push = health.push
    totals = {
        "samples": ("Samples taken", health.samples),
        "failures": ("Samples or scrapes that failed", health.failures),
        "missed_periods": ("Periods without a sample because the one before took too long", health.missed),
        "dropped_batches": ("Samples given up because the backlog was full", push.dropped),
        "rejected_points": ("Points that the bridge did not take from samples that it stored", push.rejected_points),
    }
    for name, (words, value) in totals.items():
        yield CounterMetricFamily(f"{OWN_PREFIX}{name}", words, value)
    pushes = CounterMetricFamily(f"{OWN_PREFIX}pushes", "Requests to the bridge by result", labels=["result"])
    for result, value in (("stored", push.stored), ("failed", push.failed), ("refused", push.refused)):
        pushes.add_metric([result], value)
    yield pushes
    yield GaugeMetricFamily(f"{OWN_PREFIX}backlog_batches", "Samples that wait for the bridge", push.backlog)


class HostPage(Collector):
    """What the page shows when it is asked.

    Args:
        latest: Gives the newest batch, None before the first.
        health: Gives the service's own counts.
        certificates: Files of certificates by name, whose end is shown.
    """

    def __init__(
        self,
        latest: Callable[[], Batch | None],
        health: Callable[[], Health],
        certificates: Mapping[str, str] | None = None,
    ) -> None:
        self._latest = latest
        self._health = health
        self._certificates = certificates or {}

    def collect(self) -> Iterator[Metric]:
        """The families of the page."""
        batch = self._latest()
        if batch is not None:
            yield from point_families(batch.points)
            yield from scaphandre_families(batch.points)
        yield from health_families(self._health())
        yield from certificate_families(self._certificates)


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _ServerOnIpv6(_Server):
    address_family = AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds for which a client may stay silent

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is the base class's
        """A scrape every few seconds is no news."""


class PageServer:
    """Serves the page on its own threads until it is closed.

    Args:
        listen: Where to listen; port 0 takes a free one.
        page: What `/metrics` shows.
        health: Gives the service's own counts, for `/healthz`.
        stale_after_seconds: Without a turn of the loop for so long the service is not healthy.

    Raises:
        RunFailed: the address cannot be listened on.
    """

    def __init__(
        self, listen: Endpoint, page: HostPage, health: Callable[[], Health], stale_after_seconds: float
    ) -> None:
        registry = CollectorRegistry()
        registry.register(page)
        self._metrics = make_wsgi_app(registry)
        self._health = health
        self._stale_after = stale_after_seconds
        server_class = _ServerOnIpv6 if ":" in listen.host else _Server
        try:
            self._server = make_server(listen.host, listen.port, self._answer, server_class, _Handler)
        except OSError as error:
            raise RunFailed(
                f"cannot listen on {listen}: {error.strerror or error}",
                cure="stop what listens there, or give the host another slot or port",
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[_POLL_SECONDS], name="page", daemon=True
        )

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    def start(self) -> None:
        """Start answering."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        status, body = self._healthz() if path == "/healthz" else (HTTPStatus.NOT_FOUND, {"error": "see /metrics"})
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "application/json")])
        return [json.dumps(body).encode()]

    def _healthz(self) -> tuple[HTTPStatus, dict[str, object]]:
        health = self._health()
        age = time.monotonic() - health.last_monotonic
        fresh = age <= self._stale_after
        status = HTTPStatus.OK if fresh else HTTPStatus.SERVICE_UNAVAILABLE
        body = {"ok": fresh, "last_turn_seconds": round(age, 3), "samples": health.samples}
        return status, {**body, "backlog": health.push.backlog}
