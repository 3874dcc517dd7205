"""What a service is: one description, whichever process manager runs it, checked key by key.

Service roles describe a service as a dict; `Service.of` turns it into a frozen value or says which key of which
service is wrong. Nothing here imports more than the standard library: every call of the Ansible modules pays for it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from icosfl.errors import ConfigError
from icosfl.fleet.table import Table

HealthKind = Literal["http", "grpc", "tcp", "redis", "process"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_HIGHEST_WEIGHT = 10_000  # of systemd


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How to ask a service whether it works.

    `http` wants a 2xx answer to GET `path`, `grpc` SERVING for `service` ("" = the server as a whole), `redis` an
    answer to PING, `tcp` an open port, `process` only that the process stays up.
    """

    kind: HealthKind
    host: str
    port: int
    path: str
    service: str
    timeout_seconds: float

    @property
    def address(self) -> str:
        """Where the check asks, for messages."""
        return f"{self.host}:{self.port}" + (self.path if self.kind == "http" else "")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service may use of its machine, for the runtimes that can limit it; None: no limit of its own.

    `cpu_quota_percent` is of one core. `cpu_weight` and `io_weight` share what is scarce, 100 being everybody's.
    """

    memory_max_mb: int | None = None
    cpu_quota_percent: int | None = None
    cpu_weight: int | None = None
    io_weight: int | None = None
    tasks_max: int | None = None

    @classmethod
    def of(cls, owner: str, limits: object) -> Limits:
        """Check limits.

        Raises:
            ConfigError: A key is unknown, or its value no such number; names the owner and the key.
        """
        table = Table(owner, limits)
        found = {name: table.integer(name) for name in cls.__slots__ if table.has(name)}
        table.refuse_the_rest()
        for name, value in found.items():
            highest = _HIGHEST_WEIGHT if name.endswith("_weight") else None
            if value < 1 or (highest and value > highest):
                raise table.error(name, f"is {value}", f"expected 1 to {highest}" if highest else "expected 1 or more")
        return cls(**found)

    def with_(self, others: Limits) -> Limits:
        """Return these limits, but the others' where they have one."""
        return dataclasses.replace(self, **others.stated())

    def stated(self) -> dict[str, int]:
        """Return the limits that there are, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Service:
    """One long-running program of a host.

    `files` are the files whose contents, when they change, call for a restart. `ports` are those that it listens on,
    by name. `stop_seconds` is how long it may take to stop before it is killed. Services start in ascending
    `priority`, those of equal priority together. `directory` "" means the host's root directory.

    A runtime with a sandbox (systemd) shows a service nothing of the host's root but `files` and `reads`, which it may
    read, and `writes`, which it may write; `sees_host` lets it look at the whole machine's processes and devices.
    `needs` are services of the same host that start before it.

    Where services have a network of their own (docker), the machine offers those of the `ports` that `publish` names,
    each at the address that it gives; `image` is what the service runs in, "" for the release's own. Elsewhere neither
    counts. `health` is asked from the host, by way of such a port.
    """

    name: str
    command: tuple[str, ...]
    health: HealthCheck
    stop_seconds: int
    priority: int
    description: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    directory: str = ""
    files: tuple[str, ...] = ()
    ports: Mapping[str, int] = dataclasses.field(default_factory=dict)
    publish: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image: str = ""
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    sees_host: bool = False
    limits: Limits = Limits()

    @classmethod
    def of(cls, description: object) -> Service:
        """Check a service description.

        Raises:
            ConfigError: A key is missing, unknown or of the wrong type; names the service and the key.
        """
        table = Table("a service", description)
        name = table.text("name")
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"service {name!r}: a name is lower-case letters, digits, _ and -, and begins with a letter"
            )
        table.owner = f"service {name}"
        service = cls(
            name=name,
            description=table.text("description", ""),
            command=table.texts("command"),
            environment=table.environment("environment"),
            directory=table.text("directory", ""),
            files=table.paths("files"),
            health=_health(table),
            ports=table.ports("ports"),
            publish=table.environment("publish"),
            image=table.text("image", ""),
            stop_seconds=table.integer("stop_seconds"),
            priority=table.integer("priority"),
            reads=table.paths("reads"),
            writes=table.paths("writes"),
            needs=table.texts("needs", ()),
            sees_host=table.boolean("sees_host"),
            limits=Limits.of(f"service {name}: limits", table.mapping("limits")),
        )
        table.refuse_the_rest()
        if not service.command:
            raise table.error("command", "is empty", "expected a list of the program and its arguments")
        if strangers := sorted(set(service.publish) - set(service.ports)):
            raise table.error("publish", f"names {', '.join(strangers)}", "expected names that ports has, too")
        return service

    def description_dict(self) -> dict[str, Any]:
        """Return the description as plain JSON values; `Service.of` reads it back."""
        return {**dataclasses.asdict(self), "limits": self.limits.stated()}


def _own_limits(limits: Mapping[str, Limits], name: str) -> Limits:
    return limits.get(name) or limits.get(re.sub(r"-[0-9]+$", "", name)) or Limits()


def services_of(descriptions: object, limits: object = None) -> tuple[Service, ...]:
    """Check a list of service descriptions and return them in their order of start.

    Args:
        descriptions: One mapping for each service.
        limits: The fleet's own limits by service, which outweigh those of the descriptions; may name services that are
            not among these. Those of `supernode` hold for `supernode-2`, too, unless it has its own.

    Raises:
        ConfigError: One of them is wrong, or two of them share a name or a port.
    """
    if not isinstance(descriptions, list):
        raise ConfigError(f"services: expected a list of service descriptions, got {type(descriptions).__name__}")
    ours = {
        name: Limits.of(f"limits: {name}", each) for name, each in Table("limits", {"": limits}).mapping("").items()
    }
    described = (Service.of(each) for each in descriptions)
    limited = (dataclasses.replace(each, limits=each.limits.with_(_own_limits(ours, each.name))) for each in described)
    services = tuple(sorted(limited, key=lambda service: service.priority))
    names: set[str] = set()
    ports: dict[int, str] = {}
    for service in services:
        if service.name in names:
            raise ConfigError(
                f"service {service.name}: described twice", cure="give each service of a host its own name"
            )
        names.add(service.name)
        for label, port in service.ports.items():
            if port in ports:
                raise ConfigError(
                    f"service {service.name}: ports.{label} is {port}, which {ports[port]} has already",
                    cure="give one of them another port in icosfl_ports",
                )
            ports[port] = f"service {service.name} (ports.{label})"
    return services


def _health(service: Table) -> HealthCheck:
    table = Table(service.owner, service.get("health", "a mapping with kind and timeout_seconds"))
    table.owner = f"{service.owner}: health"
    kinds: tuple[HealthKind, ...] = get_args(HealthKind)
    named = table.text("kind")
    kind = next((known for known in kinds if known == named), None)
    if kind is None:
        raise table.error("kind", f"is {named!r}", f"expected one of {', '.join(kinds)}")
    asked = kind != "process"
    check = HealthCheck(
        kind=kind,
        host=table.text("host", None if asked else ""),
        port=table.port("port", table.get("port", "a port", None if asked else 0), lowest=1 if asked else 0),
        path=table.text("path", "/"),
        service=table.text("service", ""),
        timeout_seconds=table.seconds("timeout_seconds"),
    )
    table.refuse_the_rest()
    return check
