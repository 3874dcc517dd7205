"""A sender of numbered points, as stubborn as a collector: each is sent until it is acknowledged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

from icosfl.config import Endpoint

SERIES = "load_1m"
STEP = 10**6
"""Between two points, in ns."""

_RETRYABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_PAUSE_SECONDS = 0.02


class Stream:
    """Points from a thread of its own: the value is the number, the time that of the sender's clock.

    Args:
        listen: The bridge's address.

    Attributes:
        acknowledged: The number of every acknowledged point by its time.
        sent_again: How many attempts had no answer, or a refusal, and were made again.
        told_to_wait: How many of them were told by the bridge when to come again.
        clock_steps_by: What is wrong with the clock, in ns.
    """

    def __init__(self, listen: Endpoint) -> None:
        self.acknowledged: dict[int, int] = {}
        self.sent_again = 0
        self.told_to_wait = 0
        self.clock_steps_by = 0
        self._begin = time.time_ns() - 3600 * 10**9
        self._listen = listen
        self._state = threading.Condition()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """End; a point that is not acknowledged yet is given up."""
        self._stopping.set()
        self._thread.join()

    def wait_for_more(self, points: int, seconds: float = 60) -> None:
        """Return once so many more points are acknowledged."""
        wanted = len(self.acknowledged) + points
        self._wait_until(lambda: len(self.acknowledged) >= wanted, seconds)

    def wait_for_told_to_wait(self, attempts: int, seconds: float = 60) -> None:
        """Return once so many more attempts were told when to come again."""
        wanted = self.told_to_wait + attempts
        self._wait_until(lambda: self.told_to_wait >= wanted, seconds)

    def _wait_until(self, reached: Callable[[], bool], seconds: float) -> None:
        with self._state:
            came = self._state.wait_for(lambda: self._failure or reached(), seconds)
        if self._failure:
            raise self._failure
        assert came, f"{len(self.acknowledged)} points acknowledged, {self.told_to_wait} attempts told to wait"

    def _run(self) -> None:
        options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
        with grpc.insecure_channel(str(self._listen), options) as channel:
            stub = MetricsServiceStub(channel)
            number = 0
            while not self._stopping.is_set():
                when = self._begin + number * STEP + self.clock_steps_by
                try:
                    self._send(stub, point(number, when))
                except BaseException as error:
                    self._failure = error
                    with self._state:
                        self._state.notify_all()
                    raise
                if not self._stopping.is_set():
                    with self._state:
                        self.acknowledged[when] = number
                        self._state.notify_all()
                number += 1

    def _send(self, stub: MetricsServiceStub, request: ExportMetricsServiceRequest) -> None:
        """Send a request until it is acknowledged, the very same each time."""
        while True:
            try:
                response = stub.Export(request, timeout=2)
            except grpc.RpcError as error:
                if self._stopping.is_set():
                    return
                if error.code() not in _RETRYABLE:
                    raise
                with self._state:
                    self.sent_again += 1
                    self.told_to_wait += retry_of(error) is not None
                    self._state.notify_all()
                self._stopping.wait(_PAUSE_SECONDS)
            else:
                assert not response.partial_success.rejected_data_points, response
                return


def point(number: int, when: int) -> ExportMetricsServiceRequest:
    """A request with the point of this number and time."""
    request = ExportMetricsServiceRequest()
    of_host = request.resource_metrics.add()
    name = of_host.resource.attributes.add(key="service.name")
    name.value.string_value = "icosfl-host-metrics"
    metric = of_host.scope_metrics.add().metrics.add(name="system.cpu.load_average.1m")
    metric.gauge.data_points.add(time_unix_nano=when, as_double=number)
    return request


def retry_of(error: grpc.RpcError) -> Duration | None:
    """The delay after which the bridge wants the request again; None when it says nothing."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = RetryInfo()
                if detail.Unpack(info):
                    return info.retry_delay
    return None
