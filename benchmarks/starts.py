"""How long services take from start to a healthy answer, as systemd units and as containers, and what the image takes.

    .venv/bin/python benchmarks/starts.py [TIMES]

Two hosts of the same Debian are made as containers (Docker is needed): the controller runs units, the worker
containers. site.yml deploys both, then each service is stopped and started so many times; the median counts. Read the
ratio: both hosts share this machine. It takes about ten minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(PROJECT / "tests"))

from support.hosts import HostFleet, docker_engine  # noqa: E402 (the tests' library is not installed)

TIMES = 5
NAME = "icosfl-starts"
PYTHON = "/opt/icosfl/current/venv/bin/python"
# Runs on a host, by its release: stops and starts each service, and says how long it took until it worked.
RESTARTS = """
import json, sys, time
from icosfl.fleet.bring_up import await_health
from icosfl.fleet.container_records import ContainerLayout
from icosfl.fleet.containers import Containers
from icosfl.fleet.engine import Engine
from icosfl.fleet.systemctl import Systemd
from icosfl.fleet.systemd_units import UnitLayout

runtime, root, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
if runtime == "docker":
    layout = ContainerLayout.at(root, "icosfl")
    manager = Containers(layout, Engine())
    stop = lambda name: manager.stop([name], 30)
else:
    layout = UnitLayout.at(root, "icosfl", "icosfl")
    manager = Systemd(layout)
    stop = lambda name: manager.stop([layout.unit(name)], 30)
found = {}
for record in layout.installed():
    service = record.service
    for _ in range(times):
        stop(service.name)
        begun = time.monotonic()
        manager.restart([service])
        await_health(manager, service)
        found.setdefault(service.name, []).append(time.monotonic() - begun)
print(json.dumps(found))
"""


def call(*command: str) -> str:
    """Run a program of the locked environment in the project and return what it says.

    Raises:
        SystemExit: it failed; its output says why.
    """
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return done.stdout


def starts(fleet: HostFleet, host: str, runtime: str, times: int) -> dict[str, float]:
    """The median of the seconds that each service of a host takes, by its name."""
    said = fleet.run(host, [PYTHON, "-c", RESTARTS, runtime, f"/opt/icosfl/nodes/{host}", str(times)]).stdout
    return {name: statistics.median(seconds) for name, seconds in json.loads(said).items()}


def memory(fleet: HostFleet, host: str) -> list[str]:
    """What Docker says of each container's memory."""
    shown = ["docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"]
    return sorted(fleet.run(host, shown).stdout.splitlines())


def show(units: dict[str, float], containers: dict[str, float], more: list[str]) -> None:
    """Print the table, and what else was found."""
    console = Console(width=120)
    table = Table(box=None, title=f"start to healthy, load at the end {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    for column in ("service", "unit s", "container s", "ratio"):
        table.add_column(column, justify="left" if column == "service" else "right")
    for name in sorted(units.keys() | containers.keys()):
        unit, container = units.get(name), containers.get(name)
        table.add_row(
            name,
            f"{unit:.2f}" if unit else "-",
            f"{container:.2f}" if container else "-",
            f"{container / unit:.2f}" if unit and container else "-",
        )
    console.print(table)
    for text in more:
        console.print(text, soft_wrap=True)


def main(times: int) -> None:
    """Make the fleet, measure, and print."""
    with tempfile.TemporaryDirectory(prefix="icosfl-starts-") as directory, docker_engine() as engine:
        fleet = HostFleet(engine, NAME, Path(directory))
        try:
            fleet.up(["bookworm", "bookworm"], docker=["worker-1"])
            call("ansible-playbook", "site.yml", "-i", str(fleet.inventory))
            image = call("icosfl", "-i", str(fleet.inventory), "image")
            measured = [starts(fleet, "control", "systemd", times), starts(fleet, "worker-1", "docker", times)]
            show(measured[0], measured[1], [image, *memory(fleet, "worker-1")])
        finally:
            fleet.down()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TIMES)
