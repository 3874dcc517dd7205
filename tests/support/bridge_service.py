"""The bridge as the fleet runs it, by the fleet's own rules, and the official exporter of OpenTelemetry before it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import tomli_w
import yaml
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from pydantic import TypeAdapter

from icosfl.bridge.servicer import SERVICE
from icosfl.config import (
    BridgeConfig,
    Endpoint,
    RuleConfig,
    SenderLimits,
    SeriesConfig,
    SpoolConfig,
    StoreConfig,
    schema_of,
)
from support.dataclay_stack import free_ports

FACTS = yaml.safe_load((Path(__file__).parents[2] / "group_vars/all/metrics.yml").read_text(encoding="utf-8"))
SERIES = TypeAdapter(tuple[SeriesConfig, ...]).validate_python(FACTS["icosfl_series"])
RULES = TypeAdapter(tuple[RuleConfig, ...]).validate_python(FACTS["icosfl_bridge_rules"])
SCHEMA = schema_of(SERIES)
NO_LIMITS = SenderLimits(1e9, 1e12, 1.0, 100)


def bridge_of(directory: Path, store: StoreConfig) -> tuple[Endpoint, list[str]]:
    """Where a bridge with this store listens once its command runs."""
    listen, pages = (Endpoint("127.0.0.1", port) for port in free_ports(2))
    spool = SpoolConfig(directory / "spool", 64 * 2**20, "always", 1.0)
    config = BridgeConfig(listen, pages, 0.5, 60, 0.2, 5, 4 * 2**20, spool, NO_LIMITS, store, SERIES, RULES, "info")
    path = directory / "bridge.toml"
    path.write_text(as_toml(config), encoding="utf-8")
    return listen, [sys.executable, "-m", "icosfl.bridge", "--config", str(path)]


def as_toml(config: BridgeConfig) -> str:
    """The configuration as the role renders it: without what is not set."""
    plain = TypeAdapter(BridgeConfig).dump_python(config, mode="json", exclude_none=True)
    return tomli_w.dumps(plain)


@contextmanager
def running_bridge(directory: Path, store: StoreConfig) -> Iterator[Endpoint]:
    """The bridge in a process of its own; its listening address."""
    listen, command = bridge_of(directory, store)
    with (directory / "bridge.log").open("wb") as log:
        service = subprocess.Popen(command, stderr=log)
    try:
        yield listen
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0, (directory / "bridge.log").read_text()
    finally:
        service.kill()
        service.wait()


def wait_for_health(listen: Endpoint, wanted: int) -> None:
    """Return once the health of the bridge's service is as wanted, at most 60 s."""
    with grpc.insecure_channel(str(listen)) as channel:
        for answer in HealthStub(channel).Watch(HealthCheckRequest(service=SERVICE), timeout=60, wait_for_ready=True):
            if answer.status == wanted:
                return


@contextmanager
def exporting(listen: Endpoint) -> Iterator[OTLPMetricExporter]:
    """The exporter of the SDK, sending to this address."""
    exporter = OTLPMetricExporter(endpoint=f"http://{listen}", insecure=True, timeout=30)
    try:
        yield exporter
    finally:
        exporter.shutdown()
