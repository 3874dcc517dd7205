"""From services to what Compose reads: hardened containers, their volumes, and the network of one host.

Pure. A container sees the host's paths at the same places: what its service reads is mounted read-only, what it writes
is a named volume bound to the host's directory, so that the data stay where every runtime looks for them. Nothing else
of the host is there, and of its own it can write nothing but /tmp.

What a service may read and is missing is left out, for Docker would not start the container; it is mounted when it is
there at a later deployment, which calls for a restart.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from icosfl.errors import ConfigError
from icosfl.fleet.alive import LOOK_SECONDS, PATIENCE, PROBE_SECONDS
from icosfl.fleet.container_limits import Machine, compose_limits
from icosfl.fleet.container_records import (
    BRIDGE_LABEL,
    DIGEST_LABEL,
    ROOT_LABEL,
    SERVICE_LABEL,
    ContainerLayout,
    Record,
    alias,
)
from icosfl.fleet.guard import bridge_of
from icosfl.fleet.service import HealthCheck, Service
from icosfl.fleet.topology import address_of
from icosfl.fleet.variables import variables

MACHINE = "/host"  # below it a service that sees the host finds the machine's own /sys

_HEAD = "# Written by Ansible: changes are lost.\n"
_NETWORK = "private"
_BRIDGE_OPTION = "com.docker.network.bridge.name"  # or nobody knows which rules are for it
_CHECK_SECONDS = int(PROBE_SECONDS) + 5  # Docker ends a check that takes longer
_FIRST_WITH_START_INTERVAL = (1, 44)  # API of Engine 25
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")
# What of the machine's kernel can be measured. Docker hides the energy counters in a container's own /sys.
_MEASURED = ("/sys/block", "/sys/bus", "/sys/class", "/sys/devices")


@dataclass(frozen=True, slots=True)
class Image:
    """What a service runs in.

    Args:
        reference: What Docker is told: an id, or a name with a digest or a tag.
        own: Whether it is the release's, so that it has our health check.
        id: What that is on this machine; "" when it is not there yet.
        architecture: What machines it is for, in Docker's words; "" when it is not there yet.
    """

    reference: str
    own: bool
    id: str = ""
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a definition takes from the machine.

    Args:
        user: The services' user and group, "990:990".
        api: The newest API that the engine speaks.
        check: How the release's health check is called, up to its arguments.
    """

    user: str
    api: tuple[int, ...]
    check: tuple[str, ...]


def definition_of(
    service: Service, layout: ContainerLayout, image: Image, there: Surroundings, missing: Collection[str]
) -> dict[str, Any]:
    """Return what Compose is told of a service, without limits, digest, and what it needs.

    Args:
        service: The service.
        layout: The host's names and files.
        image: What it runs in.
        there: What the machine adds.
        missing: Those of `seen_paths` that are not there.

    Raises:
        ConfigError: A value cannot be written there, or is a secret, which everybody could read.
    """
    directory = service.directory or str(layout.root)
    program, *arguments = service.command
    definition = {
        "image": image.reference,
        "pull_policy": "never" if image.own or _IMAGE_ID.fullmatch(image.reference) else "missing",
        "container_name": layout.container(service.name),
        # All that runs is the command: an image's own entrypoint does not count.
        "entrypoint": [program],
        "command": arguments,
        "environment": variables(service, directory, "a container's description"),
        "working_dir": directory,
        "user": there.user,
        "init": True,
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "tmpfs": ["/tmp:size=256m,mode=1777,noexec,nosuid,nodev"],  # noqa: S108 (the container's own)
        "ulimits": {"core": 0},
        "healthcheck": _health(service, image, there),
        "restart": "unless-stopped",
        "stop_grace_period": f"{max(service.stop_seconds, 1)}s",
        "logging": {"driver": "local", "options": {"max-size": "5m", "max-file": "3"}},
        "labels": {ROOT_LABEL: str(layout.root), SERVICE_LABEL: service.name},
        "volumes": [*_reads(service, missing), *_writes(service, layout)],
        **({"network_mode": "host"} if service.sees_host else _own_network(service)),
    }
    if not service.sees_host:  # Compose makes another network when it changes, and all on it must be made anew
        definition["labels"][BRIDGE_LABEL] = bridge_of(layout.prefix)
    for key, words in (("command", service.command), ("files", (*service.files, *service.reads, *service.writes))):
        if any(_CONTROL.search(word) for word in words):
            raise ConfigError(
                f"service {service.name}: {key} has a line end or another control character",
                cure="put it into one of the service's files, or take a plainer path",
            )
    return definition


def seen_paths(service: Service) -> tuple[str, ...]:
    """Return the host's paths that a service's container shows read-only, as far as they are there."""
    named = (path for path in (*service.files, *service.reads) if path not in service.writes)
    return tuple(dict.fromkeys((*named, *(_MEASURED if service.sees_host else ()))))


def digest_of(definition: Mapping[str, Any], image: Image, content: str) -> str:
    """Return the digest of all that calls for a restart when it changes.

    The image counts by what it is, not by how it came here. How often Docker looks at the start does not count.

    Args:
        definition: What Compose is told of the service.
        image: What it runs in.
        content: The digest of its description and of its files.
    """
    health = {key: value for key, value in definition["healthcheck"].items() if key != "start_interval"}
    known = {**definition, "image": image.id or image.reference, "healthcheck": health, "pull_policy": ""}
    return hashlib.sha256(json.dumps([known, content], sort_keys=True).encode()).hexdigest()[:32]


def volumes_of(service: Service, layout: ContainerLayout) -> dict[str, str]:
    """Return the directory of the host behind each volume that a service writes, by the volume's name."""
    return {_volume(path, layout): path for path in service.writes}


def document(layout: ContainerLayout, records: Iterable[Record], machine: Machine) -> dict[str, Any]:
    """Return what Compose reads of a whole host.

    Args:
        layout: The host's names and files.
        records: All that is installed.
        machine: What limits depend on.
    """
    ordered = sorted(records, key=lambda record: (record.service.priority, record.name))
    checked = {record.name: not record.definition["healthcheck"].get("disable") for record in ordered}
    services = {alias(record.name): _service(record, checked, machine) for record in ordered}
    labels = {ROOT_LABEL: str(layout.root)}
    whole: dict[str, Any] = {"name": layout.prefix, "services": services}
    if any("networks" in service for service in services.values()):
        options = {_BRIDGE_OPTION: bridge_of(layout.prefix)}
        whole["networks"] = {
            _NETWORK: {"name": layout.network, "driver": "bridge", "driver_opts": options, "labels": labels}
        }
    if bound := {name: path for record in ordered for name, path in record.volumes.items()}:
        whole["volumes"] = {
            name: {
                "name": name,
                "driver": "local",
                "driver_opts": {"type": "none", "o": "bind", "device": path},
                "labels": labels,
            }
            for name, path in sorted(bound.items())
        }
    return whole


def text(whole: Mapping[str, Any]) -> str:
    """Return a document as YAML. A $ stands for itself: Compose would put variables in."""
    import yaml  # only hosts with Docker pay for it

    return _HEAD + yaml.safe_dump(_escaped(whole), sort_keys=False, width=120, allow_unicode=True)


def refuse_twins(services: Iterable[Service]) -> None:
    """Refuse services whose containers would have the same name.

    Raises:
        ConfigError: Two names differ in nothing but _ and -.
    """
    names: dict[str, str] = {}
    for service in services:
        other = names.setdefault(alias(service.name), service.name)
        if other != service.name:
            raise ConfigError(
                f"services {other} and {service.name} would both be {alias(other)} on the host's network",
                cure="rename one of them",
            )


def _service(record: Record, checked: Mapping[str, bool], machine: Machine) -> dict[str, Any]:
    definition = dict(record.definition)
    needs = {
        alias(name): {"condition": "service_healthy" if checked[name] else "service_started"}
        for name in record.service.needs
        if name in checked
    }
    if needs:
        definition["depends_on"] = needs
    labels = {**definition["labels"], DIGEST_LABEL: record.digest}
    return {**definition, **compose_limits(record.service.limits, machine), "labels": labels}


def _health(service: Service, image: Image, there: Surroundings) -> dict[str, Any]:
    check = service.health
    test = _test(service, check, image, there)
    if not test:
        return {"disable": True}
    health = {
        "test": ["CMD", *test],
        "interval": f"{LOOK_SECONDS}s",
        "timeout": f"{_CHECK_SECONDS}s",
        "retries": PATIENCE,
        "start_period": f"{math.ceil(check.timeout_seconds)}s",
    }
    if there.api >= _FIRST_WITH_START_INTERVAL:
        health["start_interval"] = "1s"
    return health


def _test(service: Service, check: HealthCheck, image: Image, there: Surroundings) -> list[str]:
    """Return the command of the health check; none for a process, and for an image that has no program for it."""
    host = check.host if service.sees_host else alias(service.name)
    if check.kind == "process":
        return []
    if image.own:
        grace = math.ceil(max(service.stop_seconds, 1) / LOOK_SECONDS)
        asked = [check.kind, host, check.port, check.path, check.service, check.timeout_seconds, grace]
        return [*there.check, *map(str, asked)]
    return ["redis-cli", "-h", host, "-p", str(check.port), "ping"] if check.kind == "redis" else []


def _own_network(service: Service) -> dict[str, Any]:
    published = [f"{address_of(at, service.ports[name])}:{service.ports[name]}" for name, at in service.publish.items()]
    return {
        "hostname": alias(service.name),
        "networks": {_NETWORK: {"aliases": [alias(service.name)]}},
        **({"ports": published} if published else {}),
    }


def _reads(service: Service, missing: Collection[str]) -> list[dict[str, Any]]:
    return [
        {
            "type": "bind",
            "source": path,
            "target": f"{MACHINE}{path}" if path in _MEASURED else path,
            "read_only": True,
            "bind": {"create_host_path": False},  # or Docker makes a directory where a file is missing
        }
        for path in seen_paths(service)
        if path not in missing
    ]


def _writes(service: Service, layout: ContainerLayout) -> list[dict[str, Any]]:
    return [
        {"type": "volume", "source": _volume(path, layout), "target": path, "volume": {"nocopy": True}}
        for path in dict.fromkeys(service.writes)
    ]


def _volume(path: str, layout: ContainerLayout) -> str:
    """Return the name of the volume of a directory; no two directories of a host have the same."""
    whole = PurePosixPath(path)
    below = whole.relative_to(layout.root) if whole.is_relative_to(layout.root) else whole.relative_to("/")
    plain = re.sub(r"[^a-zA-Z0-9_.]+", "-", str(below)).strip("-.")
    if plain.replace("-", "/") != str(below) or not whole.is_relative_to(layout.root):
        plain = f"{plain}-{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    return f"{layout.prefix}-{plain}"


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(each) for each in value]
    return value
