"""The machine's energy meter: RAPL counters of a powercap tree, as the kernel or a hypervisor's guest tree shows them.

Only what adds up to the host is read: the zones `package-*` (processor) and `dram` (memory). `core` and `uncore` are
parts of a package, `psys` contains the packages, and `intel-rapl-mmio` shows the same packages a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_COUNTED = ("package", "dram")


class MeterAbsent(Exception):
    """There is no meter, or it cannot be read; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class Zone:
    """One counter: its reading in microjoules, and the reading after which it starts from 0 (None: unknown)."""

    energy_uj: int
    range_uj: int | None


Zones = Mapping[str, Zone]


def read_zones(root: Path) -> Zones:
    """Read the package and dram counters under `root`, by zone directory (`intel-rapl:0`, `intel-rapl:0:1`).

    Raises:
        MeterAbsent: there is no such zone, or one cannot be read: a sum that lacks a part would be a wrong figure.
    """
    try:
        zones = {path.name: _read(path) for path in _directories(root) if _counts(path)}
    except PermissionError as error:
        raise MeterAbsent(
            f"{error.filename}: no permission to read it; "
            "give the service's group read access to energy_uj (a udev or tmpfiles rule) to record power"
        ) from error
    except (OSError, ValueError) as error:
        raise MeterAbsent(f"a RAPL counter under {root} cannot be read: {error}") from error
    if not zones:
        raise MeterAbsent(f"{root} has no RAPL package or dram counter: this machine's power is not recorded")
    return zones


def consumed_uj(before: Zones, now: Zones) -> int | None:
    """Microjoules used between two readings, all zones together; None when that cannot be told.

    A counter that fell went through its range once, if that explains a use of less than half the range. Otherwise it
    was set back (driver reloaded, machine restored from a snapshot), and what was used meanwhile is unknown.
    """
    if before.keys() != now.keys():
        return None
    uses = [_use(before[name], now[name]) for name in now]
    known = [use for use in uses if use is not None]
    return sum(known) if len(known) == len(uses) else None


def _use(before: Zone, now: Zone) -> int | None:
    use = now.energy_uj - before.energy_uj
    if use >= 0:
        return use
    if now.range_uj is None:
        return None
    use += now.range_uj
    return use if 0 <= use < now.range_uj // 2 else None


def _directories(root: Path) -> Iterator[Path]:
    """The zones, flat beside each other (sysfs class directory) or children inside their package; each once."""
    seen: set[str] = set()
    found: Iterable[Path] = sorted(root.glob("intel-rapl:*")) + sorted(root.glob("intel-rapl:*/intel-rapl:*"))
    for path in found:
        if path.name not in seen:
            seen.add(path.name)
            yield path


def _counts(zone: Path) -> bool:
    try:
        name = (zone / "name").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return name.startswith(_COUNTED)


def _read(zone: Path) -> Zone:
    energy = int((zone / "energy_uj").read_text(encoding="utf-8"))
    try:
        range_uj = int((zone / "max_energy_range_uj").read_text(encoding="utf-8"))
    except FileNotFoundError:
        range_uj = None
    return Zone(energy, range_uj)
