"""The bridge as a service: health, start without a store, pages, drain on SIGTERM, faults at start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

import grpc
import pytest
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
from icosfl.bridge.spool import Spool
from icosfl.config import BridgeConfig, Endpoint
from icosfl.errors import ConfigError, RunFailed, SchemaMismatch, SpoolFailed, StoreUnavailable, Unavailable
from icosfl.fleet import hops
from support.bridge_service import as_toml
from support.spools import disk_of

SERVING = HealthCheckResponse.SERVING
NOT_SERVING = HealthCheckResponse.NOT_SERVING


def load(when: int) -> ExportMetricsServiceRequest:
    """A request of one point."""
    metric = {"name": "system.load", "gauge": {"dataPoints": [{"asDouble": 1.5, "timeUnixNano": when}]}}
    sender = {"attributes": [{"key": "service.name", "value": {"stringValue": "host"}}]}
    content = [{"resource": sender, "scopeMetrics": [{"metrics": [metric]}]}]
    return ParseDict({"resourceMetrics": content}, ExportMetricsServiceRequest())


LOAD, OLD = load(10**18), load(1)
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
# A service whose store is down.
STORELESS_SERVICE = """
import sys
from icosfl.bridge.__main__ import main
from icosfl.errors import StoreUnavailable

def open_store(config, schema):
    raise StoreUnavailable("there is no store")

sys.exit(main(sys.argv[1:], open_store))
"""


def health_until(endpoint: Endpoint, wanted: int, service: str = "") -> None:
    """Watch the health service until it says `wanted`, at most 10 s."""
    with grpc.insecure_channel(str(endpoint)) as channel:
        for answer in HealthStub(channel).Watch(HealthCheckRequest(service=service), timeout=10, wait_for_ready=True):
            if answer.status == wanted:
                return
    pytest.fail("the health service ended its answers")


def until(bridge: Bridge, ready: tuple[int, dict[str, object]]) -> None:
    """Return as soon as /readyz says so."""
    pause, end = Event(), time.monotonic() + 20
    while (said := get(bridge.pages_listen, "/readyz")) != ready:
        assert time.monotonic() < end, said
        pause.wait(0.02)


def get(endpoint: Endpoint, path: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"http://{endpoint}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_full_disk_makes_the_service_ill_but_not_the_server_and_the_store_neither(
    bridge: Bridge, store, monkeypatch
) -> None:
    health_until(bridge.listens, SERVING, SERVICE)
    until(bridge, (200, {"ready": True, "reasons": [], "store": "answers"}))

    store.down.set()
    until(bridge, (200, {"ready": True, "reasons": [], "store": "the store is down (wait)"}))
    health_until(bridge.listens, SERVING, SERVICE)

    with disk_of(monkeypatch) as disk, grpc.insecure_channel(str(bridge.listens)) as channel:
        disk.room = 0
        with pytest.raises(grpc.RpcError) as caught:
            MetricsServiceStub(channel).Export(LOAD, timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        health_until(bridge.listens, NOT_SERVING, SERVICE)
        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=5).status == SERVING
        address = str(bridge.listens)
        assert hops.health("grpc", address) == f"{address} answers"
        with pytest.raises(Unavailable, match="NOT_SERVING"):
            hops.health("grpc", address, f"/{SERVICE}")
        code, answer = get(bridge.pages_listen, "/readyz")
        assert (code, answer["ready"]) == (503, False)
        assert "No space left" in answer["reasons"][0]
        assert get(bridge.pages_listen, "/healthz") == (200, {"alive": True})

    health_until(bridge.listens, SERVING, SERVICE)
    assert hops.health("grpc", address, f"/{SERVICE}") == f"{address} answers"


def test_health_is_answered_while_the_store_hangs(bridge: Bridge, store) -> None:
    store.open.clear()
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        for _ in range(40):
            MetricsServiceStub(channel).Export(LOAD, timeout=5)
        assert store.asked.wait(5)

        assert HealthStub(channel).Check(HealthCheckRequest(), timeout=5).status == SERVING

    store.open.set()


@pytest.mark.parametrize("error", [StoreUnavailable("no store yet"), SchemaMismatch("other series in there")])
def test_a_bridge_takes_points_before_its_store_is_there(start, config, store, error) -> None:
    there = Event()

    def open_store():
        if not there.is_set():
            raise error
        return store

    bridge = start(config, open_store)
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        assert MetricsServiceStub(channel).Export(OLD, timeout=5) == ExportMetricsServiceResponse()
    until(bridge, (200, {"ready": True, "reasons": [], "store": str(error)}))

    there.set()

    assert store.until(1).times.tolist() == [1]
    until(bridge, (200, {"ready": True, "reasons": [], "store": "answers"}))


def test_a_request_that_outlasts_the_drain_is_cut_off_unacknowledged(config, store, monkeypatch) -> None:
    asked, disk = Event(), Event()

    def hang(spool, rows):
        asked.set()
        assert disk.wait(30)
        raise SpoolFailed("the disk came too late")

    monkeypatch.setattr(Spool, "append", hang)
    bridge = Bridge(replace(config, drain_seconds=0.2), lambda: store)
    bridge.start()
    with grpc.insecure_channel(str(bridge.listens)) as channel, ThreadPoolExecutor(1) as stopping:
        call = MetricsServiceStub(channel).Export.future(LOAD, timeout=20)
        assert asked.wait(5)
        stopped = stopping.submit(bridge.stop)

        assert call.exception(timeout=10).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}

        disk.set()
        stopped.result(timeout=10)
    assert store.appends == 0


def test_what_a_stopping_bridge_cannot_hand_over_is_there_after_its_next_start(config, store, start) -> None:
    store.down.set()
    bridge = Bridge(config, lambda: store)
    bridge.start()
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        MetricsServiceStub(channel).Export(LOAD, timeout=5)
    bridge.stop()
    after = type(store)()

    start(config, lambda: after)

    assert after.until(1).times.tolist() == [10**18]


def test_what_comes_while_the_bridge_looks_at_its_store_is_handed_over_before_it_stops(config, store) -> None:
    looks, go_on, handed = Event(), Event(), []
    info, append = store.info, store.append

    def look():
        looks.set()
        assert go_on.wait(30)
        return info()

    store.info, store.append = look, lambda rows: handed.append(rows.times.tolist()) or append(rows)
    bridge = Bridge(config, lambda: store)
    bridge.start()
    assert looks.wait(5)
    with grpc.insecure_channel(str(bridge.listens)) as channel, ThreadPoolExecutor(1) as stopping:
        assert MetricsServiceStub(channel).Export(OLD, timeout=5) == ExportMetricsServiceResponse()
        health = HealthStub(channel).Watch(HealthCheckRequest(), timeout=10)
        assert next(health).status == SERVING  # it watches: one that comes later would be turned away
        stopped = stopping.submit(bridge.stop)
        assert any(answer.status == NOT_SERVING for answer in health)
        health.cancel()
        go_on.set()
        stopped.result(timeout=20)

    assert handed == [[1]]


def test_a_bridge_that_cannot_start_lets_go_of_its_spool(config, store, start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(RunFailed):
            Bridge(replace(config, metrics_listen=endpoint), lambda: store).start()

    health_until(start(config, lambda: store).listens, SERVING)


def test_a_spool_that_another_bridge_uses_is_named(bridge: Bridge, config, store) -> None:
    with pytest.raises(RunFailed, match=f"another process uses {config.spool.directory}"):
        Bridge(config, lambda: store).start()


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
        path.write_text(as_toml(replace(config, **changes)), encoding="utf-8")
        return path

    return write


def free_endpoint() -> Endpoint:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return Endpoint("127.0.0.1", server.getsockname()[1])


@contextmanager
def service(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A bridge with a store of its own in another process."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, "--config", str(path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_sigterm_refuses_new_requests_and_hands_over_what_is_there_and_exits_with_0(write) -> None:
    listen, pages = free_endpoint(), free_endpoint()
    with (
        service(SLOW_SERVICE, write(listen=listen, metrics_listen=pages)) as process,
        grpc.insecure_channel(str(listen)) as channel,
        grpc.insecure_channel(str(listen)) as watched,
    ):
        answers = HealthStub(watched).Watch(HealthCheckRequest(), timeout=30, wait_for_ready=True)
        assert any(answer.status == SERVING for answer in answers)
        stub = MetricsServiceStub(channel)
        assert stub.Export(LOAD, timeout=30) == ExportMetricsServiceResponse()
        assert process.stdout.readline() == "append\n"
        assert stub.Export(OLD, timeout=30) == ExportMetricsServiceResponse()

        process.send_signal(signal.SIGTERM)
        assert next(answers).status == NOT_SERVING
        answers.cancel()
        process.stdin.close()

        assert process.stdout.readline() == "append\n"
        assert process.stdout.readline() == "stored 2\n"
        assert process.wait(15) == 0
        assert "Traceback" not in process.stderr.read()


def test_what_was_acknowledged_is_there_after_the_bridge_was_killed_before_its_store_came(
    write, config, start, store
) -> None:
    listen, pages = free_endpoint(), free_endpoint()
    with (
        service(STORELESS_SERVICE, write(listen=listen, metrics_listen=pages)) as process,
        grpc.insecure_channel(str(listen)) as channel,
    ):
        health_until(listen, SERVING)
        for each in (LOAD, OLD):
            assert MetricsServiceStub(channel).Export(each, timeout=10) == ExportMetricsServiceResponse()
        process.kill()
        process.wait()

    start(config, lambda: store)

    assert store.until(2).times.tolist() == [1, 10**18]


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
