"""What a host is: a program of its own, sent to the host's Python as text, so that nothing is written there.

It runs with Python 3.9 and its standard library alone, reads only, and prints one line of JSON.
`icosfl.fleet.probe_docker` is its second half. `icosfl.fleet.host_facts` judges what it says.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

MARK = "icosfl-probe:"
PROC = "/proc"
NOT_WRITABLE = "not writable for us"

_LISTENS = "0A"  # TCP_LISTEN
_COMMAND_CHARACTERS = 120
_MIB = 1024 * 1024


def look(
    wanted: Mapping[str, Any], look_docker: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return what this host is.

    Args:
        wanted: `ports` by service; `places`, each with `path` and `marker` (what lies in it when it is filled);
            `root`, the host's own directory; `unit_prefix` of its systemd units; `user`, "" for none; and what
            `look_docker` wants.
        look_docker: What tells of its Docker.
    """
    now = time.time()
    user = _user(wanted["user"])
    docker = look_docker(wanted) if look_docker else {}
    if "storage" in docker:
        docker["place"] = {**place(docker["storage"], ""), "filled": docker["has_image"]}
    return {
        "time": now,
        "python": ".".join(map(str, sys.version_info[:3])),
        "uid": os.geteuid(),
        "release": release("/etc/os-release"),
        "architecture": os.uname().machine,
        "glibc": _glibc(),
        "systemd": os.path.isdir("/run/systemd/system"),  # noqa: PTH112 (short, and the same everywhere)
        "memory_mb": _memory() // _MIB,
        "places": [place(each["path"], each["marker"]) for each in wanted["places"]],
        "listeners": listeners(wanted["ports"], wanted["root"], wanted["unit_prefix"], user, docker),
        "user": user,
        "docker": docker,
    }


def release(path: str) -> str:
    """Return name and version of the distribution, "debian 12"; "" when it does not say."""
    fields = dict(line.split("=", 1) for line in _read(path).splitlines() if "=" in line)
    return " ".join(fields.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID")).strip()


def place(path: str, marker: str) -> dict[str, Any]:
    """Return what is known of the file system on which a directory lies, or will lie."""
    above = path
    while not os.path.lexists(above) and os.path.dirname(above) != above:  # noqa: PTH120
        above = os.path.dirname(above)  # noqa: PTH120
    try:
        system = os.statvfs(above)
        device = os.stat(above).st_dev  # noqa: PTH116
    except OSError as error:
        return {"path": path, "above": above, "trouble": error.strerror}
    trouble = "" if os.path.isdir(above) else "not a directory"  # noqa: PTH112
    if not trouble and system.f_flag & os.ST_RDONLY:
        trouble = "on a file system that can only be read"
    elif not trouble and not os.access(above, os.W_OK):
        trouble = NOT_WRITABLE
    return {
        "path": path,
        "above": above,
        "trouble": trouble,
        "device": device,
        "free_mb": system.f_bavail * system.f_frsize // _MIB,
        "filled": os.path.lexists(os.path.join(path, marker)),  # noqa: PTH118
    }


def listeners(
    ports: Mapping[str, int],
    root: str,
    unit_prefix: str,
    user: Mapping[str, Any] | None = None,
    docker: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Return who listens on any of these ports, whatever the address; `pid` 0 when we may not see it.

    In a container root may not look into the processes of others. What is the services' own user's counts as ours then.
    So does what our containers offer, where Docker's proxy listens, and what runs in one of them.
    """
    sockets = _listening(set(ports.values()))
    if not sockets:
        return []
    holders = _holders({inode for inodes in sockets.values() for inode in inodes})
    service_uid = user["uid"] if user else None
    offered, containers = ((docker or {}).get(key, []) for key in ("ports", "containers"))
    found = []
    for service, port in sorted(ports.items(), key=lambda item: item[1]):
        if port in sockets:
            pid = next((holders[inode] for inode in sockets[port] if inode in holders), 0)
            if pid:
                own = port in offered or is_own(pid, root, unit_prefix) or _is_in(pid, containers)
            else:
                own = port in offered or set(sockets[port].values()) == {service_uid}
            found.append({"service": service, "port": port, "pid": pid, "command": _command(pid), "own": own})
    return found


def is_own(pid: int, root: str, unit_prefix: str) -> bool:
    """Whether a process is a service of this host: of one of its units, or of its supervisord, dead or alive."""
    names = re.findall(r"/([^/\n]+)\.service(?![^/\n])", _read(f"{PROC}/{pid}/cgroup"))
    if any(re.fullmatch(re.escape(unit_prefix) + r"-(?!\d+-)[^/]+", name) for name in names):
        return True  # icosfl-1-redis is of the neighbour in slot 1, not of the prefix icosfl
    if f"SUPERVISOR_SERVER_URL=unix://{root}/supervisor/" in _read(f"{PROC}/{pid}/environ"):
        return True
    try:
        session, directory = os.getsid(pid), os.readlink(f"{PROC}/{pid}/cwd")  # noqa: PTH115
    except OSError:
        return False
    # Redis overwrites its environment. The session is the supervisord's; its number may be another's if it died.
    supervisord = _read(f"{root}/supervisor/supervisord.pid").strip()
    return supervisord == str(session) and f"{directory}/".startswith(f"{root}/")


def _is_in(pid: int, containers: Collection[str]) -> bool:
    """Whether a process runs in one of these containers."""
    groups = _read(f"{PROC}/{pid}/cgroup")
    return any(container in groups for container in containers)


def _listening(ports: set[int]) -> dict[int, dict[str, int]]:
    """Return the sockets that listen on these ports: inode and user."""
    found: dict[int, dict[str, int]] = {}
    for table in ("tcp", "tcp6"):
        for line in _read(f"{PROC}/net/{table}").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTENS and port in ports:
                found.setdefault(port, {})[fields[9]] = int(fields[7])
    return found


def _holders(inodes: set[str]) -> dict[str, int]:
    """Return the process of each socket, by its inode."""
    found: dict[str, int] = {}
    for pid in filter(str.isdigit, os.listdir(PROC)):  # noqa: PTH208
        try:
            files = os.listdir(f"{PROC}/{pid}/fd")  # noqa: PTH208
        except OSError:
            continue
        for file in files:
            try:
                target = os.readlink(f"{PROC}/{pid}/fd/{file}")  # noqa: PTH115
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in inodes:
                found.setdefault(target[8:-1], int(pid))
    return found


def _command(pid: int) -> str:
    return _read(f"{PROC}/{pid}/cmdline").replace("\0", " ").strip()[:_COMMAND_CHARACTERS] if pid else ""


def _memory() -> int:
    """Bytes of memory: the machine's, or as much of it as our control group may take."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(f"{PROC}/meminfo"), re.MULTILINE)
    total = int(found.group(1)) * 1024 if found else 0
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = _read(path).strip()
        total = min(total, int(limit)) if limit.isdigit() else total
    return total


def _glibc() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[2]
    except (ValueError, OSError):
        return ""  # another C library, such as musl


def _user(name: str) -> dict[str, Any] | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return {"name": entry.pw_name, "uid": entry.pw_uid, "gid": entry.pw_gid}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def say(wanted: str, look_docker: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None) -> None:
    """Print what this host is as one marked line.

    Args:
        wanted: The first argument of `look` as JSON.
        look_docker: The second one.
    """
    sys.stdout.write(f"{MARK}{json.dumps(look(json.loads(wanted), look_docker))}\n")
