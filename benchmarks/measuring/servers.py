"""The servers that are measured: the bridge as the fleet runs it, and those that it is compared with."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from icosfl.config import BridgeConfig, Endpoint, SpoolConfig, StoreConfig
from measuring.bodies import Kind
from measuring.processes import pinned
from support.bridge_service import NO_LIMITS, as_toml
from support.dataclay_stack import DataclayStack, free_ports

CAPACITY_ROWS = 28_800
CHECKPOINT_SECONDS = 5.0
SPOOL_BYTES = 2 * 2**30
START_SECONDS = 60
_STOP_SECONDS = 30
_ALIAS = "bench"


class Bridge:
    """A bridge that runs, in a process of its own."""

    def __init__(self, process: psutil.Process, listen: Endpoint, pages: Endpoint) -> None:
        self.process = process
        self.listen = listen
        self._pages = pages

    def counters(self) -> Mapping[str, float]:
        """What its /metrics counts, by the metric's name."""
        page = httpx.get(f"http://{self._pages}/metrics", trust_env=False, timeout=START_SECONDS).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return {sample.name: sample.value for sample in samples if not sample.labels}

    def wait_for(self, name: str, value: float, seconds: float) -> float:
        """Return once a counter has reached a value, or has not in so many seconds; what it is then."""
        end = time.monotonic() + seconds
        while (found := self.counters().get(name, 0.0)) < value and time.monotonic() < end:
            time.sleep(0.1)
        return found


@contextmanager
def running_bridge(directory: Path, kind: Kind, store: StoreConfig, core: set[int]) -> Iterator[Bridge]:
    """A bridge for this kind of request, without limits for senders, once it takes points."""
    listen, pages = (Endpoint("127.0.0.1", port) for port in free_ports(2))
    config = BridgeConfig(
        listen=listen,
        metrics_listen=pages,
        row_tolerance_seconds=0.5,
        future_tolerance_seconds=60,
        retry_seconds=0.2,
        drain_seconds=5,
        max_message_bytes=4 * 2**20,
        spool=SpoolConfig(directory / "spool", SPOOL_BYTES, "always", 1.0),
        limits=NO_LIMITS,
        store=store,
        series=kind.series,
        rules=kind.rules,
        log_level="info",
    )
    path = directory / "bridge.toml"
    path.write_text(as_toml(config), encoding="utf-8")
    with _running([sys.executable, "-m", "icosfl.bridge", "--config", str(path)], directory, core) as process:
        bridge = Bridge(process, listen, pages)
        _wait_until_it_is_ready(bridge, pages)
        yield bridge


def _wait_until_it_is_ready(bridge: Bridge, pages: Endpoint) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"http://{pages}/readyz", trust_env=False, timeout=1).raise_for_status()
            store_is_up = bridge.counters()["icosfl_bridge_store_up"] == 1
        except httpx.HTTPError:
            store_is_up = False
        if store_is_up:
            return
        if bridge.process.status() == psutil.STATUS_ZOMBIE or time.monotonic() > end:
            raise SystemExit("the bridge does not get ready")
        time.sleep(0.1)


@contextmanager
def running_script(name: str, directory: Path, core: set[int], argument: str) -> Iterator[tuple[psutil.Process, str]]:
    """One of the servers to compare with, once it listens: its process, and its address."""
    (port,) = free_ports(1)
    command = [sys.executable, str(Path(__file__).parent / name), str(port), argument]
    with _running(command, directory, core) as process:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(START_SECONDS)
        yield process, f"127.0.0.1:{port}"


@contextmanager
def _running(command: list[str], directory: Path, core: set[int]) -> Iterator[psutil.Process]:
    log = directory / "server.log"
    with log.open("wb") as file, pinned(core):
        process = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        yield psutil.Process(process.pid)
        process.terminate()
        process.wait(_STOP_SECONDS)
    except BaseException:
        sys.stderr.write(f"{' '.join(command)}: {process.poll()}\n{log.read_text()[-4000:]}")
        raise
    finally:
        process.kill()
        process.wait()


def memory_store() -> StoreConfig:
    """A window in the bridge's own process."""
    nowhere = Endpoint("127.0.0.1", 1)
    return StoreConfig("memory", _ALIAS, CAPACITY_ROWS, 10.0, nowhere, "", "", "")


@contextmanager
def dataclay_store(directory: Path, core: set[int]) -> Iterator[tuple[StoreConfig, list[psutil.Process]]]:
    """A window in a real object store, and its processes: backend, metadata service and Redis."""
    before = set(psutil.Process().children(recursive=True))
    stack = DataclayStack(directory, checkpoint_seconds=CHECKPOINT_SECONDS)
    try:
        with pinned(core):
            stack.start()
        started = set(psutil.Process().children(recursive=True)) - before
        yield (
            stack.store_config(_ALIAS, CAPACITY_ROWS, deadline_seconds=10.0),
            [each for each in started if "proxy" not in each.cmdline()],
        )
    finally:
        stack.stop()
