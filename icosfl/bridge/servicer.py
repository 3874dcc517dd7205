"""The OTLP MetricsService: reads a request, has its rows spooled, and only then acknowledges it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from icosfl.bridge.batch import Batch, explain
from icosfl.bridge.metrics import BridgeMetrics
from icosfl.bridge.senders import FirstTimes, Senders, sender_of
from icosfl.bridge.spool import Spool
from icosfl.collect.points import STORED_POINTS
from icosfl.errors import SpoolTooSmall, Unavailable

SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"

_MAX_TEXT = 500
_MAX_STRANGERS = 100

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Taken:
    """A request that is acknowledged: the answer's bytes, and how many of its points are stored."""

    response: bytes
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
        read: Makes rows of a request's bytes; raises `DecodeError` when they are no request.
        spool: Takes the rows.
        senders: Keeps account of the senders.
        metrics: Counts what comes and what becomes of it.
        retry_seconds: How long a sender is told to wait while the spool takes nothing.
    """

    def __init__(
        self,
        read: Callable[[bytes], Batch],
        spool: Spool,
        senders: Senders,
        metrics: BridgeMetrics,
        retry_seconds: float,
    ) -> None:
        self._read = read
        self._spool = spool
        self._senders = senders
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self._strangers = FirstTimes(_MAX_STRANGERS)

    def handler(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """The service for a gRPC server.

        Requests arrive as bytes and are parsed here: a parser inside gRPC would answer INTERNAL to bytes that are no
        request, which senders may take for a fault of the bridge.
        """
        export = grpc.unary_unary_rpc_method_handler(self.export)
        return grpc.method_handlers_generic_handler(SERVICE, {"Export": export})

    def export(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one request."""
        code = grpc.StatusCode.UNKNOWN
        try:
            answer = self.answer(body, sender_of(context))
            code = answer.code if isinstance(answer, Refusal) else grpc.StatusCode.OK
        finally:
            self._metrics.count_request(code.name)
        if isinstance(answer, Refusal):
            context.set_trailing_metadata(_details(answer))
            context.abort(answer.code, answer.text)
        context.set_trailing_metadata(((STORED_POINTS, str(answer.stored)),))
        return answer.response

    def answer(self, body: bytes, sender: str) -> Taken | Refusal:
        """Read a request, have its rows spooled, and say what became of it."""
        seconds = self._senders.admit(sender)
        if seconds:
            text = f"{sender:.80} sends {self._senders.excess}"
            return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, text, seconds)
        try:
            batch = self._read(body)
        except DecodeError as error:
            return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"not an ExportMetricsServiceRequest: {error}"[:_MAX_TEXT])
        self._senders.charge(sender, batch.points)
        if batch.strangers:
            self._name(batch)
        return self._store(batch)

    def _name(self, batch: Batch) -> None:
        for stranger in batch.strangers:
            name = stranger.get("service.name", "")
            if self._strangers.is_new(name):
                logger.warning("no rule matches the metrics of service.name %.80r: they are dropped", name)

    def _store(self, batch: Batch) -> Taken | Refusal:
        if len(batch.rows):
            began = time.perf_counter()
            try:
                self._spool.append(batch.rows)
            except SpoolTooSmall as error:
                self._metrics.count_refused(batch)
                return Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"not stored: {error}"[:_MAX_TEXT])
            except Unavailable as error:
                self._metrics.count_refused(batch)
                return Refusal(grpc.StatusCode.UNAVAILABLE, f"not stored: {error}"[:_MAX_TEXT], self._retry_seconds)
            finally:
                self._metrics.spool_seconds.observe(time.perf_counter() - began)
        self._metrics.count_taken(batch)
        return Taken(_response(batch), batch.stored)


def _response(batch: Batch) -> bytes:
    if not batch.rejected:
        return b""  # as an ExportMetricsServiceResponse: success, nothing to say
    response = ExportMetricsServiceResponse()
    response.partial_success.rejected_data_points = batch.rejected
    response.partial_success.error_message = explain(batch)
    return response.SerializeToString()


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
