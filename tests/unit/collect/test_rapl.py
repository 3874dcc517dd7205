from __future__ import annotations

import os

import pytest

from icosfl.collect.rapl import MeterAbsent, Zone, consumed_uj, read_zones


def test_only_package_and_dram_zones_are_counted(powercap) -> None:
    powercap.set("intel-rapl:0", "package-0", 100)
    powercap.set("intel-rapl:0:0", "core", 40)
    powercap.set("intel-rapl:0:1", "dram", 7)
    powercap.set("intel-rapl:1", "psys", 500)
    powercap.set("intel-rapl-mmio:0", "package-0", 100)

    assert read_zones(powercap.root) == {"intel-rapl:0": Zone(100, None), "intel-rapl:0:1": Zone(7, None)}


def test_a_zone_that_stands_flat_and_nested_is_counted_once(powercap) -> None:
    powercap.set("intel-rapl:0", "package-0", 100, 1000)
    powercap.set("intel-rapl:0/intel-rapl:0:0", "dram", 7, 1000)
    powercap.set("intel-rapl:0:0", "dram", 7, 1000)

    assert read_zones(powercap.root) == {"intel-rapl:0": Zone(100, 1000), "intel-rapl:0:0": Zone(7, 1000)}


def test_every_package_of_a_machine_is_counted(powercap) -> None:
    powercap.set("intel-rapl:0", "package-0", 1)
    powercap.set("intel-rapl:1", "package-1", 2)

    assert set(read_zones(powercap.root)) == {"intel-rapl:0", "intel-rapl:1"}


def test_a_missing_tree_is_an_absent_meter_that_names_the_tree(tmp_path) -> None:
    with pytest.raises(MeterAbsent, match="nowhere"):
        read_zones(tmp_path / "nowhere")


def test_a_tree_without_package_or_dram_is_an_absent_meter(powercap) -> None:
    powercap.set("intel-rapl:0", "psys", 1)

    with pytest.raises(MeterAbsent, match="no RAPL package or dram"):
        read_zones(powercap.root)


def test_a_counter_without_permission_is_an_absent_meter_that_says_the_cure(powercap, monkeypatch) -> None:
    powercap.set("intel-rapl:0", "package-0", 1)
    counter = powercap.root / "intel-rapl:0" / "energy_uj"
    counter.chmod(0)
    if os.access(counter, os.R_OK):  # root reads everything: refuse in the kernel's stead
        read_text = type(counter).read_text

        def refuse(path, *args, **kwargs):
            if path == counter:
                raise PermissionError(13, "Permission denied", str(path))
            return read_text(path, *args, **kwargs)

        monkeypatch.setattr(type(counter), "read_text", refuse)

    with pytest.raises(MeterAbsent, match=r"energy_uj: no permission.*read access"):
        read_zones(powercap.root)


@pytest.mark.parametrize("file", ["energy_uj", "max_energy_range_uj"])
def test_a_counter_that_is_no_number_is_an_absent_meter(powercap, file) -> None:
    powercap.set("intel-rapl:0", "package-0", 1, 1000)
    (powercap.root / "intel-rapl:0" / file).write_text("much\n", encoding="utf-8")

    with pytest.raises(MeterAbsent, match="cannot be read"):
        read_zones(powercap.root)


def test_consumption_is_the_sum_of_all_zones() -> None:
    before = {"a": Zone(10, 1000), "b": Zone(5, 1000)}

    assert consumed_uj(before, {"a": Zone(30, 1000), "b": Zone(6, 1000)}) == 21


def test_a_counter_that_wrapped_around_counts_through_its_range() -> None:
    assert consumed_uj({"a": Zone(990, 1000)}, {"a": Zone(15, 1000)}) == 25


def test_a_counter_that_was_set_back_gives_no_consumption() -> None:
    assert consumed_uj({"a": Zone(600, 1000)}, {"a": Zone(150, 1000)}) is None


def test_a_counter_that_fell_and_has_no_known_range_gives_no_consumption() -> None:
    assert consumed_uj({"a": Zone(990, None)}, {"a": Zone(15, None)}) is None


def test_one_unknown_zone_makes_the_whole_consumption_unknown() -> None:
    before = {"a": Zone(990, None), "b": Zone(5, None)}

    assert consumed_uj(before, {"a": Zone(15, None), "b": Zone(6, None)}) is None


def test_zones_that_came_or_went_give_no_consumption() -> None:
    assert consumed_uj({"a": Zone(1, None)}, {"a": Zone(2, None), "b": Zone(2, None)}) is None
