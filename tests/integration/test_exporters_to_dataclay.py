"""The real Scaphandre and node_exporter, asked by the collector, through the bridge into dataClay.

No test machine has an energy meter that can be trusted to be there: theirs is simulated, and the points say so.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import tomli_w
from grpc_health.v1.health_pb2 import HealthCheckResponse

from icosfl.config import CollectConfig, Endpoint, StoreConfig
from icosfl.schema import Rows
from icosfl.store import SeriesStore, open_store
from support.bridge_service import FACTS, SCHEMA, running_bridge, wait_for_health
from support.dataclay_stack import DataclayStack, free_ports
from support.exporters import SimulatedMeter, node_exporter, scaphandre

PACKAGE_WATTS, DRAM_WATTS = 20.0, 2.0
SECONDS = 60

Exporter = Callable[[SimulatedMeter, Path], AbstractContextManager[str]]


@pytest.fixture
def store_config(dataclay_stack: DataclayStack, request: pytest.FixtureRequest) -> StoreConfig:
    return dataclay_stack.store_config(f"exporters-{request.node.name}", deadline_seconds=5)


@pytest.fixture
def store(store_config: StoreConfig) -> Iterator[SeriesStore]:
    with open_store(store_config, SCHEMA) as opened:
        yield opened


@contextmanager
def collecting(exporter: str, page: str, bridge: Endpoint, period: float, scratch: Path) -> Iterator[str]:
    """The collector's service, wired to an exporter by the facts of the fleet; its own page."""
    (port,) = free_ports(1)
    sender = FACTS["icosfl_senders"][exporter]
    config = CollectConfig(
        host="edge-01",
        service_name=sender["service_name"],
        listen=Endpoint("127.0.0.1", port),
        period_seconds=period,
        source="both",
        scrape_url=page,
        scrape_keep=sender["keep"],
        powercap_root=str(scratch / "no-meter-of-its-own"),
        powercap_simulated=True,
        push_to=bridge,
        push_timeout_seconds=5,
        backlog_batches=100,
        log_level="info",
    )
    path, log = scratch / "collect.toml", scratch / "collect.log"
    path.write_text(tomli_w.dumps(asdict(config)), encoding="utf-8")
    with log.open("wb") as file:
        service = subprocess.Popen([sys.executable, "-m", "icosfl.collect", "--config", str(path)], stderr=file)
    try:
        yield f"http://127.0.0.1:{port}/metrics"
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0, log.read_text()
    finally:
        service.kill()
        service.wait()


def rows_of(store: SeriesStore, count: int) -> Rows:
    """Wait, for a bounded time, for so many rows with power in them."""
    pause, end = threading.Event(), time.monotonic() + SECONDS
    power = SCHEMA.index("power")
    while True:
        rows = store.window().rows
        if np.count_nonzero(np.isfinite(rows.values[:, power])) >= count:
            return rows
        assert time.monotonic() < end, f"only {rows.values} came"
        pause.wait(0.1)


@pytest.mark.parametrize(
    ("name", "exporter", "period"),
    # Scaphandre measures anew only when nobody asked it for two seconds.
    [("scaphandre", scaphandre, 2.5), ("node_exporter", node_exporter, 0.5)],
)
def test_rows_have_what_the_exporter_measures_and_the_processors_use_which_it_does_not(
    name: str, exporter: Exporter, period: float, tmp_path: Path, store_config: StoreConfig, store: SeriesStore
) -> None:
    meter = SimulatedMeter(tmp_path, PACKAGE_WATTS, DRAM_WATTS)
    with (
        meter.running(),
        exporter(meter, tmp_path) as page,
        running_bridge(tmp_path, store_config) as bridge,
    ):
        wait_for_health(bridge, HealthCheckResponse.SERVING)
        with collecting(name, page, bridge, period, tmp_path) as own_page:
            rows = rows_of(store, 3)
            with httpx.Client(trust_env=False) as client:
                shown = client.get(own_page).text

    # The first sample has neither the processors' use nor power: both need two readings.
    table = dict(zip(SCHEMA.names, rows.values[1:].T, strict=True))
    assert np.isfinite(rows.values[1:]).all(), rows.values
    assert ((table["cpu_usage"] >= 0) & (table["cpu_usage"] <= 100)).all()
    assert ((table["memory_usage"] > 0) & (table["memory_usage"] < psutil.virtual_memory().total / 2**20)).all()
    assert (table["load_1m"] >= 0).all()
    assert np.mean(table["power"]) == pytest.approx(PACKAGE_WATTS + DRAM_WATTS, rel=0.25)
    powers = [line for line in shown.splitlines() if line.startswith("scaph_host_power_microwatts")]
    assert len(powers) == 1
    assert 'simulated="true"' in powers[0]
    assert "scaph_process" not in shown
