"""The OTLP MetricsService: reads a request, has its rows stored, and only then acknowledges it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from icosfl.bridge.batch import Batch, Reader, explain
from icosfl.bridge.metrics import BridgeMetrics
from icosfl.collect.points import STORED_POINTS
from icosfl.errors import IcosflError
from icosfl.schema import Rows
from icosfl.store.base import Position

SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"

_MAX_TEXT = 500
_MAX_STRANGERS = 100

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """What takes the rows: the keeper of a `SeriesStore`."""

    @property
    def earliest(self) -> int:
        """The time, in ns since the epoch, before which it keeps no rows."""

    def append(self, rows: Rows) -> Position:
        """Store rows and return once they are stored; raises `IcosflError` when they are not."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When requests are refused, and for how long.

    Args:
        retry_seconds: How long a sender is told to wait before it sends again.
        in_hand: How many requests are worked on at once; the next ones are told to come again.
    """

    retry_seconds: float
    in_hand: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that is acknowledged, and how many of its points are stored."""

    response: ExportMetricsServiceResponse
    stored: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not acknowledged; one worth another try tells the sender so by `retry_seconds`."""

    code: grpc.StatusCode
    text: str
    retry_seconds: float | None = None


class MetricsServicer:
    """Answers `MetricsService.Export`.

    Args:
        reader: Makes rows of requests.
        sink: Takes the rows.
        metrics: Counts what comes and what becomes of it.
        limits: When requests are refused.
        clock: The time now, in ns since the epoch.
    """

    def __init__(
        self,
        reader: Reader,
        sink: Sink,
        metrics: BridgeMetrics,
        limits: Limits,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._reader = reader
        self._sink = sink
        self._metrics = metrics
        self._limits = limits
        self._clock = clock
        self._slots = BoundedSemaphore(limits.in_hand)
        self._strangers: set[str] = set()

    def handler(self) -> grpc.GenericRpcHandler[bytes, ExportMetricsServiceResponse]:
        """The service for a gRPC server.

        Requests arrive as bytes and are parsed here: a parser inside gRPC would answer INTERNAL to bytes that are no
        request, which senders may take for a fault of the bridge.
        """
        export = grpc.unary_unary_rpc_method_handler(
            self.export, response_serializer=ExportMetricsServiceResponse.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Export": export})

    def export(self, body: bytes, context: grpc.ServicerContext) -> ExportMetricsServiceResponse:
        """Answer one request."""
        code = grpc.StatusCode.UNKNOWN
        try:
            answer = self.answer(body)
            code = answer.code if isinstance(answer, Refusal) else grpc.StatusCode.OK
        finally:
            self._metrics.count_request(code.name)
        if isinstance(answer, Refusal):
            context.set_trailing_metadata(_details(answer))
            context.abort(answer.code, answer.text)
        context.set_trailing_metadata(((STORED_POINTS, str(answer.stored)),))
        return answer.response

    def answer(self, body: bytes) -> Taken | Refusal:
        """Read a request, have its rows stored, and say what became of it."""
        if not self._slots.acquire(blocking=False):
            return self._later("the bridge has as many requests in hand as it takes")
        try:
            request = ExportMetricsServiceRequest.FromString(body)
            batch = self._read(request)
            return self._store(batch)
        except DecodeError as error:
            return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"not an ExportMetricsServiceRequest: {error}"[:_MAX_TEXT])
        finally:
            self._slots.release()

    def _read(self, request: ExportMetricsServiceRequest) -> Batch:
        batch = self._reader.read(request, self._clock(), self._sink.earliest)
        for stranger in batch.strangers:
            name = stranger.get("service.name", "")
            if name not in self._strangers and len(self._strangers) < _MAX_STRANGERS:
                self._strangers.add(name)
                logger.warning("no rule matches the metrics of service.name %.80r: they are dropped", name)
        return batch

    def _store(self, batch: Batch) -> Taken | Refusal:
        if len(batch.rows):
            try:
                with self._metrics.store_seconds.time():
                    self._sink.append(batch.rows)
            except IcosflError as error:
                logger.debug("not stored: %s", error)
                self._metrics.count_refused(batch)
                return self._later(f"not stored: {error}")
        self._metrics.count_taken(batch)
        response = ExportMetricsServiceResponse()
        if batch.rejected:
            response.partial_success.rejected_data_points = batch.rejected
            response.partial_success.error_message = explain(batch)
        return Taken(response, batch.stored)

    def _later(self, text: str) -> Refusal:
        return Refusal(grpc.StatusCode.UNAVAILABLE, text[:_MAX_TEXT], self._limits.retry_seconds)


def _details(refusal: Refusal) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that tells a sender when to come again, as OTLP asks: `RetryInfo` in the status's details.

    The OpenTelemetry SDK for Python looks for it under a name of its own, and there it shall find nothing: told a delay
    it gives up after six of them, left to itself it goes on with longer pauses until its timeout.
    """
    if refusal.retry_seconds is None:
        return ()
    delay = Duration()
    delay.FromNanoseconds(round(refusal.retry_seconds * 1e9))
    packed = AnyMessage()
    packed.Pack(RetryInfo(retry_delay=delay))
    code: int = refusal.code.value[0]
    status = Status(code=code, message=refusal.text, details=[packed])
    return (("grpc-status-details-bin", status.SerializeToString()),)
