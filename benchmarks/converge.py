"""What deploying costs as a fleet grows: processor time on the control node and on the hosts, for 1, 3 and 8 workers.

    .venv/bin/python benchmarks/converge.py [WORKERS ...]

For each size a controller and so many bare workers are made as containers (Docker is needed), then site.yml runs over
SSH: for the first time, again, and with `--limit` for one more host. A host's processor time is without that of the
services themselves. Read the slope: what one more host costs. It takes about half an hour, and about 2 GB of disk a
host while it runs.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from support.hosts import HostFleet, docker_engine  # noqa: E402 (the tests' library is not installed)

SIZES = (1, 3, 8)
OF_SERVICES = 'for each in $(ps -o pid= -u icosfl 2>/dev/null); do cat "/proc/$each/stat"; done 2>/dev/null; true'
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Cost:
    """One run of site.yml: its hosts, their tasks and changes, and seconds."""

    run: str
    workers: int
    hosts: int
    tasks: float
    changed: int
    control_cpu: float
    host_cpu: float
    wall: float

    @property
    def cpu_per_host(self) -> float:
        """Processor seconds of both sides for each host."""
        return (self.control_cpu + self.host_cpu) / self.hosts


def host_seconds(engine: docker.DockerClient, fleet: HostFleet, name: str) -> float:
    """Processor seconds of a host since it was made, without those of the services that icosfl runs there."""
    used: int = engine.containers.get(fleet[name].container).stats(stream=False)["cpu_stats"]["cpu_usage"][
        "total_usage"
    ]
    services = 0
    for line in fleet.run(name, ["sh", "-c", OF_SERVICES]).stdout.splitlines():
        services += sum(int(ticks) for ticks in line.rpartition(") ")[2].split()[11:15])  # own and of ended children
    return used / 1e9 - services / os.sysconf("SC_CLK_TCK")


def deploy(engine: docker.DockerClient, fleet: HostFleet, run: str, workers: int, limit: str | None = None) -> Cost:
    """Run site.yml and return what it cost.

    Raises:
        SystemExit: it failed; its output says why.
    """
    names = [host.name for host in fleet.hosts if limit in {None, host.name}]
    before_hosts = {host.name: host_seconds(engine, fleet, host.name) for host in fleet.hosts}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    arguments = ["ansible-playbook", "site.yml", "-i", str(fleet.inventory), *(["--limit", limit] if limit else [])]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(arguments, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"site.yml failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    host_cpu = sum(host_seconds(engine, fleet, name) - value for name, value in before_hosts.items())
    recap = {found[0]: (int(found[1]), int(found[2])) for found in RECAP.findall(done.stdout) if found[0] in names}
    cost = Cost(
        run,
        workers,
        len(names),
        sum(ok for ok, _ in recap.values()) / len(names),
        sum(changed for _, changed in recap.values()),
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        host_cpu,
        wall,
    )
    Console(stderr=True).print(f"{run}: {cost.cpu_per_host:.1f} CPU s a host, {wall:.0f} s", style="dim")
    return cost


def measure(workers: int, directory: Path) -> list[Cost]:
    """Deploy a fleet of so many workers twice, and then one host more."""
    with docker_engine() as engine:
        fleet = HostFleet(engine, "icosfl-converge", directory)
        try:
            fleet.up(["bookworm", *(("trixie", "bookworm")[number % 2] for number in range(workers))])
            costs = [deploy(engine, fleet, run, workers) for run in ("first", "second")]
            fleet.add_host("one-more")
            costs.append(deploy(engine, fleet, "add one", workers, "one-more"))
            costs.append(deploy(engine, fleet, "add one, again", workers, "one-more"))
        finally:
            fleet.down()
    return costs


def slope(costs: Sequence[Cost]) -> float:
    """Processor seconds that one more host costs: least squares over the sizes."""
    hosts = [cost.hosts for cost in costs]
    seconds = [cost.control_cpu + cost.host_cpu for cost in costs]
    mean_hosts, mean_seconds = sum(hosts) / len(hosts), sum(seconds) / len(seconds)
    spread = sum((each - mean_hosts) ** 2 for each in hosts)
    if not spread:
        return float("nan")
    return sum((h - mean_hosts) * (s - mean_seconds) for h, s in zip(hosts, seconds, strict=True)) / spread


def main(sizes: Sequence[int]) -> None:
    """Measure each size and print the table."""
    console = Console(width=120)
    subprocess.run(["true"], check=True)  # children's times start from here
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="icosfl-converge-") as directory:
        for workers in sizes:
            console.print(f"{workers} workers …", style="dim")
            costs += measure(workers, Path(directory) / str(workers))
    table = Table(box=None, title=f"load at the end {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    for column in (
        "run",
        "workers",
        "hosts",
        "tasks/host",
        "changed",
        "control CPU s",
        "hosts CPU s",
        "CPU s/host",
        "wall s",
    ):
        table.add_column(column, justify="left" if column == "run" else "right")
    for cost in sorted(costs, key=lambda each: (each.run != "first", each.run, each.workers)):
        table.add_row(
            cost.run,
            str(cost.workers),
            str(cost.hosts),
            f"{cost.tasks:.0f}",
            str(cost.changed),
            f"{cost.control_cpu:.1f}",
            f"{cost.host_cpu:.1f}",
            f"{cost.cpu_per_host:.1f}",
            f"{cost.wall:.0f}",
        )
    console.print(table)
    for run in ("first", "second"):
        console.print(f"{run} run: {slope([each for each in costs if each.run == run]):.1f} CPU s for one more host")
    added = [each.control_cpu + each.host_cpu for each in costs if each.run == "add one, again"]
    if added:
        console.print(f"one host, again: from {min(added):.1f} to {max(added):.1f} CPU s over the sizes")


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or SIZES)
