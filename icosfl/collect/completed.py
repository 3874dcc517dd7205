"""An exporter's page, completed by what it lacks and this host's own counters tell: one batch with one time.

What both know is the exporter's. node_exporter shows energy as counters, of which power is made here; Scaphandre shows
power itself. Energy of a simulated meter carries `simulated=true`, whoever read it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from icosfl.collect.points import Attributes, Batch, Point, attributes_of
from icosfl.collect.rapl import Zone, Zones
from icosfl.collect.sampler import (
    HOST_ENERGY,
    HOST_POWER,
    LOAD_AVERAGES,
    MEMORY_AVAILABLE,
    MEMORY_LIMIT,
    MEMORY_USAGE,
    SIMULATED,
    Rate,
    energy_points,
)

# Parts of the packages, such as node_rapl_core_joules_total, are not counted a second time.
_RAPL = ("node_rapl_package_joules_total", "node_rapl_dram_joules_total")
_OF_THE_METER = re.compile(r"scaph_(host|socket|domain)_(power|energy)|node_rapl_")

# What we sample, and the exporters' metrics that say the same.
_SAME = (
    ({LOAD_AVERAGES[0]}, {"scaph_host_load_avg_one", "node_load1"}),
    ({LOAD_AVERAGES[1]}, {"scaph_host_load_avg_five", "node_load5"}),
    ({LOAD_AVERAGES[2]}, {"scaph_host_load_avg_fifteen", "node_load15"}),
    (
        {MEMORY_USAGE, MEMORY_LIMIT, MEMORY_AVAILABLE},
        {"scaph_host_memory_available_bytes", "node_memory_MemAvailable_bytes"},
    ),
    ({HOST_POWER, HOST_ENERGY}, {"scaph_host_power_microwatts", "scaph_host_energy_microjoules", *_RAPL}),
)


class Source(Protocol):
    """Where batches come from."""

    def collect(self) -> Batch:
        """Take one batch now.

        Raises:
            Unavailable: there is none to be had now.
        """


class Completed:
    """A source of batches: an exporter's page, and samples of what it lacks.

    Args:
        scraper: The exporter's page.
        sampler: This host.
        simulated: Whether the exporter's meter is a simulation.
        monotonic_ns: The clock that power is measured by.
    """

    def __init__(
        self,
        scraper: Source,
        sampler: Source,
        *,
        simulated: bool,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._scraper = scraper
        self._sampler = sampler
        self._labels: Attributes = SIMULATED if simulated else ()
        self._clock = monotonic_ns
        self._rate = Rate()

    def collect(self) -> Batch:
        """Scrape and sample once.

        Raises:
            Unavailable: the exporter does not answer, or the kernel's counters cannot be read.
        """
        page = self._scraper.collect()
        energy = self._rate.take(counters(page.points), page.time_ns, self._clock())
        made = energy_points(energy, page.time_ns, self._labels) if energy else []
        sample = self._sampler.collect()
        return complete(page, (*made, *lacking(page.points, sample.points)), self._labels)


def counters(points: Iterable[Point]) -> Zones:
    """The energy counters that add up to the host, of a page of node_exporter. How far they count it does not tell."""
    return {
        f"{point.name}{point.attributes}": Zone(round(point.value * 1e6), None)
        for point in points
        if point.name in _RAPL
    }


def lacking(page: Iterable[Point], sampled: Iterable[Point]) -> list[Point]:
    """Those of the sampled points that say what nothing on the page says."""
    there = {point.name for point in page}
    known = {ours for own, theirs in _SAME if theirs & there for ours in own}
    return [point for point in sampled if point.name not in known]


def complete(page: Batch, more: Iterable[Point], of_meter: Attributes) -> Batch:
    """The page and more points, all at the page's time; the meter's own have these attributes, too."""
    labelled = (
        replace(point, attributes=attributes_of({**dict(point.attributes), **dict(of_meter)}))
        if of_meter and _OF_THE_METER.match(point.name)
        else point
        for point in page.points
    )
    return Batch(page.time_ns, (*labelled, *(replace(point, time_ns=page.time_ns) for point in more)))
