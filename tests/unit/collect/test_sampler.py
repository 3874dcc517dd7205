from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from icosfl.collect.points import Kind
from icosfl.collect.sampler import CpuTimes, Sampler, utilization
from icosfl.errors import Unavailable

KIB = 1024


def by_name(batch) -> dict[tuple, float]:
    return {(point.name, *[value for _, value in point.attributes]): point.value for point in batch.points}


@pytest.fixture
def sampler(proc, powercap, clock) -> Sampler:
    return Sampler(powercap.root, simulated=False, wall_ns=lambda: 42, monotonic_ns=clock)


def test_the_first_sample_has_no_utilization(sampler) -> None:
    assert ("system.cpu.utilization",) not in by_name(sampler.collect())


def test_utilization_is_the_busy_share_between_two_samples(sampler, proc) -> None:
    proc.cpu(busy=1000, idle=9000)
    sampler.collect()
    proc.cpu(busy=1025, idle=9050, iowait=25)

    assert by_name(sampler.collect())[("system.cpu.utilization",)] == pytest.approx(0.25)


def test_utilization_counts_guest_time_once(sampler, proc) -> None:
    sampler.collect()
    proc.cpu(busy=50, idle=50, guest=50)

    assert by_name(sampler.collect())[("system.cpu.utilization",)] == pytest.approx(0.5)


def test_utilization_is_absent_when_the_counters_did_not_advance(sampler) -> None:
    sampler.collect()

    assert ("system.cpu.utilization",) not in by_name(sampler.collect())


def test_utilization_stays_a_share_when_the_kernel_turns_idle_time_back() -> None:
    assert utilization(CpuTimes(100, 50), CpuTimes(110, 48)) == 1.0
    assert utilization(CpuTimes(100, 50), CpuTimes(101, 60)) == 0.0


def test_used_memory_is_total_minus_available_and_the_states_add_up(sampler, proc) -> None:
    proc.memory(total=8000, free=2000, available=5000)

    values = by_name(sampler.collect())

    states = {state: values[("system.memory.usage", state)] for state in ("used", "free", "cached")}
    assert states == {"used": 3000 * KIB, "free": 2000 * KIB, "cached": 3000 * KIB}
    assert values[("system.memory.limit",)] == sum(states.values())


def test_used_memory_stays_total_minus_available_when_more_is_free_than_available(sampler, proc) -> None:
    proc.memory(total=8000, free=600, available=500)

    values = by_name(sampler.collect())

    assert values[("system.memory.usage", "used")] == 7500 * KIB
    assert values[("system.memory.usage", "free")] == 500 * KIB
    assert values[("system.memory.usage", "cached")] == 0


def test_load_averages_are_their_own_gauges(sampler) -> None:
    values = by_name(sampler.collect())

    assert [values[(f"system.cpu.load_average.{span}",)] for span in ("1m", "5m", "15m")] == [0.5, 0.25, 0.125]


def test_all_points_of_a_sample_carry_its_time(sampler, powercap) -> None:
    powercap.set("intel-rapl:0", "package-0", 1)

    batch = sampler.collect()

    assert batch.time_ns == 42
    assert {point.time_ns for point in batch.points} == {42}


def test_a_machine_without_a_meter_has_no_power_and_says_so_once(sampler, caplog) -> None:
    with caplog.at_level(logging.INFO):
        batches = [sampler.collect() for _ in range(3)]

    assert not [point for batch in batches for point in batch.points if point.name.startswith("hw.")]
    assert [record.getMessage().startswith("power is absent") for record in caplog.records] == [True]


def test_power_is_package_and_dram_energy_by_time(sampler, powercap, clock) -> None:
    powercap.set("intel-rapl:0", "package-0", 1_000_000)
    powercap.set("intel-rapl:0:0", "dram", 500_000)
    first = sampler.collect()
    powercap.set("intel-rapl:0", "package-0", 31_000_000)
    powercap.set("intel-rapl:0:0", "dram", 2_500_000)
    clock.now_ns += 2_000_000_000

    values = by_name(sampler.collect())

    assert ("hw.host.power",) not in by_name(first)
    assert values[("hw.host.power",)] == pytest.approx(16.0)
    assert values[("hw.host.energy",)] == pytest.approx(32.0)


def test_energy_goes_on_through_a_wraparound(sampler, powercap, clock) -> None:
    powercap.set("intel-rapl:0", "package-0", 990_000_000, 1_000_000_000)
    sampler.collect()
    for reading in (5_000_000, 25_000_000):
        powercap.set("intel-rapl:0", "package-0", reading, 1_000_000_000)
        clock.now_ns += 1_000_000_000
        values = by_name(sampler.collect())

    assert values[("hw.host.power",)] == pytest.approx(20.0)
    assert values[("hw.host.energy",)] == pytest.approx(35.0)


def test_power_is_absent_while_the_meter_is_away_and_starts_anew_after_it(sampler, powercap, clock, caplog) -> None:
    def sample(reading: int) -> dict[tuple, float]:
        powercap.set("intel-rapl:0", "package-0", reading)
        clock.now_ns += 1_000_000_000
        return by_name(sampler.collect())

    sample(0)
    sample(10_000_000)
    (powercap.root / "intel-rapl:0" / "energy_uj").unlink()
    with caplog.at_level(logging.INFO):
        away = by_name(sampler.collect())
        back = sample(900_000_000)
        again = sample(912_000_000)

    assert ("hw.host.power",) not in away
    assert ("hw.host.power",) not in back
    assert again[("hw.host.power",)] == pytest.approx(12.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_points_of_a_simulated_meter_say_so(proc, powercap, clock) -> None:
    sampler = Sampler(powercap.root, simulated=True, monotonic_ns=clock)
    powercap.set("intel-rapl:0", "package-0", 0)
    sampler.collect()
    clock.now_ns += 1_000_000_000

    power = [point for point in sampler.collect().points if point.name.startswith("hw.")]

    assert [(point.name, point.kind) for point in power] == [
        ("hw.host.power", Kind.GAUGE),
        ("hw.host.energy", Kind.COUNTER),
    ]
    assert all(point.attributes == (("simulated", "true"),) for point in power)


def test_an_unreadable_proc_is_said_and_not_invented(sampler, monkeypatch) -> None:
    monkeypatch.setattr("psutil.PROCFS_PATH", "/nonexistent")

    with pytest.raises(Unavailable, match="counters cannot be read"):
        sampler.collect()


def test_the_real_host_can_be_sampled(tmp_path) -> None:
    sampler = Sampler(tmp_path, simulated=False)

    values = by_name(sampler.collect())

    assert 0 < values[("system.memory.usage", "used")] < values[("system.memory.limit",)]


def test_the_sampler_makes_every_metric_that_the_bridge_takes_from_it(sampler, proc, powercap, clock) -> None:
    powercap.set("intel-rapl:0", "package-0", 0)
    sampler.collect()
    proc.cpu(busy=1, idle=1)
    clock.now_ns += 1
    facts = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/metrics.yml").read_text(encoding="utf-8"))
    rule = next(rule for rule in facts["icosfl_bridge_rules"] if rule["name"] == "icosfl")

    made = {(point.name, point.attributes) for point in sampler.collect().points}

    for source in rule["sources"]:
        wanted = set(source.get("attributes", {}).items())
        assert [name for name, pairs in made if name == source["metric"] and wanted <= set(pairs)], source
