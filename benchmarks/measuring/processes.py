"""Processes on a core of their own: what they cost, and what they hold."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Cores:
    """Where the servers run, and where what sends to them does."""

    servers: set[int]
    clients: set[int]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The last core for the servers and the others for the clients; the same one where there is only one."""
        *others, last = sorted(os.sched_getaffinity(0))
        return cls({last}, set(others) or {last})


@contextmanager
def pinned(core: set[int]) -> Iterator[None]:
    """What is started meanwhile runs on this core for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, core)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Used:
    """Processor seconds that processes used since they began, and MiB that they hold."""

    cpu: float
    memory: float


def used(processes: Iterable[psutil.Process]) -> Used:
    """What processes use together."""
    cpu = memory = 0.0
    for process in processes:
        times = process.cpu_times()
        cpu += times.user + times.system
        memory += process.memory_info().rss / 2**20
    return Used(cpu, memory)


@contextmanager
def directory_on_disk() -> Iterator[Path]:
    """A directory for what must be durable.

    Raises:
        SystemExit: the project lies in memory, where nothing is durable and an fsync costs nothing.
    """
    parent = PROJECT / ".state"
    parent.mkdir(exist_ok=True)
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    kind = next(mounts[each] for each in (parent, *parent.parents) if each in mounts)
    if kind in {"tmpfs", "ramfs"}:
        raise SystemExit(f"{parent} lies in memory ({kind}): run the benchmark in a checkout on a disk")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=parent) as directory:
        yield Path(directory)


def fsync_milliseconds(directory: Path, times: int = 50) -> float:
    """The median of what 4 KiB more take to be on the disk."""
    taken = []
    with (directory / "fsync").open("wb", buffering=0) as file:
        for _ in range(times):
            begun = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return sorted(taken)[times // 2] * 1e3


def machine() -> str:
    """This machine, in one line."""
    about = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    names = [line.partition(":")[2].strip() for line in about.splitlines() if line.startswith("Model name")]
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{(names or [platform.machine()])[0]}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )
