"""What a bridge is measured against: protobuf's decoding alone, and gRPC's answering alone.

python benchmarks/measuring/limits.py PORT
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest


def decoding(body: bytes, points: int, seconds: float, core: set[int]) -> float:
    """Points that `ExportMetricsServiceRequest.FromString` reads in a processor second."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return points / pool.submit(_decode, body, seconds, core).result()


def _decode(body: bytes, seconds: float, core: set[int]) -> float:
    os.sched_setaffinity(0, core)
    times, begun = 0, time.process_time()
    while (passed := time.process_time() - begun) < seconds:
        ExportMetricsServiceRequest.FromString(body)
        times += 1
    return passed / times


def serve(port: int) -> None:
    """Answer every request with nothing, unread, until the process is killed."""
    export = grpc.unary_unary_rpc_method_handler(lambda _body, _context: b"")
    service = "opentelemetry.proto.collector.metrics.v1.MetricsService"
    handler = grpc.method_handlers_generic_handler(service, {"Export": export})
    server = grpc.server(ThreadPoolExecutor(16), handlers=[handler])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
