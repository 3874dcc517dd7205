"""When dataClay's services call themselves healthy: once they are registered and answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from icosfl.config import Endpoint
from icosfl.fleet.grpc_health import serving_status
from icosfl.store import registry
from support.dataclay_stack import DataclayStack, free_ports


class HoldingRelay:
    """Passes on what a client says to a Redis, but holds back the registration of a backend until it may go on."""

    def __init__(self, redis: Endpoint) -> None:
        self._redis = redis
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.holds = threading.Event()
        self.go_on = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.create_connection((self._redis.host, self._redis.port))
            for source, target, hold in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, target, hold), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, hold: bool) -> None:
        try:
            while data := source.recv(65536):
                if hold and b"\r\nSET\r\n" in data and b"/backend/" in data:
                    self.holds.set()
                    self.go_on.wait()
                target.sendall(data)
        except OSError:
            return
        finally:
            for side in (source, target):
                side.close()


@pytest.fixture
def relay(dataclay_stack: DataclayStack) -> Iterator[HoldingRelay]:
    relay = HoldingRelay(dataclay_stack.endpoints["redis"])
    yield relay
    relay.close()


@pytest.fixture
def endpoint(dataclay_stack: DataclayStack, relay: HoldingRelay, tmp_path: Path) -> Iterator[Endpoint]:
    """Where a second backend listens, whose registration the relay holds back."""
    (port,) = free_ports(1)
    config = tomllib.loads(dataclay_stack.config_path.read_text())
    config["redis"]["port"] = relay.port
    config["backend"]["port"] = port
    config["storage_dir"] = str(tmp_path / "objects")
    path = tmp_path / "dataclay.toml"
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "icosfl.store.launch", "backend", "--config", str(path)]
    with (tmp_path / "backend.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield Endpoint("127.0.0.1", port)
    relay.go_on.set()
    process.terminate()
    assert process.wait(30) == 0, (tmp_path / "backend.log").read_text()


def status(endpoint: Endpoint) -> str:
    return serving_status(endpoint.host, endpoint.port, "", 20)


def wait_for(endpoint: Endpoint, wanted: str, seconds: float = 30) -> None:
    """Ask until the answer is the wanted one."""
    end = time.monotonic() + seconds
    while (found := status(endpoint)) != wanted:
        assert time.monotonic() < end, f"{endpoint} is {found}, not {wanted}"
        time.sleep(0.02)


def is_registered(stack: DataclayStack, endpoint: Endpoint) -> bool:
    with registry.connect(stack.endpoints["redis"]) as client:
        found = (json.loads(client.get(key) or "{}") for key in client.scan_iter("/backend/*"))
        return any(backend.get("port") == endpoint.port for backend in found)


def test_a_backend_that_listens_is_not_healthy_until_it_is_registered(dataclay_stack, relay, endpoint) -> None:
    assert relay.holds.wait(30)

    assert status(endpoint) == "NOT_SERVING"
    assert not is_registered(dataclay_stack, endpoint)

    relay.go_on.set()

    wait_for(endpoint, "SERVING")
    assert is_registered(dataclay_stack, endpoint)


@pytest.mark.parametrize("name", ["metadata", "backend"])
def test_dataclays_own_name_of_the_service_is_healthy_too(dataclay_stack, name) -> None:
    endpoint = dataclay_stack.endpoints[name]

    wait_for(endpoint, "SERVING")

    service = f"dataclay.proto.{name}.{name.capitalize()}Service"
    assert serving_status(endpoint.host, endpoint.port, service, 20) == "SERVING"
