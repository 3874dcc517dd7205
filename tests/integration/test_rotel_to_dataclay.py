"""From the collector through the real rotel and the bridge into dataClay, also when one of them is away."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import tomli_w
from grpc_health.v1.health_pb2 import HealthCheckResponse

from icosfl.collect.otlp import Origin, Sender, Verdict
from icosfl.collect.points import Batch, Kind, Point
from icosfl.collect.push import Pusher
from icosfl.config import CollectConfig, Endpoint
from icosfl.store import SeriesStore, open_store
from support.bridge_service import SCHEMA, bridge_of, wait_for_health
from support.dataclay_stack import DataclayStack, SupervisedProcess, free_ports
from support.exporters import PROJECT
from support.rotel import rotel

SECOND = 10**9
PERIOD_SECONDS = 0.2
ORIGIN = Origin("edge-01", "icosfl-host-metrics")
README = (PROJECT / "roles/otel_collector/README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Chain:
    """rotel, the bridge behind it, and the store behind that."""

    rotel: SupervisedProcess
    bridge: SupervisedProcess
    store: SeriesStore
    listen: Endpoint
    bridge_listen: Endpoint

    def start_bridge(self) -> None:
        """Return once the bridge stores what comes."""
        self.bridge.start()
        wait_for_health(self.bridge_listen, HealthCheckResponse.SERVING)

    def times(self) -> list[int]:
        """The rows' times."""
        return self.store.window().rows.times.tolist()


@pytest.fixture
def chain(tmp_path: Path, dataclay_stack: DataclayStack, request: pytest.FixtureRequest) -> Iterator[Chain]:
    config = dataclay_stack.store_config(f"rotel-{request.node.name}", capacity=2000, deadline_seconds=5)
    bridge_listen, command = bridge_of(tmp_path, config)
    listen, http = (Endpoint("127.0.0.1", port) for port in free_ports(2))
    bridge = SupervisedProcess("bridge", command, tmp_path / "bridge.log", bridge_listen)
    relay = rotel(listen, http, bridge_listen, tmp_path / "rotel.log")
    with open_store(config, SCHEMA) as store:
        try:
            relay.start()
            yield Chain(relay, bridge, store, listen, bridge_listen)
        finally:
            relay.end(signal.SIGKILL)
            bridge.end(signal.SIGKILL)


@contextmanager
def collecting(push_to: Endpoint, scratch: Path) -> Iterator[Callable[[str], float]]:
    """The service that measures this host; gives what its page says of itself."""
    page = Endpoint("127.0.0.1", free_ports(1)[0])
    config = CollectConfig(
        host="edge-01",
        service_name="icosfl-host-metrics",
        listen=page,
        period_seconds=PERIOD_SECONDS,
        source="embedded",
        scrape_url="",
        scrape_keep="",
        powercap_root=str(scratch / "no-meter"),
        powercap_simulated=False,
        push_to=push_to,
        push_timeout_seconds=5,
        backlog_batches=7200,
        log_level="info",
    )
    path, log = scratch / "collect.toml", scratch / "collect.log"
    path.write_text(tomli_w.dumps(asdict(config)), encoding="utf-8")

    def said(metric: str) -> float:
        with httpx.Client(trust_env=False) as client:
            text = client.get(f"http://{page}/metrics").text
        return float(next(line for line in text.splitlines() if line.startswith(metric)).split()[-1])

    with log.open("wb") as file:
        service = subprocess.Popen([sys.executable, "-m", "icosfl.collect", "--config", str(path)], stderr=file)
    try:
        until(lambda: "metrics of edge-01" in log.read_text())
        yield said
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0, log.read_text()
        assert "could not be handed" not in log.read_text()
    finally:
        service.kill()
        service.wait()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait, for a bounded time, for what nobody announces."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        pause.wait(0.05)


def sample(when: int) -> Batch:
    return Batch(when, (Point("system.cpu.load_average.1m", "1", Kind.GAUGE, 1.5, when),))


def samples(first: int, count: int) -> list[Batch]:
    return [sample(first + index * SECOND) for index in range(count)]


def test_every_sample_is_a_row_although_the_bridge_was_killed_in_between(chain: Chain, tmp_path: Path) -> None:
    chain.start_bridge()
    with collecting(chain.listen, tmp_path) as said:
        until(lambda: len(chain.times()) >= 5)
        chain.bridge.end(signal.SIGKILL)
        before = said("icosfl_collect_samples_total")
        until(lambda: said("icosfl_collect_samples_total") >= before + 20)
        chain.start_bridge()
        until(lambda: all_are_rows(chain, said))
        assert said("icosfl_collect_samples_total") >= before + 20

    rows = chain.store.window().rows
    columns = [SCHEMA.index(name) for name in ("cpu_usage", "memory_usage", "load_1m")]
    assert np.isfinite(rows.values[1:, columns]).all()  # the first sample has no use of the processors


def all_are_rows(chain: Chain, said: Callable[[str], float]) -> bool:
    """Whether every sample of the collector is a row by now; it takes no other one meanwhile."""
    before, rows, after = said("icosfl_collect_samples_total"), len(chain.times()), said("icosfl_collect_samples_total")
    return before == rows == after


def test_what_rotel_held_when_it_was_killed_is_all_that_is_lost(chain: Chain) -> None:
    first, held, later = (samples(time.time_ns() - ago * SECOND, 5) for ago in (40, 30, 20))
    sender = Sender(chain.listen, ORIGIN, timeout_seconds=5)
    chain.start_bridge()
    assert {sender.send([each]).verdict for each in first} == {Verdict.STORED}
    until(lambda: len(chain.times()) == 5)
    chain.bridge.end(signal.SIGKILL)
    assert {sender.send([each]).verdict for each in held} == {Verdict.STORED}

    chain.rotel.end(signal.SIGKILL)
    pusher = Pusher(sender, capacity=100)
    pusher.start()
    for each in later:
        pusher.offer(each)
    chain.rotel.start()
    chain.start_bridge()
    until(lambda: len(chain.times()) == 10)

    assert pusher.close(5) == 0
    assert chain.times() == [each.time_ns for each in (*first, *later)]


def test_rotel_keeps_as_many_samples_as_its_readme_says_and_the_collector_keeps_the_others(chain: Chain) -> None:
    (said,) = re.findall(r"it\s+keeps (\d+) samples in memory", README)
    offered = samples(time.time_ns() - 1300 * SECOND, 1200)
    pusher = Pusher(Sender(chain.listen, ORIGIN, timeout_seconds=2), capacity=7200)
    pusher.start()
    for each in offered:
        pusher.offer(each)
    until(lambda: pusher.counts().failed > 0)

    assert pusher.counts().stored == pytest.approx(int(said), abs=15)
    chain.start_bridge()
    until(lambda: len(chain.times()) == len(offered), seconds=240)
    assert pusher.close(5) == 0
    assert pusher.counts().dropped == pusher.counts().refused == 0
    assert chain.times() == [each.time_ns for each in offered]


def test_rotel_stops_in_peace_and_hands_over_what_it_has(chain: Chain) -> None:
    sender = Sender(chain.listen, ORIGIN, timeout_seconds=5)
    chain.start_bridge()
    sent = samples(time.time_ns() - 60 * SECOND, 20)
    assert {sender.send([each]).verdict for each in sent} == {Verdict.STORED}

    assert chain.rotel.end(signal.SIGTERM) == 0
    until(lambda: chain.times() == [each.time_ns for each in sent])
