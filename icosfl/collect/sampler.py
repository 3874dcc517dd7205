"""This host's metrics by OpenTelemetry's names, from the kernel's counters (psutil, /proc) and the RAPL meter.

| metric | kind, unit | what it is |
|---|---|---|
| system.cpu.utilization | gauge, 1 | share of the CPUs' time since the last sample, neither idle nor waiting for I/O |
| system.cpu.load_average.{1m,5m,15m} | gauge, {thread} | the kernel's load averages |
| system.memory.usage | sum, By | by system.memory.state: used = total - available, free (unused), cached = the rest |
| system.memory.limit | sum, By | total memory |
| system.memory.linux.available | sum, By | what programs could get without swapping (MemAvailable) |
| hw.host.power | gauge, W | package + dram energy since the last sample by time |
| hw.host.energy | counter, J | package + dram energy since the first sample |

The three states of memory add up to the limit. The first sample has no utilization and no power: both need two
readings. Where the machine has no meter both hw.* metrics are absent; from a simulated one they carry
`simulated=true`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from icosfl.collect.notices import Notice
from icosfl.collect.points import Attributes, Batch, Kind, Point
from icosfl.collect.rapl import MeterAbsent, Zones, consumed_uj, read_zones
from icosfl.errors import Unavailable

logger = logging.getLogger(__name__)

CPU_UTILIZATION = "system.cpu.utilization"
LOAD_AVERAGES = ("system.cpu.load_average.1m", "system.cpu.load_average.5m", "system.cpu.load_average.15m")
MEMORY_USAGE = "system.memory.usage"
MEMORY_STATE = "system.memory.state"
MEMORY_LIMIT = "system.memory.limit"
MEMORY_AVAILABLE = "system.memory.linux.available"
HOST_POWER = "hw.host.power"
HOST_ENERGY = "hw.host.energy"
SIMULATED: Attributes = (("simulated", "true"),)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of all CPUs together since boot."""

    total: float
    idle: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of main memory: all, what programs could still get, and what nobody uses."""

    total: int
    available: int
    free: int


@dataclass(frozen=True, slots=True)
class Energy:
    """What the meter showed: watts since the last sample and joules since the first one, counted from `start_ns`."""

    watts: float
    joules: float
    start_ns: int


def utilization(before: CpuTimes, now: CpuTimes) -> float | None:
    """The busy share (0 to 1) between two readings; None when the kernel's counters did not advance."""
    total = now.total - before.total
    if total <= 0:
        return None
    return min(max(1.0 - (now.idle - before.idle) / total, 0.0), 1.0)


def read_cpu() -> CpuTimes:
    """Read /proc/stat. Guest time is left out: the kernel counts it in user time already."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq + times.steal
    idle = times.idle + times.iowait
    return CpuTimes(busy + idle, idle)


def read_memory() -> Memory:
    """Read /proc/meminfo."""
    memory = psutil.virtual_memory()
    return Memory(memory.total, memory.available, memory.free)


class Rate:
    """Power and energy from readings of the same counters, between one and the next."""

    def __init__(self) -> None:
        self._last: tuple[int, Zones] | None = None
        self._start_ns = 0
        self._total_uj = 0

    def take(self, zones: Zones, time_ns: int, now_ns: int) -> Energy | None:
        """Take a reading; None without counters, at the first reading, and when a counter was set back.

        Args:
            zones: The counters.
            time_ns: When they were read, since the epoch.
            now_ns: The same on the clock that the energy is divided by, which nobody sets.
        """
        if not zones:
            self._last = None
            return None
        last, self._last = self._last, (now_ns, zones)
        if not self._start_ns:
            self._start_ns = time_ns
        if last is None or now_ns <= last[0]:
            return None
        used = consumed_uj(last[1], zones)
        if used is None:
            return None
        self._total_uj += used
        return Energy(1e3 * used / (now_ns - last[0]), self._total_uj / 1e6, self._start_ns)


class Meter:
    """Power and energy from the counters under `root`, between one call of `read` and the next.

    Args:
        root: The powercap tree; where there is none, every reading is absent and one log line says so.
        monotonic_ns: The clock that the energy is divided by.
    """

    def __init__(self, root: Path, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._root = root
        self._clock = monotonic_ns
        self._rate = Rate()
        self._notice = Notice(logger)

    def read(self, time_ns: int) -> Energy | None:
        """Read the counters now; None without a meter, at its first reading, and when a counter was set back."""
        try:
            zones = read_zones(self._root)
        except MeterAbsent as error:
            self._notice.trouble(f"power is absent: {error}")
            zones = {}
        else:
            self._notice.over("the power meter can be read")
        return self._rate.take(zones, time_ns, self._clock())


class Sampler:
    """A source of batches: this host.

    Args:
        powercap_root: The RAPL tree, /sys/class/powercap on a machine of its own.
        simulated: Whether that tree is a simulation, so that its points say it.
        wall_ns: The clock that stamps the points, nanoseconds since the epoch.
        monotonic_ns: The clock that power is measured by.
    """

    def __init__(
        self,
        powercap_root: Path,
        *,
        simulated: bool,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._meter = Meter(powercap_root, monotonic_ns)
        self._labels = SIMULATED if simulated else ()
        self._wall = wall_ns
        self._cpu: CpuTimes | None = None

    def collect(self) -> Batch:
        """Sample once.

        Raises:
            Unavailable: the kernel's counters cannot be read.
        """
        now = self._wall()
        try:
            cpu, memory, load = read_cpu(), read_memory(), psutil.getloadavg()
        except (OSError, psutil.Error, KeyError, ValueError) as error:
            raise Unavailable(
                f"the kernel's counters cannot be read: {error}", cure="mount /proc for the service"
            ) from error
        before, self._cpu = self._cpu, cpu
        busy = utilization(before, cpu) if before else None
        points = [] if busy is None else [Point(CPU_UTILIZATION, "1", Kind.GAUGE, busy, now)]
        points += _load_points(load, now) + _memory_points(memory, now)
        energy = self._meter.read(now)
        if energy is not None:
            points += energy_points(energy, now, self._labels)
        return Batch(now, tuple(points))


def _load_points(load: tuple[float, float, float], now: int) -> list[Point]:
    return [Point(name, "{thread}", Kind.GAUGE, value, now) for name, value in zip(LOAD_AVERAGES, load, strict=True)]


def _memory_points(memory: Memory, now: int) -> list[Point]:
    available = min(memory.available, memory.total)
    free = min(memory.free, available)  # close to the kernel's reserve MemFree exceeds MemAvailable
    states = {"used": memory.total - available, "free": free, "cached": available - free}
    usage = [Point(MEMORY_USAGE, "By", Kind.SUM, n, now, ((MEMORY_STATE, state),)) for state, n in states.items()]
    return [
        *usage,
        Point(MEMORY_LIMIT, "By", Kind.SUM, memory.total, now),
        Point(MEMORY_AVAILABLE, "By", Kind.SUM, available, now),
    ]


def energy_points(energy: Energy, now: int, labels: Attributes) -> list[Point]:
    """The meter's two points, with these labels."""
    return [
        Point(HOST_POWER, "W", Kind.GAUGE, energy.watts, now, labels),
        Point(HOST_ENERGY, "J", Kind.COUNTER, energy.joules, now, labels, energy.start_ns),
    ]
