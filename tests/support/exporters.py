"""Scaphandre and node_exporter as the fleet pins them, on a simulated energy meter: what it shows is no measurement."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from icosfl.errors import RunFailed
from icosfl.fleet import parts
from support.dataclay_stack import free_ports

PROJECT = Path(__file__).parents[2]
PINS = yaml.safe_load((PROJECT / "group_vars/all/versions.yml").read_text(encoding="utf-8"))["icosfl_parts"]
START_SECONDS = 30
TICK_SECONDS = 0.01
RANGE_UJ = 262_143_328_850

# Scaphandre wants to find a kernel module in /proc/modules, which kernels without modules lack.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#define MOVED(path) (strcmp(path, "/proc/modules") ? path : getenv("PROC_MODULES"))
#define OPEN(name)                                                        \
    int name(const char *path, int flags, ...) {                          \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        int mode = va_arg(more, int);                                     \
        va_end(more);                                                     \
        int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, #name);    \
        return real(MOVED(path), flags, mode);                            \
    }
OPEN(open)
OPEN(open64)
"""


def fetched(name: str) -> Path:
    """The program of a part, by the pins of the fleet; skips the test where Debian's archive cannot be reached."""
    part = parts.part_of(PINS, name, platform.machine())
    try:
        return parts.ensure(part, PROJECT / ".state" / "parts").path
    except RunFailed as error:
        if "cannot be fetched" not in error.message and "no Debian archive" not in error.message:
            raise
        if "404" in error.message:  # the pin is out of date
            raise
        pytest.skip(str(error))


class SimulatedMeter:
    """A powercap tree below `sysfs`, whose counters run as if the machine took so many watts.

    Args:
        sysfs: Where the tree is made.
        package: The watts of the processor.
        dram: The watts of the memory.
    """

    def __init__(self, sysfs: Path, package: float, dram: float) -> None:
        self.root = sysfs / "class" / "powercap"
        self._watts = {
            "intel-rapl:0": ("package-0", package),
            "intel-rapl:0:0": ("core", package / 2),
            "intel-rapl:0:1": ("dram", dram),
        }
        for zone, (name, _) in self._watts.items():
            (self.root / zone).mkdir(parents=True)
            (self.root / zone / "name").write_text(f"{name}\n", encoding="utf-8")
            (self.root / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n", encoding="utf-8")
        self._begin = time.monotonic()
        self._write()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the counters run."""
        end = threading.Event()

        def run() -> None:
            while not end.wait(TICK_SECONDS):
                self._write()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _write(self) -> None:
        seconds = time.monotonic() - self._begin
        for zone, (_, watts) in self._watts.items():
            new = self.root / zone / ".new"
            new.write_text(f"{round(1e6 * watts * seconds)}\n", encoding="utf-8")
            new.replace(self.root / zone / "energy_uj")  # nobody reads half a number


@contextmanager
def scaphandre(meter: SimulatedMeter, scratch: Path) -> Iterator[str]:
    """Scaphandre, as in a guest whose hypervisor shares this meter; its page."""
    program = fetched("scaphandre")
    if not (compiler := shutil.which("cc")):
        pytest.skip("Scaphandre needs /proc/modules, and there is no C compiler (cc) to make do without")
    (scratch / "shim.c").write_text(SHIM, encoding="utf-8")
    shim, modules = scratch / "shim.so", scratch / "modules"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", shim, scratch / "shim.c"], check=True)
    modules.write_text("intel_rapl_common 1 0 - Live 0x0\n", encoding="utf-8")
    environment = {
        "SCAPHANDRE_POWERCAP_PATH": str(meter.root),
        "LD_PRELOAD": str(shim),
        "PROC_MODULES": str(modules),
    }
    (port,) = free_ports(1)
    command = [str(program), "--vm", "prometheus", "--address", "127.0.0.1", "--port", str(port)]
    with _running(command, environment, scratch / "scaphandre.log", port) as page:
        yield page


@contextmanager
def node_exporter(meter: SimulatedMeter, scratch: Path) -> Iterator[str]:
    """node_exporter on this meter; its page."""
    program = fetched("node_exporter")
    (port,) = free_ports(1)
    command = [str(program), "--collector.disable-defaults", "--web.disable-exporter-metrics"]
    command += [f"--web.listen-address=127.0.0.1:{port}", f"--path.sysfs={meter.root.parents[1]}"]
    command += [f"--collector.{name}" for name in ("loadavg", "meminfo", "rapl")]
    with _running(command, {}, scratch / "node_exporter.log", port) as page:
        yield page


@contextmanager
def _running(command: list[str], environment: Mapping[str, str], log: Path, port: int) -> Iterator[str]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
    try:
        _wait(f"http://127.0.0.1:{port}/", process, log)
        yield f"http://127.0.0.1:{port}/metrics"
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the first page answers, which measures nothing."""
    pause, end = threading.Event(), time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False) as client:
        while True:
            try:
                client.get(url).raise_for_status()
            except httpx.HTTPError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                pause.wait(0.05)
            else:
                return
