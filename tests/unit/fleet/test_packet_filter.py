from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest

from icosfl.errors import ConfigError, RunFailed, Unavailable
from icosfl.fleet import packet_filter, systemd_units
from icosfl.fleet.container_records import ContainerLayout
from icosfl.fleet.guard import Guard, guard_of
from icosfl.fleet.packet_filter import lay, lift, superfluous, unlaid

# Keeps its rules in a file: knows -C, -I, -D of a jump, and -S, -F, -X of a chain.
IPTABLES = """#!/bin/sh
kept={kept}
touch $kept
shift
what=$1
shift
case $what in
-C) grep -qxF -e "$*" $kept ;;
-I) [ ! -e $kept.refuses ] && echo "$*" >> $kept ;;
-D) grep -vxF -e "$*" $kept > $kept.new; mv $kept.new $kept ;;
-S) grep -qxF -e "chain $1" $kept ;;
-X) grep -vxF -e "chain $1" $kept > $kept.new; mv $kept.new $kept ;;
esac
"""
RESTORE = """#!/bin/sh
sed -n 's/^:\\(.*\\) - .*/chain \\1/p' $3 >> {kept}
"""


class FakeSystemd:
    def __init__(self, layout: systemd_units.UnitLayout) -> None:
        self.layout = layout

    def reload(self) -> None:
        told.append("reload")

    def start(self, units: Collection[str]) -> None:
        told.extend(f"start {unit}" for unit in units)

    def stop(self, units: Collection[str], seconds: float) -> None:
        told.extend(f"stop {unit}" for unit in units)


told: list[str] = []


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerLayout:
    programs, units = tmp_path / "bin", tmp_path / "units"
    programs.mkdir()
    units.mkdir()
    for name, text in (("iptables", IPTABLES), ("iptables-restore", RESTORE)):
        (programs / name).write_text(text.replace("{kept}", str(tmp_path / "kept")))
        (programs / name).chmod(0o755)
    monkeypatch.setattr(packet_filter, "_PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(packet_filter, "_SYSTEMD", tmp_path / "booted")
    monkeypatch.setattr(packet_filter, "Systemd", FakeSystemd)
    monkeypatch.setattr(systemd_units, "UNITS", units)
    told.clear()
    made = ContainerLayout.at(str(tmp_path / "host"), "icosfl")
    made.own.mkdir(parents=True)
    return made


@pytest.fixture
def guard() -> Guard:
    return guard_of("icosfl", [])


def kept(layout: ContainerLayout) -> list[str]:
    return (layout.root.parent / "kept").read_text().splitlines()


def test_guard_is_laid_once_and_laid_again_when_the_way_to_it_is_gone(layout: ContainerLayout, guard: Guard) -> None:
    before = [each.path for each in unlaid(layout, guard)]
    lay(layout, guard)
    after = [*unlaid(layout, guard)]
    (layout.root.parent / "kept").write_text("")
    lost = [each.path for each in unlaid(layout, guard)]
    lay(layout, guard)

    assert before == [str(layout.guard), "the packet filter"]
    assert after == []
    assert lost == ["the packet filter"]
    assert kept(layout) == ["chain icosfl-guard", " ".join(guard.jump)]
    assert told == []  # no systemd here


def test_guard_is_laid_at_every_start_of_docker_where_the_machine_has_systemd(
    layout: ContainerLayout, guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "booted").mkdir()
    unit, link = tmp_path / "units/icosfl-guard.service", tmp_path / "units/docker.service.wants/icosfl-guard.service"

    shown = [each.path for each in unlaid(layout, guard)]
    lay(layout, guard)

    assert shown == [str(layout.guard), str(unit), str(link), "the packet filter"]
    assert [*unlaid(layout, guard)] == []
    assert link.readlink() == unit
    assert f"--noflush {layout.guard}" in unit.read_text()
    assert told == ["reload", "start icosfl-guard.service"]

    lift(layout)

    assert not unit.exists()
    assert not link.is_symlink()
    assert told[2:] == ["stop icosfl-guard.service", "reload"]


def test_what_is_lifted_leaves_nothing_and_a_second_time_is_none_too_many(
    layout: ContainerLayout, guard: Guard
) -> None:
    lay(layout, guard)
    shown = [(each.path, each.after) for each in superfluous(layout)]

    lift(layout)
    lift(layout)

    assert shown == [(str(layout.guard), "")]
    assert kept(layout) == []
    assert [*superfluous(layout)] == []


def test_guard_of_an_earlier_prefix_goes_and_that_of_the_present_one_stays(layout: ContainerLayout) -> None:
    older = ContainerLayout(layout.root, "icosfl-9")
    lay(older, guard_of(older.prefix, []))
    lay(layout, guard_of(layout.prefix, []))

    lift(older)

    assert layout.guard.exists()
    assert [*unlaid(layout, guard_of(layout.prefix, []))] == []
    assert not any("icosfl-9" in line for line in kept(layout))


def test_unit_of_somebody_else_is_refused_and_never_removed(
    layout: ContainerLayout, guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "booted").mkdir()
    unit = tmp_path / "units/icosfl-guard.service"
    unit.write_text("X-Icosfl-Root=/srv/other\n")

    with pytest.raises(ConfigError, match=r"unit icosfl-guard\.service belongs to /srv/other"):
        list(unlaid(layout, guard))
    lift(layout)

    assert unit.exists()


def test_machine_without_iptables_is_told_what_to_install(
    layout: ContainerLayout, guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packet_filter, "_PATH", str(tmp_path))

    with pytest.raises(Unavailable, match="there is no program iptables") as refused:
        list(unlaid(layout, guard))

    assert "install the package iptables" in refused.value.cure
    lift(layout)  # there is nothing to lift


def test_refusing_packet_filter_is_told_with_its_cure(layout: ContainerLayout, guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "kept.refuses").touch()

    with pytest.raises(RunFailed, match="iptables --wait -I DOCKER-USER") as refused:
        lay(layout, guard)

    assert "Docker" in refused.value.cure
