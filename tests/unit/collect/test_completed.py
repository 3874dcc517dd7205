from __future__ import annotations

from collections.abc import Iterator

import pytest

from icosfl.collect.completed import Completed, complete, counters, lacking
from icosfl.collect.page import point_families, scaphandre_families
from icosfl.collect.points import Batch, Kind, Point
from icosfl.collect.rapl import Zone
from icosfl.collect.sampler import Rate, Sampler
from icosfl.collect.scrape import compile_keep, parse_page

SECOND = 10**9
SAMPLED = (
    "system.cpu.utilization",
    "system.cpu.load_average.1m",
    "system.memory.usage",
    "system.memory.limit",
    "hw.host.power",
    "hw.host.energy",
)
SCAPHANDRE = """\
# TYPE scaph_host_power_microwatts gauge
scaph_host_power_microwatts 22000000
# TYPE scaph_socket_power_microwatts gauge
scaph_socket_power_microwatts{socket_id="0"} 20000000
# TYPE scaph_host_load_avg_one gauge
scaph_host_load_avg_one 0.5
# TYPE scaph_host_memory_available_bytes gauge
scaph_host_memory_available_bytes 1000
"""
NODE = """\
# TYPE node_load1 gauge
node_load1 0.5
# TYPE node_rapl_core_joules_total counter
node_rapl_core_joules_total{{index="0",path="/a"}} 7
# TYPE node_rapl_dram_joules_total counter
node_rapl_dram_joules_total{{index="0",path="/b"}} {dram}
# TYPE node_rapl_package_joules_total counter
node_rapl_package_joules_total{{index="0",path="/c"}} {package}
"""


def point(name: str, value: float = 1.0, time_ns: int = 0) -> Point:
    return Point(name, "", Kind.GAUGE, value, time_ns)


def page(text: str, time_ns: int = 0) -> Batch:
    return Batch(time_ns, parse_page(text, compile_keep(""), time_ns).points)


def names(points) -> set[str]:
    return {each.name for each in points}


class Fixed:
    """A source that gives these batches in turn."""

    def __init__(self, *batches: Batch) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def collect(self) -> Batch:
        return next(self._batches)


def test_what_the_exporter_measures_is_not_sampled_a_second_time() -> None:
    sampled = [point(name) for name in SAMPLED]

    assert names(lacking(page(SCAPHANDRE).points, sampled)) == {"system.cpu.utilization"}
    assert names(lacking([point("node_load1")], sampled)) == set(SAMPLED) - {"system.cpu.load_average.1m"}
    assert names(lacking([], sampled)) == set(SAMPLED)


def test_all_points_of_a_completed_page_carry_its_time() -> None:
    batch = complete(page(SCAPHANDRE, 5), [point("system.cpu.utilization", 0.25, time_ns=9)], ())

    assert {each.time_ns for each in batch.points} == {5} == {batch.time_ns}
    assert "system.cpu.utilization" in names(batch.points)


def test_what_a_simulated_meter_shows_says_so_and_nothing_else_does() -> None:
    batch = complete(page(SCAPHANDRE), [], (("simulated", "true"),))

    labelled = {each.name for each in batch.points if ("simulated", "true") in each.attributes}
    assert labelled == {"scaph_host_power_microwatts", "scaph_socket_power_microwatts"}
    (socket,) = (each for each in batch.points if each.name == "scaph_socket_power_microwatts")
    assert socket.attributes == (("simulated", "true"), ("socket_id", "0"))


def test_only_counters_that_add_up_to_the_host_are_counted() -> None:
    found = counters(page(NODE.format(dram=2, package=20.5)).points)

    assert sorted(zone.energy_uj for zone in found.values()) == [2_000_000, 20_500_000]


def test_power_is_the_energy_between_two_pages_by_time() -> None:
    rate = Rate()
    before = counters(page(NODE.format(dram=2, package=20)).points)
    now = counters(page(NODE.format(dram=8, package=80)).points)

    assert rate.take(before, 100 * SECOND, 1 * SECOND) is None
    energy = rate.take(now, 103 * SECOND, 4 * SECOND)

    assert energy is not None
    assert (energy.watts, energy.joules, energy.start_ns) == (22.0, 66.0, 100 * SECOND)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"a": Zone(5, None)}, "a counter that began again, of which nobody knows how far it counts"),
        ({"a": Zone(20, None), "b": Zone(1, None)}, "a counter that was not there"),
        ({}, "no counter"),
    ],
)
def test_power_is_absent_once_when_the_counters_do_not_tell(second, why) -> None:
    rate = Rate()
    rate.take({"a": Zone(10, None)}, 0, 1 * SECOND)

    assert rate.take(second, 0, 2 * SECOND) is None, why
    later = {name: Zone(zone.energy_uj + 3_000_000, None) for name, zone in second.items()}
    assert (rate.take(later, 0, 3 * SECOND) is None) == (not second)


def test_a_page_of_counters_is_completed_by_power_and_by_what_it_lacks(clock, proc, tmp_path) -> None:
    pages = (page(NODE.format(dram=0, package=0), 10), page(NODE.format(dram=2, package=20), 11))
    source = Completed(
        Fixed(*pages),
        Sampler(tmp_path / "none", simulated=True, wall_ns=clock, monotonic_ns=clock),
        simulated=True,
        monotonic_ns=clock,
    )

    first = source.collect()
    clock.now_ns += SECOND
    proc.cpu(busy=30, idle=70)
    second = source.collect()

    assert "hw.host.power" not in names(first.points)
    values = {each.name: each.value for each in second.points}
    assert (values["hw.host.power"], values["hw.host.energy"]) == (22.0, 22.0)
    assert values["system.cpu.utilization"] == pytest.approx(0.3)
    assert "system.cpu.load_average.1m" not in values
    assert "system.memory.usage" in values  # this page has no memory
    assert {each.time_ns for each in second.points} == {11}
    simulated = {each.name for each in second.points if ("simulated", "true") in each.attributes}
    assert {"hw.host.power", "hw.host.energy", "node_rapl_package_joules_total"} <= simulated
    assert not simulated & {"node_load1", "system.cpu.utilization"}


def test_no_series_stands_twice_on_our_page_of_scaphandres_page(clock, proc, tmp_path) -> None:
    sampler = Sampler(tmp_path / "none", simulated=False, wall_ns=clock)
    batch = Completed(Fixed(page(SCAPHANDRE)), sampler, simulated=False).collect()

    families = [*point_families(batch.points), *scaphandre_families(batch.points)]

    shown = [(sample.name, tuple(sample.labels.items())) for family in families for sample in family.samples]
    assert len(shown) == len(set(shown))
    assert ("scaph_host_power_microwatts", ()) in shown
