"""How many points the bridge takes, into memory and into dataClay, beside its limits and the naive way.

    .venv/bin/python benchmarks/bridge.py [--seconds 8 | --minutes 10] [--only WORD ...]

The bridge, and the object store with it, run on one core, four senders on the others. A processor second is one of the
servers' processes, until the last acknowledged row has reached the store. Every acknowledged request's rows are on the
disk before (spool, fsync always). Senders repeat themselves: their requests differ in times and values, and the bridge
knows them after the first few; those of `unsteady` ones differ in other bytes, too, and are parsed.
`--only memory scrape` runs the rows of which each word is a part. Read the ratios.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from measuring import bodies, limits  # noqa: E402 (the tests' library is not installed)
from measuring.bodies import FIRST_TIME, PERIOD, SERIES, Kind  # noqa: E402
from measuring.load import Load, Senders  # noqa: E402
from measuring.processes import Cores, Used, directory_on_disk, fsync_milliseconds, machine, used  # noqa: E402
from measuring.servers import (  # noqa: E402
    CAPACITY_ROWS,
    CHECKPOINT_SECONDS,
    dataclay_store,
    memory_store,
    running_bridge,
    running_script,
)

from icosfl.config import StoreConfig, schema_of  # noqa: E402
from icosfl.store import open_store  # noqa: E402

CLIENTS = 4
SMALL, LARGE = 100, 5000
BAR_SMALL, BAR_LARGE, BAR_DATACLAY, BAR_NAIVE = 100_000, 200_000, 0.5, 20
DRAIN_SECONDS = 120
ROWS_TAKEN = "icosfl_bridge_rows_total"
POINTS_STORED = "icosfl_bridge_points_stored_total"


@dataclass(frozen=True)
class Result:
    """One row of the table.

    `cpu` are the processor seconds of the server, `all_cpu` those of the object store's processes, too; `memory` and
    `all_memory` are what they hold at the end, in MiB. `drained` are the seconds from the last acknowledgement to the
    store's having it. `wrong` says what is not as it must be.
    """

    name: str
    points: int
    load: Load
    cpu: float
    all_cpu: float
    memory: float
    all_memory: float
    drained: float = 0.0
    wrong: str = ""

    @property
    def per_core(self) -> float:
        """Points in a processor second of the server."""
        return self.points / self.cpu

    @property
    def per_core_of_all(self) -> float:
        """Points in a processor second of all servers together."""
        return self.points / self.all_cpu


class Meter:
    """What processes use from `start` on."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._begin = Used(0, 0)

    def start(self) -> None:
        """Begin to count."""
        self._begin = used(self._processes)

    def read(self) -> Used:
        """Processor seconds since the start, and MiB held now."""
        now = used(self._processes)
        return Used(now.cpu - self._begin.cpu, now.memory)


class Bench:
    """One run of the benchmark.

    Args:
        directory: Where what is durable goes.
        seconds: How long senders send in each row.
        cores: Where what runs.
    """

    def __init__(self, directory: Path, seconds: float, cores: Cores) -> None:
        self._directory = directory
        self._seconds = seconds
        self._cores = cores
        self._senders = Senders(CLIENTS, seconds, cores.clients)

    def bridge(self, store_kind: str, name: str, kind: Kind) -> Result:
        """The bridge with a store of this kind."""
        directory = self._directory / name.replace(",", "").replace(" ", "-")
        directory.mkdir()
        with (
            self._store(store_kind, directory) as (store, others),
            running_bridge(directory, kind, store, self._cores.servers) as bridge,
        ):
            own, all_of_them = Meter([bridge.process]), Meter([bridge.process, *others])

            def begin() -> None:
                own.start()
                all_of_them.start()

            load = self._senders.send(kind, str(bridge.listen), begin)
            ended = time.monotonic()
            requests = load.requests + load.before
            rows = bridge.wait_for(ROWS_TAKEN, requests * kind.rows, DRAIN_SECONDS)
            drained = time.monotonic() - ended
            mine, everyones = own.read(), all_of_them.read()
            counted = bridge.counters()[POINTS_STORED]
            wrong = [
                f"{load.complaints} answers told of rejected points" if load.complaints else "",
                _unequal("points counted", counted, requests * kind.wanted),
                _unequal("rows in the store", rows, requests * kind.rows),
                _wrong_in_window(store, kind, requests) if others else "",
            ]
        return Result(
            name,
            load.requests * kind.points,
            load,
            mine.cpu,
            everyones.cpu,
            mine.memory,
            everyones.memory,
            drained,
            ", ".join(filter(None, wrong)),
        )

    @contextmanager
    def _store(self, kind: str, directory: Path) -> Iterator[tuple[StoreConfig, list[psutil.Process]]]:
        if kind == "memory":
            yield memory_store(), []
        else:
            with dataclay_store(directory, self._cores.servers) as found:
                yield found

    def script(self, file: str, argument: str, name: str, kind: Kind) -> Result:
        """A server to compare with, under the same senders."""
        with running_script(file, self._directory, self._cores.servers, argument) as (process, address):
            meter = Meter([process])
            load = self._senders.send(kind, address, meter.start)
            found = meter.read()
        return Result(name, load.requests * kind.points, load, found.cpu, found.cpu, found.memory, found.memory)

    def decoding(self, kind: Kind) -> float:
        """Points in a processor second of protobuf's decoding alone."""
        return limits.decoding(kind.body(0), kind.points, min(self._seconds, 3.0), self._cores.servers)


def _unequal(what: str, found: float, wanted: int) -> str:
    return "" if found == wanted else f"{what}: {found:.0f}, not {wanted}"


def _wrong_in_window(store: StoreConfig, kind: Kind, requests: int) -> str:
    """What of the newest rows in the object store is not what was sent; every row tells its own values."""
    opened = open_store(store, schema_of(kind.series))
    try:
        rows = opened.window().rows
    finally:
        opened.close()
    sent = requests * kind.rows
    numbers = np.arange(max(sent - CAPACITY_ROWS, 0), sent)
    if not np.array_equal(rows.times, FIRST_TIME + numbers * PERIOD):
        return "the window's times are not those of the newest rows"
    if len(kind.series) == SERIES and not np.array_equal(rows.values, numbers[:, None] + np.arange(SERIES) / 16):
        return "the window's values are not those of the newest rows"
    return ""


def run(bench: Bench, only: list[str]) -> tuple[list[Result], dict[str, float]]:
    """All rows whose names hold each of these words."""
    kinds = [bodies.batch(SMALL), bodies.batch(LARGE)]
    unsteady = [bodies.batch(SMALL, unsteady=True), bodies.batch(LARGE, unsteady=True)]
    rows: list[tuple[str, Kind, Callable[[str, Kind], Result]]] = [
        *(
            (f"bridge, {store}", kind, partial(bench.bridge, store))
            for store in ("memory", "dataClay")
            for kind in (*kinds, bodies.scrape(), *unsteady)
        ),
        *(("naive", kind, partial(bench.script, "naive.py", str(SERIES))) for kind in kinds),
        *(("gRPC alone", kind, partial(bench.script, "limits.py", "")) for kind in kinds),
    ]
    wanted = [(f"{name}, {kind.name}", kind, measure) for name, kind, measure in rows]
    results = [_told(measure(name, kind)) for name, kind, measure in wanted if all(word in name for word in only)]
    return results, {kind.name: bench.decoding(kind) for kind in kinds}


def _told(result: Result) -> Result:
    Console(stderr=True).print(f"{result.name}: {result.per_core_of_all:,.0f} points/s per core", style="dim")
    return result


def show(results: list[Result], decoding: dict[str, float], console: Console) -> None:
    """Print the table, and the bars."""
    table = Table(box=None, title=f"{CLIENTS} senders, each with one request in flight")
    table.add_column("what")
    for column in (
        "points/s\nwall",
        "points/s per core\nserver",
        "points/s per core\nand its store",
        "ack ms\np50",
        "ack ms\np99",
        "MiB\nserver",
        "MiB\nand store",
        "in store\nafter s",
        "sent\nback",
        "all there\nonce",
    ):
        table.add_column(column, justify="right")
    for each in results:
        compared = each.name.startswith("bridge")
        table.add_row(
            each.name,
            f"{each.points / each.load.seconds:,.0f}",
            f"{each.per_core:,.0f}",
            f"{each.per_core_of_all:,.0f}",
            f"{each.load.p50 * 1e3:.1f}",
            f"{each.load.p99 * 1e3:.1f}",
            f"{each.memory:.0f}",
            f"{each.all_memory:.0f}",
            f"{each.drained:.1f}" if compared else "-",
            f"{each.load.refused}",
            ("NO" if each.wrong else "yes") if compared else "-",
        )
    for name, rate in decoding.items():
        table.add_row(f"decoding alone, {name}", "-", f"{rate:,.0f}", "-", *["-"] * 7)
    console.print(table)
    for each in results:
        if each.wrong:
            console.print(f"{each.name}: {each.wrong}")
    for line in bars({each.name: each for each in results}):
        console.print(line)


def bars(found: dict[str, Result]) -> Iterator[str]:
    """What was asked for, what was measured, and whether that is enough."""
    for points, bar in ((SMALL, BAR_SMALL), (LARGE, BAR_LARGE)):
        memory = found.get(f"bridge, memory, {points:,} points")
        dataclay = found.get(f"bridge, dataClay, {points:,} points")
        naive = found.get(f"naive, {points:,} points")
        if memory:
            yield _bar(f"{points:,} points into memory, points/s per core", bar, memory.per_core, "{:,.0f}")
        if memory and dataclay:
            ratio = dataclay.per_core_of_all / memory.per_core
            yield _bar(f"{points:,} points into dataClay / into memory, all servers", BAR_DATACLAY, ratio, "{:.2f}")
            ratio = dataclay.per_core / memory.per_core
            yield _bar(f"{points:,} points into dataClay / into memory, bridge", BAR_DATACLAY, ratio, "{:.2f}")
        if memory and naive:
            ratio = memory.per_core / naive.per_core
            yield _bar(f"{points:,} points into memory / naive", BAR_NAIVE, ratio, "{:.1f}")


def _bar(what: str, wanted: float, found: float, form: str) -> str:
    return f"{what}: at least {form.format(wanted)}, is {form.format(found)}: {'yes' if found >= wanted else 'NO'}"


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = ArgumentParser(description="Measure the bridge.")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long senders send in each row")
    parser.add_argument("--minutes", type=float, default=0.0, help="the same in minutes")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORD", help="only rows that hold each of these words")
    asked = parser.parse_args(arguments)
    seconds = 60 * asked.minutes or asked.seconds
    console = Console(width=160)
    cores = Cores.of_this_machine()
    console.print(f"{machine()}; load at the start {os.getloadavg()[0]:.1f}")
    console.print(f"servers on core {sorted(cores.servers)}, senders on {sorted(cores.clients)}, {seconds:.0f} s a row")
    with directory_on_disk() as directory:
        console.print(
            f"spool on the disk of the project, fsync of 4 KiB: {fsync_milliseconds(directory):.1f} ms; "
            f"{CAPACITY_ROWS:,} rows a window, a checkpoint every {CHECKPOINT_SECONDS:.0f} s"
        )
        results, decoding = run(Bench(directory, seconds, cores), asked.only)
    show(results, decoding, console)
    console.print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
