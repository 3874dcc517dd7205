"""Requests whose times and values are patched into bytes made ahead, so that senders cost little and each one is fresh.

Row n stands 3 s behind row n - 1, and its value in column c is n + c / 16: who reads the store can tell what belongs
there. The first row lies in the year 2001, so that no number of them lies in the future.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, NumberDataPoint
from pydantic import TypeAdapter

from icosfl.config import RuleConfig, SeriesConfig, SourceConfig

METRIC_FACTS = Path(__file__).parents[2] / "group_vars/all/metrics.yml"
FIRST_TIME = 10**18
PERIOD = 3 * 10**9
SERIES = 100

_SERVICE = "bench"
_STREAMS = 10
_MARK = 0x5A5A_0000_0000_0000
_START, _TIME, _DOUBLE = 0x11, 0x19, 0x21
_PROCESSES = 99


@dataclass(frozen=True)
class Kind:
    """A kind of request, and the bridge's configuration for it.

    Args:
        name: What the table calls it.
        request: The request, whose wanted points carry `_MARK + row` as their time.
        rows: How many rows one request makes.
        points: How many points it has.
        wanted: How many of them are stored.
        series: The columns of the store.
        rules: What becomes of its points.
        unsteady: Whether the counters' start times, too, are others in each request, so that none is like another.
    """

    name: str
    request: bytes
    rows: int
    points: int
    wanted: int
    series: tuple[SeriesConfig, ...]
    rules: tuple[RuleConfig, ...]
    unsteady: bool = False

    @cached_property
    def _template(self) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.int64]]:
        """The bytes, where in them the eight bytes of each time begin, and the row of each."""
        data = np.frombuffer(self.request, np.uint8).copy()
        places, rows = [], []
        for row in range(self.rows):
            wanted = bytes([_TIME]) + struct.pack("<Q", _MARK + row)
            at = self.request.find(wanted)
            while at >= 0:
                places.append(at + 1)
                rows.append(row)
                at = self.request.find(wanted, at + 1)
        offsets = np.array(places, np.intp)
        assert len(offsets) == self.points
        assert (data[offsets + 8] == _DOUBLE).all(), "the value does not follow the time"
        return data, offsets[:, None] + np.arange(8), np.array(rows, np.int64)

    @cached_property
    def _columns(self) -> NDArray[np.float64]:
        data, places, _ = self._template
        return data[places + 9].view("<f8").reshape(-1)

    def body(self, row: int) -> bytes:
        """The request whose first row is this one."""
        columns = self._columns  # before the template is written over
        data, places, rows = self._template
        now = rows + row
        data[places] = (FIRST_TIME + now * PERIOD).view(np.uint8).reshape(-1, 8)
        data[places + 9] = (now + columns).view(np.uint8).reshape(-1, 8)
        if self.unsteady:
            counters = data[places[:, 0] - 10] == _START
            data[places[counters] - 9] = (FIRST_TIME - now[counters]).view(np.uint8).reshape(-1, 8)
        return data.tobytes()


def batch(points: int, series: int = SERIES, *, unsteady: bool = False) -> Kind:
    """A batch of so many points with three attributes each, all of them wanted, of so many series.

    It is what a collector makes of several scrapes: each keeps its own resource, and has ten points in each metric.
    """
    rows = points // series
    request = ExportMetricsServiceRequest()
    sources = [
        SourceConfig(f"series_{number}", f"bench.metric.{number // _STREAMS}", attributes={"device": f"dev-{number}"})
        for number in range(series)
    ]
    for row in range(rows):
        group = request.resource_metrics.add()
        _tell(group.resource.attributes, {"service.name": _SERVICE, "host.name": "host-1", "os.type": "linux"})
        scope = group.scope_metrics.add()
        for number, source in enumerate(sources):
            if number % _STREAMS == 0:
                metric = scope.metrics.add(name=source.metric, unit="1", description="what a benchmark sends")
            attributes = {"device": source.attributes["device"], "state": "used", "zone": "package-0"}
            counter = number // _STREAMS % 2 == 1
            _point(metric, row, number, attributes, start=FIRST_TIME - PERIOD if counter else 0)
    return Kind(
        name=f"{points:,} points{', unsteady' if unsteady else ''}",
        unsteady=unsteady,
        request=request.SerializeToString(),
        rows=rows,
        points=rows * series,
        wanted=rows * series,
        series=tuple(SeriesConfig(source.series, "1") for source in sources),
        rules=(RuleConfig("bench", {"service.name": _SERVICE}, tuple(sources)),),
    )


def scrape() -> Kind:
    """A scrape of Scaphandre with its hundreds of points of single processes, for the rules and series of the fleet."""
    facts = yaml.safe_load(METRIC_FACTS.read_text(encoding="utf-8"))
    series = TypeAdapter(tuple[SeriesConfig, ...]).validate_python(facts["icosfl_series"])
    rules = TypeAdapter(tuple[RuleConfig, ...]).validate_python(facts["icosfl_bridge_rules"])
    rule = next(rule for rule in rules if rule.name == "scaphandre")
    wanted = [name for source in rule.sources for name in (source.metric, source.minus) if name]
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    _tell(group.resource.attributes, rule.match)
    scope = group.scope_metrics.add()
    for column, name in enumerate(wanted):
        _point(scope.metrics.add(name=name), 0, column, {})
    names = ("power_consumption_microwatts", "cpu_usage_percentage", "memory_bytes", "disk_read_bytes", "uptime")
    for column, name in enumerate(names):
        metric = scope.metrics.add(name=f"scaph_process_{name}")
        for process in range(_PROCESSES):
            program = f"program-{process}"
            _point(metric, 0, column, {"pid": str(1000 + process), "exe": program, "cmdline": f"/usr/bin/{program} -v"})
    points = len(wanted) + _PROCESSES * len(names)
    return Kind(f"{len(wanted)} of {points}", request.SerializeToString(), 1, points, len(wanted), series, rules)


def _point(metric: Metric, row: int, column: int, attributes: dict[str, str], start: int = 0) -> None:
    data: NumberDataPoint
    if start:
        metric.sum.is_monotonic = True
        metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        data = metric.sum.data_points.add(start_time_unix_nano=start)
    else:
        data = metric.gauge.data_points.add()
    data.time_unix_nano = _MARK + row
    data.as_double = column / 16
    _tell(data.attributes, attributes)


def _tell(attributes: object, values: dict[str, str]) -> None:
    for key, value in values.items():
        attributes.add(key=key).value.string_value = value  # type: ignore[attr-defined]
