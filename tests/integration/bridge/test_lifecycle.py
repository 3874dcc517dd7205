"""The bridge as a service: health, start without a store, pages, drain on SIGTERM, faults at start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event

import grpc
import pytest
import tomli_w
from google.protobuf.json_format import ParseDict
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

from icosfl.bridge import Bridge
from icosfl.bridge.servicer import SERVICE
from icosfl.config import BridgeConfig, Endpoint
from icosfl.errors import ConfigError, RunFailed, SchemaMismatch, StoreUnavailable

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING
LOAD = ParseDict(
    {
        "resourceMetrics": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "host"}}]},
                "scopeMetrics": [
                    {
                        "metrics": [
                            {
                                "name": "system.load",
                                "gauge": {"dataPoints": [{"asDouble": 1.5, "timeUnixNano": 10**18}]},
                            }
                        ]
                    }
                ],
            }
        ]
    },
    ExportMetricsServiceRequest(),
)
# A service whose store waits in each append until its standard input is closed, and says what it stored.
SLOW_SERVICE = """
import sys
from icosfl.bridge.__main__ import main
from icosfl.store.memory import MemoryStore

class SlowStore(MemoryStore):
    def append(self, rows):
        print("append", flush=True)
        sys.stdin.read()
        return super().append(rows)

    def close(self):
        print("stored", self.info().rows, flush=True)
        super().close()

sys.exit(main(sys.argv[1:], lambda config, schema: SlowStore(schema, config.capacity_rows)))
"""


def health_until(endpoint: Endpoint, wanted: int, service: str = "") -> None:
    """Watch the health service until it says `wanted`, at most 10 s."""
    with grpc.insecure_channel(str(endpoint)) as channel:
        for answer in HealthStub(channel).Watch(HealthCheckRequest(service=service), timeout=10, wait_for_ready=True):
            if answer.status == wanted:
                return
    pytest.fail("the health service ended its answers")


def ready(bridge: Bridge) -> tuple[int, dict[str, object]]:
    return get(bridge.pages_listen, "/readyz")


def get(endpoint: Endpoint, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://{endpoint}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_follows_the_store(bridge: Bridge, store, service: str) -> None:
    health_until(bridge.listens, SERVING, service)
    assert ready(bridge) == (200, {"ready": True, "reasons": []})

    store.down.set()
    health_until(bridge.listens, NOT_SERVING, service)
    assert ready(bridge) == (503, {"ready": False, "reasons": ["the store is down (wait)"]})
    assert get(bridge.pages_listen, "/healthz") == (200, {"alive": True})

    store.down.clear()
    health_until(bridge.listens, SERVING, service)


def test_health_is_answered_while_every_request_waits_for_the_store(bridge: Bridge, store) -> None:
    health_until(bridge.listens, SERVING)
    store.open.clear()
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        calls = [MetricsServiceStub(channel).Export.future(LOAD, timeout=20) for _ in range(40)]
        assert store.asked.wait(5)

        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=5).status == SERVING

        store.open.set()
        for call in calls:
            call.exception(timeout=10)


@pytest.mark.parametrize("error", [StoreUnavailable("no store yet"), SchemaMismatch("other series in there")])
def test_a_bridge_that_starts_before_its_store_becomes_healthy_by_itself(start, config, store, error) -> None:
    there = Event()

    def open_store():
        if not there.is_set():
            raise error
        return store

    bridge = start(config, open_store)
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        stub = MetricsServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Export(LOAD, timeout=5, wait_for_ready=True)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert ready(bridge)[0] == 503

        there.set()
        health_until(bridge.listens, SERVING)

        assert stub.Export(LOAD, timeout=5) == ExportMetricsServiceResponse()
    assert store.info().rows == 1


def test_a_request_that_outlasts_the_drain_is_cut_off_unacknowledged(config, store) -> None:
    bridge = Bridge(replace(config, drain_seconds=0.2), lambda: store)
    bridge.start()
    store.open.clear()
    with grpc.insecure_channel(str(bridge.listens)) as channel, ThreadPoolExecutor(1) as stopping:
        call = MetricsServiceStub(channel).Export.future(LOAD, timeout=20)
        assert store.asked.wait(5)
        stopped = stopping.submit(bridge.stop)

        assert call.exception(timeout=10).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

        store.open.set()
        stopped.result(timeout=10)


def test_a_store_whose_configuration_is_wrong_ends_the_service(config) -> None:
    def open_store():
        raise ConfigError("store.capacity_rows is 0", cure="set it")

    bridge = Bridge(config, open_store)
    bridge.start()
    bridge.wait()

    with pytest.raises(ConfigError, match="capacity_rows"):
        bridge.stop()


def test_pages_that_do_not_exist_are_not_found(bridge: Bridge) -> None:
    assert get(bridge.pages_listen, "/")[0] == 404


@pytest.mark.parametrize("key", ["listen", "metrics_listen"])
def test_a_busy_port_is_named(config: BridgeConfig, store, key: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])

        with pytest.raises(RunFailed, match=f"^{key}: cannot listen on {endpoint}") as caught:
            Bridge(replace(config, **{key: endpoint}), lambda: store).start()

    assert "port" in caught.value.cure


@pytest.fixture
def write(tmp_path: Path, config: BridgeConfig) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        path = tmp_path / "bridge.toml"
        path.write_text(tomli_w.dumps(asdict(replace(config, **changes))), encoding="utf-8")
        return path

    return write


def free_endpoint() -> Endpoint:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return Endpoint("127.0.0.1", server.getsockname()[1])


def test_sigterm_lets_a_request_in_flight_finish_and_exits_with_0(write) -> None:
    listen, pages = free_endpoint(), free_endpoint()
    command = [sys.executable, "-c", SLOW_SERVICE, "--config", str(write(listen=listen, metrics_listen=pages))]
    service = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with service, grpc.insecure_channel(str(listen)) as channel, grpc.insecure_channel(str(listen)) as watched:
        try:
            answers = HealthStub(watched).Watch(HealthCheckRequest(), timeout=30, wait_for_ready=True)
            assert any(answer.status == SERVING for answer in answers)
            call = MetricsServiceStub(channel).Export.future(LOAD, timeout=30)
            assert service.stdout.readline() == "append\n"

            service.send_signal(signal.SIGTERM)
            assert next(answers).status == NOT_SERVING
            answers.cancel()
            assert not call.done()
            service.stdin.close()

            assert call.result() == ExportMetricsServiceResponse()
            assert service.stdout.readline() == "stored 1\n"
            assert service.wait(15) == 0
        finally:
            service.kill()
        assert "Traceback" not in service.stderr.read()


def run(path: Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "icosfl.bridge", "--config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def test_a_wrong_rule_ends_the_service_with_one_clear_line(write, config) -> None:
    wrong = replace(config.rules[0], sources=(replace(config.rules[0].sources[0], series="gpu_usage"),))

    result = run(write(rules=(wrong,)))

    assert result.returncode == ConfigError.exit_code
    assert result.stderr.splitlines()[-1].startswith("icosfl.bridge: rules: host: gpu_usage: no such series")
    assert "Traceback" not in result.stderr


def test_a_wrong_value_in_the_file_is_named(write) -> None:
    path = write()
    path.write_text(path.read_text(encoding="utf-8").replace("retry_seconds = 0.05", "retry_seconds = 0"))

    result = run(path)

    assert result.returncode == ConfigError.exit_code
    assert "retry_seconds" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_slow_python_protobuf_is_refused(write) -> None:
    environment = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}

    result = run(write(), environment)

    assert result.returncode == ConfigError.exit_code
    assert "expected 'upb'" in result.stderr
