"""What a host's Docker is: the second half of `icosfl.fleet.probe`, which goes to the host as text behind the first.

It asks the engine itself, by its socket: no process, no library. Like the first half it reads only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Mapping
from typing import Any

ENGINE_LABEL = "io.icosfl.engine="
"""On an Engine that we installed: what follows tells its configuration."""

ROOT_LABEL = "io.icosfl.root"
IMAGE_LABEL = "io.icosfl.image"

_SOCKET = "/var/run/docker.sock"
_CONFIG = "/etc/docker/daemon.json"
_STORAGE = "/var/lib/docker"
_PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
_SECONDS = 20.0
_OK = 200


def look_docker(wanted: Mapping[str, Any], at: str = _SOCKET, config: str = _CONFIG) -> dict[str, Any]:
    """Return what this host's Docker is, and which ports and processes are those of our containers.

    Args:
        wanted: `root`, the host's own directory; `docker`, with `plugin` (where Compose is linked) and `program` (what
            to), or null: then only our containers are looked for.
        at: The engine's socket.
        config: The engine's configuration.
    """
    found: dict[str, Any] = {"ports": [], "containers": []}
    if os.path.exists(at):  # noqa: PTH110 (short, and the same everywhere)
        found.update(_containers(at, wanted["root"]))
    if wanted["docker"] is None:
        return found
    told = {"dockerd": shutil.which("dockerd", path=_PROGRAMS), "command": shutil.which("docker", path=_PROGRAMS)}
    found.update({name: path or "" for name, path in told.items()})
    found.update(_engine(at))
    found.update(_configured(config))
    found["linked"] = _target(wanted["docker"]["plugin"]) == wanted["docker"]["program"]
    found["compose"] = "" if found["linked"] or not found["command"] else _compose(found["command"])
    return found


def _containers(at: str, root: str) -> dict[str, Any]:
    """Return the ports that our containers offer, and the ids of all, ended ones, too; nothing without answer."""
    wanted = urllib.parse.quote(json.dumps({"label": [f"{ROOT_LABEL}={root}"]}))
    try:
        ours = _get(at, f"/containers/json?all=1&filters={wanted}")
    except (OSError, ValueError):
        return {}
    ports = {port["PublicPort"] for each in ours for port in each.get("Ports") or [] if port.get("PublicPort")}
    return {"ports": sorted(ports), "containers": [each["Id"] for each in ours]}


def _engine(at: str) -> dict[str, Any]:
    """Return what the engine says of itself, with the mark that it was started with; `error` is why it says nothing."""
    silent = {"engine": "", "api": "", "architecture": "", "storage": _STORAGE, "has_image": False, "running": ""}
    wanted = urllib.parse.quote(json.dumps({"label": [IMAGE_LABEL]}))
    try:
        version, info = _get(at, "/version"), _get(at, "/info")
        images = _get(at, f"/images/json?filters={wanted}")
    except (OSError, ValueError) as error:
        return {**silent, "error": f"{at}: {getattr(error, 'strerror', None) or error}"}
    return {
        "engine": version.get("Version", ""),
        "api": version.get("ApiVersion", ""),
        "architecture": version.get("Arch", ""),
        "storage": info.get("DockerRootDir") or _STORAGE,
        "has_image": bool(images),
        "running": _mark(info.get("Labels")),
        "error": "",
    }


def _get(at: str, path: str) -> Any:
    """Return what the engine answers to a question.

    Raises:
        OSError: it does not answer, or not well.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_SECONDS)
        connection.connect(at)
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.\d (\d+)", head)
    if status is None or int(status.group(1)) != _OK:
        raise OSError((body or head).decode("utf-8", "replace").strip()[:200] or "it ends the connection")
    return json.loads(body)


def _configured(path: str) -> dict[str, Any]:
    """Return whether the Engine has a configuration, and our mark in it; "" where it is not ours."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            labels = json.load(file).get("labels")
    except FileNotFoundError:
        return {"config": path, "is_configured": False, "mark": ""}
    except (OSError, ValueError, AttributeError):
        return {"config": path, "is_configured": True, "mark": ""}
    return {"config": path, "is_configured": True, "mark": _mark(labels)}


def _mark(labels: Any) -> str:
    """Return our mark among an Engine's labels; "" where there is none."""
    texts = [str(label) for label in labels or ()]
    return next((text[len(ENGINE_LABEL) :] for text in texts if text.startswith(ENGINE_LABEL)), "")


def _compose(docker: str) -> str:
    """Return the version of the plugin compose; "" where there is none."""
    command = [docker, "compose", "version", "--short"]
    try:
        said = subprocess.run(command, check=False, capture_output=True, timeout=_SECONDS)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.match(r"v?([\d.]+)", said.stdout.decode("utf-8", "replace").strip())
    return found.group(1) if said.returncode == 0 and found else ""


def _target(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""
