"""Whether a host can carry its services: pure judgment on what `icosfl.fleet.probe` says, each fault with its cure.

Light on purpose: it is loaded in the process that Ansible starts for each host.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icosfl.fleet.engine import version_of
from icosfl.fleet.host_docker import Fault, WantedDocker, docker_faults
from icosfl.fleet.probe import MARK, NOT_WRITABLE
from icosfl.fleet.topology import Problem
from icosfl.fleet.unreachable import cause_of

OLDEST_PYTHON = (3, 9)
RUNNING_DISK_MB = 64
"""What a directory that is filled already still needs for the next checkpoints, models and logs."""

_PROGRAMS = ("probe.py", "probe_docker.py")
_FUTURE = "from __future__ import annotations\n"  # may stand in a program's beginning only
_TOO_OLD = "icosfl-python-too-old"
_COMMAND_NOT_FOUND = 127
_CHARACTERS = 200
_START = (
    "import sys; "
    f"sys.version_info < {OLDEST_PYTHON} and sys.exit('{_TOO_OLD} %d.%d' % sys.version_info[:2]); "
    "exec(sys.stdin.read())"
)
_NOISE = re.compile(r"Data could not be sent to remote host .*?over ssh: ", re.IGNORECASE | re.DOTALL)
_LATE_SUDO = re.compile(r"waiting for privilege escalation")


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that will be filled: with at least so many megabytes; `marker` lies in it once it is."""

    path: str
    marker: str
    needed_mb: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a host must offer.

    Args:
        runtime: How its services are run.
        root: Where everything of it lies.
        unit_prefix: What its systemd units begin with.
        user: The system user of its services; "" for none.
        ports: By service.
        places: Directories that take data, and how much.
        memory_mb: Least memory.
        pythons: Minor versions of Python that the release is made for.
        architectures: Those that the release is made for.
        glibc: The oldest version of the C library.
        clock_tolerance_seconds: How far its clock may be from ours.
        docker: What its Docker must be; None where its services run without.
    """

    runtime: str
    root: str
    unit_prefix: str
    user: str
    ports: Mapping[str, int]
    places: Sequence[Place]
    memory_mb: int
    pythons: Sequence[str]
    architectures: Sequence[str]
    glibc: str
    clock_tolerance_seconds: float
    docker: WantedDocker | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to a host: the program's answer, or what came instead, and our clock before and after."""

    code: int
    output: str
    errors: str
    start: float
    end: float


def command(python: str) -> str:
    """Return the shell command that runs the program which comes on its standard input."""
    return f"{shlex.quote(python)} -EsB -c {shlex.quote(_START)}"


def program(wanted: Wanted) -> str:
    """Return the program, with what it is to look for."""
    question = {
        "ports": dict(wanted.ports),
        "places": [asdict(place) for place in wanted.places],
        "root": wanted.root,
        "unit_prefix": wanted.unit_prefix,
        "user": wanted.user,
        "docker": wanted.docker and {"plugin": wanted.docker.plugin, "program": wanted.docker.program},
    }
    first, second = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in _PROGRAMS)
    return f"{first}\n\n{second.replace(_FUTURE, '')}\n\nsay({json.dumps(question)!r}, look_docker)\n"


def read_answer(asked: Asked, host: str, python: str) -> dict[str, Any] | Problem:
    """Return what the host said of itself, or why it said nothing."""
    lines = [line for line in asked.output.splitlines() if line.startswith(MARK)]
    if asked.code == 0 and lines:
        try:
            return dict(json.loads(lines[-1].removeprefix(MARK)))
        except ValueError:
            return Problem(host, "python", "its answer is cut short", "run the playbook again")
    said = f"{asked.errors}\n{asked.output}".strip()
    old = re.search(rf"{_TOO_OLD} (\S+)", said)
    if old:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Problem(
            host,
            "python",
            f"{python} is Python {old.group(1)}, at least {oldest} is needed",
            "name a newer one in ansible_python_interpreter, or use a newer release of the host's system",
        )
    cause, cure = cause_of(said, unreachable=False)
    if cause:
        return Problem(host, "sudo", cause, cure)
    if asked.code == _COMMAND_NOT_FOUND:
        return Problem(
            host,
            "python",
            f"there is no {python}",
            "install it (apt-get install python3), or correct ansible_python_interpreter",
        )
    last = (said.splitlines() or ["it said nothing"])[-1][:_CHARACTERS]
    return Problem(host, "python", f"{python} ended with {asked.code}: {last}", "see what it says there by hand")


def unreachable(message: str, host: str, address: str, *, connected: bool) -> Problem:
    """Return why a host cannot be asked at all.

    Args:
        message: What Ansible says.
        host: The inventory's name of the host.
        address: Where it is reached.
        connected: Whether the connection itself came about.
    """
    message = _NOISE.sub("", message)
    if _LATE_SUDO.search(message):
        cure = "try `sudo -n true` there; where it hangs, its own name is often missing in /etc/hosts"
        return Problem(host, "sudo", "its sudo does not answer", cure)
    cause, cure = cause_of(message, unreachable=not connected)
    key = "sudo" if "sudo" in cause else "ssh"
    if cause:
        return Problem(host, key, cause, cure.replace("ADDRESS", address))
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["it does not answer"]
    return Problem(host, key, lines[-1][:_CHARACTERS], f"see what `ssh {address}` says")


def clock_error(theirs: float, start: float, end: float) -> float:
    """Return by how many seconds a clock is at least ahead (negative: behind) when it was read between two of ours."""
    return theirs - end if theirs > end else min(theirs - start, 0.0)


def judge(found: Mapping[str, Any], asked: Asked, wanted: Wanted, host: str) -> list[Problem]:
    """Return all for which a host cannot carry its services, in the order in which a person would cure it."""
    return [
        Problem(host, *fault)
        for faults in (
            _system(found, wanted),
            docker_faults(found, wanted.docker) if wanted.docker else (),
            _clock(found, asked, wanted),
            _room(found, wanted),
            _ports(found),
        )
        for fault in faults
    ]


def _system(found: Mapping[str, Any], wanted: Wanted) -> Iterator[Fault]:
    if wanted.runtime == "systemd":
        if not found["systemd"]:
            cure = "use a host that systemd started, or icosfl_runtime: supervisor on this machine"
            yield "icosfl_runtime", "it is not run by systemd", cure
        if found["uid"] != 0:
            yield "ansible_become", "we are not root there, and systemd's units are root's", "set ansible_become: true"
    python = ".".join(found["python"].split(".")[:2])
    if wanted.pythons and python not in wanted.pythons:
        message = f"it has Python {found['python']} ({found['release']}), the release is made for "
        cure = "use Debian 12 or 13, or name another Python in ansible_python_interpreter"
        yield "python", message + ", ".join(wanted.pythons), cure
    if wanted.architectures and found["architecture"] not in wanted.architectures:
        message = f"it is a {found['architecture']}, the release is made for {', '.join(wanted.architectures)}"
        yield "architecture", message, "use another host"
    if version_of(found["glibc"]) < version_of(wanted.glibc):
        there = f"glibc {found['glibc']}" if found["glibc"] else "not glibc"
        yield "glibc", f"its C library is {there}, glibc {wanted.glibc} is needed", "use a newer release of its system"


def _clock(found: Mapping[str, Any], asked: Asked, wanted: Wanted) -> Iterator[Fault]:
    error = clock_error(found["time"], asked.start, asked.end)
    if abs(error) > wanted.clock_tolerance_seconds:
        way = "ahead of" if error > 0 else "behind"
        most = f"at most {wanted.clock_tolerance_seconds:g} s are well"
        cure = "synchronise both clocks (NTP)"
        yield "clock", f"its clock is at least {abs(error):.0f} s {way} ours, {most}", cure


def _room(found: Mapping[str, Any], wanted: Wanted) -> Iterator[Fault]:
    if found["memory_mb"] < wanted.memory_mb:
        message = f"it has {found['memory_mb']} MB of memory, {wanted.memory_mb} MB are needed"
        yield "memory", message, "give it more, or use another host"
    needed: defaultdict[int, int] = defaultdict(int)
    places: dict[int, Mapping[str, Any]] = {}
    asked = list(zip(wanted.places, found["places"], strict=True))
    if wanted.docker is not None and wanted.docker.image_mb:
        asked.append((Place(found["docker"]["storage"], "", wanted.docker.image_mb), found["docker"]["place"]))
    for place, there in asked:
        if there["trouble"]:
            if there["trouble"] == NOT_WRITABLE and wanted.runtime != "supervisor":
                continue  # we are not root, which has been told
            yield "disk", f"{there['above']} is {there['trouble']}", f"see to it, or lay {place.path} elsewhere"
            continue
        needed[there["device"]] += min(RUNNING_DISK_MB, place.needed_mb) if there["filled"] else place.needed_mb
        places.setdefault(there["device"], there)
    for device, there in places.items():
        if there["free_mb"] < needed[device]:
            message = f"{there['path']} has {there['free_mb']} MB of free disk, {needed[device]} MB are needed"
            yield "disk", message, "free some, or lay it on another file system"


def _ports(found: Mapping[str, Any]) -> Iterator[Fault]:
    for by in found["listeners"]:
        if not by["own"]:
            holder = f"pid {by['pid']} ({by['command']})" if by["pid"] else "a process of another user"
            cure = f"stop it, or give the host another icosfl_slot or icosfl_port_overrides.{by['service']}"
            yield "ports", f"port {by['port']} ({by['service']}) is already used by {holder}", cure
