"""What a node's data plane costs while nothing but its own measurements goes through it.

    .venv/bin/python benchmarks/data_plane.py [--seconds 60]

The real services of one node as the fleet starts them, by the facts of group_vars and the defaults of the roles: a row
every 3 s, a full window of a day, a checkpoint a minute, a forecast with each row, the model measured anew every
minute. CPU is of one core; RSS counts what services share (the interpreter's code, libraries) in each, USS in none.
Not counted: what supervises them (systemd, Docker or supervisord).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tomli_w
import yaml
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from measuring.processes import directory_on_disk, machine  # noqa: E402 (the tests' library is not installed)

from icosfl.aggregate import model  # noqa: E402
from icosfl.config import (  # noqa: E402
    BridgeConfig,
    CollectConfig,
    Endpoint,
    ForecastConfig,
    NodeConfig,
    SenderLimits,
    SpoolConfig,
    StoreConfig,
    schema_of,
)
from icosfl.errors import Unavailable  # noqa: E402
from icosfl.schema import Rows  # noqa: E402
from icosfl.serve.client import read_forecast  # noqa: E402
from icosfl.store import SeriesStore, open_store  # noqa: E402
from icosfl.train.artifact import save  # noqa: E402
from icosfl.train.local import survey  # noqa: E402
from icosfl.train.messages import Question  # noqa: E402
from icosfl.train.node import Job  # noqa: E402
from icosfl.train.settings import TrainSettings  # noqa: E402
from support.bridge_service import RULES, SERIES  # noqa: E402
from support.dataclay_stack import DataclayStack, free_ports  # noqa: E402

SECOND = 10**9
START_SECONDS = 60.0
LOOPBACK = "127.0.0.1"


def _yaml(path: str) -> dict[str, Any]:
    return dict(yaml.safe_load((PROJECT / path).read_text(encoding="utf-8")))


def _defaults(role: str) -> dict[str, Any]:
    """A role's default arguments, without its name before them."""
    found = _yaml(f"roles/{role}/defaults/main.yml")
    return {name.removeprefix(f"{role}_"): value for name, value in found.items()}


METRICS, STORE = _yaml("group_vars/all/metrics.yml"), _yaml("group_vars/all/store.yml")
PERIOD: float = METRICS["icosfl_sampling_period_seconds"]


@dataclass(frozen=True)
class Node:
    """One node: its directory, its store, and where its services listen."""

    directory: Path
    store: StoreConfig
    otlp: Endpoint
    forecasts: Endpoint

    @property
    def config(self) -> NodeConfig:
        """What its services know of it."""
        return NodeConfig(
            host="node",
            period_seconds=PERIOD,
            max_gap_seconds=METRICS["icosfl_max_gap_seconds"],
            stale_after_seconds=METRICS["icosfl_stale_after_seconds"],
            models_dir=self.directory / "models",
            runs_dir=self.directory / "runs",
            store=self.store,
            series=SERIES,
        )

    def bridge(self) -> BridgeConfig:
        """The bridge's configuration."""
        role = _defaults("otlp_bridge")
        return BridgeConfig(
            listen=self.otlp,
            metrics_listen=_somewhere(),
            row_tolerance_seconds=PERIOD / 2,
            future_tolerance_seconds=role["future_tolerance_seconds"],
            retry_seconds=role["retry_seconds"],
            drain_seconds=role["drain_seconds"],
            max_message_bytes=role["max_message_bytes"],
            spool=SpoolConfig(directory=self.directory / "spool", **STORE["icosfl_spool"]),
            limits=SenderLimits(**STORE["icosfl_sender_limits"]),
            store=self.store,
            series=SERIES,
            rules=RULES,
            log_level="info",
        )

    def collector(self) -> CollectConfig:
        """The host metrics' configuration."""
        role = _defaults("host_metrics")
        return CollectConfig(
            host="node",
            service_name=role["service_name"],
            listen=_somewhere(),
            period_seconds=PERIOD,
            source="embedded",
            scrape_url="",
            scrape_keep=role["scrape_keep"],
            powercap_root=role["powercap_root"],
            powercap_simulated=False,
            push_timeout_seconds=role["push_timeout_seconds"],
            backlog_batches=role["backlog_batches"],
            log_level="info",
            push_to=self.otlp,
        )

    def forecast(self) -> ForecastConfig:
        """The forecast service's configuration."""
        role = _defaults("forecast_api")
        return ForecastConfig(
            self.forecasts, role["refresh_seconds"], role["evaluate_seconds"], self.config, role["log_level"]
        )


def _somewhere() -> Endpoint:
    (port,) = free_ports(1)
    return Endpoint(LOOPBACK, port)


@contextmanager
def running(node: Node, module: str, config: object) -> Iterator[psutil.Process]:
    """A service of ours, as the fleet starts it."""
    path, log = node.directory / f"{module}.toml", node.directory / f"{module}.log"
    plain = TypeAdapter(type(config)).dump_python(config, mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(plain), encoding="utf-8")
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", module, "--config", str(path)], stdout=file, stderr=file)
    try:
        yield psutil.Process(process.pid)
        process.terminate()
        process.wait(30)
    except BaseException:
        sys.stderr.write(f"{module}: {process.poll()}\n{log.read_text()[-4000:]}")
        raise
    finally:
        process.kill()
        process.wait()


@contextmanager
def object_store(directory: Path) -> Iterator[tuple[DataclayStack, dict[str, psutil.Process]]]:
    """Redis and dataClay's services."""
    before = set(psutil.Process().children())
    stack = DataclayStack(directory, checkpoint_seconds=STORE["icosfl_store_checkpoint_seconds"])
    try:
        stack.start()
        found: dict[str, psutil.Process] = {}
        for process in set(psutil.Process().children()) - before:
            line = process.cmdline()  # Redis writes over its own
            name = f"dataclay_{line[line.index('--config') - 1]}" if "--config" in line else "redis"
            found[name] = process
        yield stack, dict(sorted(found.items(), reverse=True))
    finally:
        stack.stop()


def fill(store: SeriesStore, node: NodeConfig) -> None:
    """Put a day of rows before those that were measured, and a model behind them; the day lacks what they lack."""
    first = store.window().rows
    while len(first) < 2:  # the very first row has no processor use yet
        store.wait(store.info().position, START_SECONDS)
        first = store.window().rows
    rows, period = METRICS["icosfl_window_rows"], round(PERIOD * SECOND)
    values = 50 + np.cumsum(np.random.default_rng(1).normal(size=(rows, len(SERIES))), axis=0)
    values[:, np.isnan(first.values[-1])] = np.nan
    store.append(Rows(first.times[0] - period * np.arange(rows, 0, -1), values))
    with (PROJECT / "pyproject.toml").open("rb") as file:
        settings = TrainSettings.from_run_config(tomllib.load(file)["tool"]["flwr"]["app"]["config"])
    job = Job(node, settings, Question(series=SERIES, period_seconds=PERIOD))
    found = survey(store.window().rows, schema_of(SERIES), job.plan, settings)
    begun = model.start(job, "bench").artifact
    save(model.after_round(begun, 1, (node.host,), found.present, list(begun.arrays)), node.models_dir)


def wait_until_it_forecasts(node: Node) -> None:
    """Return once there is a forecast."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            page = read_forecast(str(node.forecasts), 10)
        except Unavailable as error:
            found = str(error)
        else:
            if page.ready:
                return
            found = repr(page)[:1000]
        if time.monotonic() > end:
            raise SystemExit(f"no forecast: {found}")
        time.sleep(0.2)


@contextmanager
def data_plane(directory: Path) -> Iterator[tuple[SeriesStore, dict[str, psutil.Process]]]:
    """All services of a node, working; its store, and their processes by name."""
    with ExitStack() as stack:
        dataclay, found = stack.enter_context(object_store(directory))
        store_config = dataclay.store_config("timeseries", METRICS["icosfl_window_rows"])
        node = Node(directory, store_config, _somewhere(), _somewhere())
        store = stack.enter_context(open_store(store_config, schema_of(SERIES)))

        def start(name: str, config: object) -> psutil.Process:
            return stack.enter_context(running(node, f"icosfl.{name}", config))

        collector, bridge = start("collect", node.collector()), start("bridge", node.bridge())
        fill(store, node.config)
        forecasts = start("serve", node.forecast())
        wait_until_it_forecasts(node)
        yield store, {"host_metrics": collector, "otlp_bridge": bridge, **found, "forecast_api": forecasts}


@dataclass(frozen=True)
class Share:
    """What a service used: processor seconds, and MiB with and without what it shares."""

    cpu: float
    rss: float
    uss: float


def shares(processes: dict[str, psutil.Process]) -> dict[str, Share]:
    """What services have used until now."""
    found = {}
    for name, process in processes.items():
        times, memory = process.cpu_times(), process.memory_full_info()
        found[name] = Share(times.user + times.system, memory.rss / 2**20, memory.uss / 2**20)
    return found


def watch(directory: Path, seconds: float) -> tuple[dict[str, Share], int]:
    """What each service uses in a second, and how many rows came."""
    with data_plane(directory) as (store, processes):
        before, rows = shares(processes), store.info().position
        begun = time.monotonic()
        time.sleep(seconds)
        after, passed = shares(processes), time.monotonic() - begun
        came = store.info().position.sequence - rows.sequence
    return {name: Share((one.cpu - before[name].cpu) / passed, one.rss, one.uss) for name, one in after.items()}, came


def show(found: dict[str, Share], console: Console) -> None:
    """Print the table."""
    table = Table(box=None)
    table.add_column("service")
    for column in ("CPU %", "RSS MiB", "USS MiB"):
        table.add_column(column, justify="right")
    every = Share(*(sum(getattr(one, part) for one in found.values()) for part in ("cpu", "rss", "uss")))
    for name, one in {**found, "together": every}.items():
        if one is every:
            table.add_section()
        table.add_row(name, f"{one.cpu * 100:.2f}", f"{one.rss:.0f}", f"{one.uss:.0f}")
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = ArgumentParser(description="Measure what a node's data plane costs.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is watched")
    asked = parser.parse_args(arguments)
    console = Console(width=120)
    console.print(f"{machine()}; load at the start {os.getloadavg()[0]:.1f}")
    with directory_on_disk() as directory:
        found, rows = watch(directory, asked.seconds)
    console.print(f"{rows} rows of {len(SERIES)} series came in {asked.seconds:.0f} s, a row every {PERIOD:g} s\n")
    show(found, console)
    console.print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
