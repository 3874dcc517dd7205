"""The edge to this machine's packet filter: lays the guard of a host's private network, and lifts it.

The rules are in the kernel until the machine is switched off. Where it has systemd, a unit of ours lays them whenever
Docker starts; elsewhere the next deployment does.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from icosfl.errors import RunFailed, Unavailable
from icosfl.fleet.container_records import ContainerLayout
from icosfl.fleet.guard import Guard, guard_of
from icosfl.fleet.guarded import translated, write
from icosfl.fleet.outcome import Rewritten
from icosfl.fleet.systemctl import Systemd
from icosfl.fleet.systemd_units import UnitLayout, marked, refuse_stranger

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CALL_SECONDS = 30.0
_UNIT_MODE = 0o644
_SYSTEMD = Path("/run/systemd/system")  # there where systemd runs


def unlaid(layout: ContainerLayout, guard: Guard) -> Iterator[Rewritten]:
    """Give what is not yet as the guard says: its files, and the rule that leads to it.

    Raises:
        ConfigError: Its unit is another's.
        Unavailable: There is no iptables.
    """
    for path, after in _texts(layout, guard).items():
        before = _text_of(path)
        if path != layout.guard:
            refuse_stranger(path.name, before, _units(layout))
        if before != after:
            yield Rewritten(str(path), before, after)
    if _runs_systemd() and not _link(layout).is_symlink():
        yield Rewritten(str(_link(layout)), "", f"starts {_units(layout).guard}\n")
    if not _is_laid(guard):
        yield Rewritten("the packet filter", "", f"-A {' '.join(guard.jump)}\n")


def lay(layout: ContainerLayout, guard: Guard) -> None:
    """Lay the guard, now and for whenever Docker starts.

    Raises:
        RunFailed: The packet filter or the file system refuses it.
        Unavailable: There is no iptables.
    """
    written = [write(path, text, mode=_mode(path, layout)) for path, text in _texts(layout, guard).items()]
    _call("iptables-restore", "--wait", "--noflush", str(layout.guard))
    if not _is_laid(guard):
        _call("iptables", "--wait", "-I", *guard.jump)
    if not _runs_systemd():
        return
    link, units = _link(layout), _units(layout)
    if any(written) or not link.is_symlink():
        with translated(link):
            link.parent.mkdir(mode=0o755, exist_ok=True)
            link.parent.chmod(0o755)
            link.unlink(missing_ok=True)
            link.symlink_to(units.file(units.guard))
        systemd = Systemd(units)
        systemd.reload()
        systemd.start([units.guard])


def superfluous(layout: ContainerLayout) -> Iterator[Rewritten]:
    """Give what was laid for a host that needs no guard: its file, which goes."""
    if before := _text_of(layout.guard):
        yield Rewritten(str(layout.guard), before, "")


def lift(layout: ContainerLayout) -> None:
    """Take the guard of a host away, as far as it is there.

    Raises:
        RunFailed: The packet filter or the file system refuses it.
    """
    units, link = _units(layout), _link(layout)
    file = units.file(units.guard)
    if marked(_text_of(file), units):
        if _runs_systemd():
            Systemd(units).stop([units.guard], 0)
        with translated(file):
            link.unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        if _runs_systemd():
            Systemd(units).reload()
    guard = guard_of(layout.prefix, ())
    if _program("iptables"):
        while _is_laid(guard):
            _call("iptables", "--wait", "-D", *guard.jump)
        if _succeeds("iptables", "--wait", "-S", guard.chain):
            _call("iptables", "--wait", "-F", guard.chain)
            _call("iptables", "--wait", "-X", guard.chain)
    with translated(layout.guard):
        if f":{guard.chain} " in _text_of(layout.guard):  # or it is that of another prefix of the same root
            layout.guard.unlink()


def _texts(layout: ContainerLayout, guard: Guard) -> dict[Path, str]:
    iptables, restore = _need("iptables"), _need("iptables-restore")
    texts = {layout.guard: guard.rules()}
    if _runs_systemd():
        units = _units(layout)
        texts[units.file(units.guard)] = guard.unit(str(layout.root), str(layout.guard), iptables, restore)
    return texts


def _text_of(path: Path) -> str:
    with translated(path):
        return path.read_text("utf-8") if path.exists() else ""


def _mode(path: Path, layout: ContainerLayout) -> int:
    return 0o600 if path == layout.guard else _UNIT_MODE


def _units(layout: ContainerLayout) -> UnitLayout:
    return UnitLayout(layout.root, layout.prefix, "root")


def _link(layout: ContainerLayout) -> Path:
    units = _units(layout)
    return units.file("docker.service.wants") / units.guard


def _runs_systemd() -> bool:
    return _SYSTEMD.is_dir()


def _is_laid(guard: Guard) -> bool:
    return _succeeds("iptables", "--wait", "-C", *guard.jump)


def _succeeds(name: str, *words: str) -> bool:
    return _run(name, words).returncode == 0


def _call(name: str, *words: str) -> None:
    ended = _run(name, words)
    if ended.returncode:
        said = ended.stderr.strip() or f"exit status {ended.returncode}"
        raise RunFailed(
            f"{name} {' '.join(words)}: {said}",
            cure="let Docker use iptables (its option `iptables`), and work as root, or take Docker Engine 28 or newer",
        )


def _run(name: str, words: Iterable[str]) -> subprocess.CompletedProcess[str]:
    command = [_need(name), *words]
    try:
        return subprocess.run(  # noqa: S603 (our own words, no shell)
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_CALL_SECONDS,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"{name} does not end within {_CALL_SECONDS:g} s", cure="see who else changes the packet filter's rules"
        ) from error
    except OSError as error:
        raise Unavailable(f"{command[0]}: {error.strerror}", cure="install the package iptables") from error


def _program(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _need(name: str) -> str:
    found = _program(name)
    if found is None:
        raise Unavailable(
            f"there is no program {name} in {_PATH}, without which this Docker leaves the services' network open",
            cure="install the package iptables, or Docker Engine 28 or newer",
        )
    return found
