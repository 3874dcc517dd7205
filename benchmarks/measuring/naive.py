"""What a first version of the bridge looks like: official classes, a pandas Series a metric, joined, concatenated.

    python benchmarks/measuring/naive.py PORT

Written to be compared with. It knows no rules, keeps nothing on disk, minds neither order nor repetition, and would
fail at most of what the tests ask of the bridge.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pandas as pd
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)

WINDOW_ROWS = 28_800


class NaiveBridge(MetricsServiceServicer):  # type: ignore[misc]  # has no types
    """Keeps a window of 28,800 rows in a frame, and acknowledges when a request's rows are in it."""

    def __init__(self, columns: int) -> None:
        times = pd.to_datetime(np.arange(WINDOW_ROWS) * 3 * 10**9)
        names = [f"bench.metric.{column // 10} dev-{column}" for column in range(columns)]
        self._window = pd.DataFrame(np.zeros((WINDOW_ROWS, columns)), times, names)
        self._lock = threading.Lock()

    def Export(  # noqa: N802 (gRPC's name)
        self,
        request: ExportMetricsServiceRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> ExportMetricsServiceResponse:
        """Take a request."""
        found: dict[str, dict[int, float]] = {}
        for group in request.resource_metrics:
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    for point in getattr(metric, metric.WhichOneof("data")).data_points:
                        attributes = {each.key: each.value.string_value for each in point.attributes}
                        values = found.setdefault(f"{metric.name} {attributes['device']}", {})
                        values[point.time_unix_nano] = getattr(point, point.WhichOneof("value"))
        frame = pd.DataFrame()
        for name, values in found.items():
            series = pd.Series(list(values.values()), pd.to_datetime(list(values)), name=name)
            frame = frame.join(series, how="outer")
        with self._lock:
            self._window = pd.concat([self._window, frame]).tail(WINDOW_ROWS)
        return ExportMetricsServiceResponse()


def main(port: int, columns: int) -> None:
    """Serve until the process is killed."""
    server = grpc.server(ThreadPoolExecutor(16))
    add_MetricsServiceServicer_to_server(NaiveBridge(columns), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
