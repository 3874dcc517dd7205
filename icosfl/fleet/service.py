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

HealthKind = Literal["http", "grpc", "tcp", "redis", "process"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HIGHEST_PORT = 65535


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
class Service:
    """One long-running program of a host.

    `files` are the files whose contents, when they change, call for a restart. `ports` are those that it listens on,
    by name. `stop_seconds` is how long it may take to stop before it is killed. Services start in ascending
    `priority`, those of equal priority together. `directory` "" means the host's root directory. `memory_limit_mb` is
    for the runtimes that have one.
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
    memory_limit_mb: int | None = None

    @classmethod
    def of(cls, description: object) -> Service:
        """Check a service description.

        Raises:
            ConfigError: A key is missing, unknown or of the wrong type; names the service and the key.
        """
        table = _Table("a service", description)
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
            files=table.texts("files", ()),
            health=_health(table),
            ports=table.ports("ports"),
            stop_seconds=table.integer("stop_seconds"),
            priority=table.integer("priority"),
            memory_limit_mb=table.integer("memory_limit_mb") if table.has("memory_limit_mb") else None,
        )
        table.refuse_the_rest()
        if not service.command:
            raise table.error("command", "is empty", "expected a list of the program and its arguments")
        return service

    def description_dict(self) -> dict[str, Any]:
        """Return the description as plain JSON values; `Service.of` reads it back."""
        plain = dataclasses.asdict(self)
        if self.memory_limit_mb is None:
            del plain["memory_limit_mb"]
        return plain


def services_of(descriptions: object) -> tuple[Service, ...]:
    """Check a list of service descriptions and return them in their order of start.

    Raises:
        ConfigError: One of them is wrong, or two of them share a name or a port.
    """
    if not isinstance(descriptions, list):
        raise ConfigError(f"services: expected a list of service descriptions, got {type(descriptions).__name__}")
    services = tuple(sorted((Service.of(each) for each in descriptions), key=lambda service: service.priority))
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


def ports_of(ports: object) -> dict[str, int]:
    """Check ports by name.

    Raises:
        ConfigError: One of them is no port; names it.
    """
    return _Table("free_ports", {"ports": ports}).ports("ports")


class _Table:
    """A mapping that is read key by key and remembers which keys nobody asked for."""

    def __init__(self, owner: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{owner}: expected a mapping, got {type(value).__name__}")
        self.owner = owner
        self._values: dict[str, Any] = {str(key): each for key, each in value.items()}
        self._read: set[str] = set()

    def error(self, key: str, problem: str, cure: str = "") -> ConfigError:
        return ConfigError(f"{self.owner}: {key} {problem}", cure=cure)

    def has(self, key: str) -> bool:
        self._read.add(key)
        return self._values.get(key) is not None

    def get(self, key: str, wanted: str, default: object = None) -> Any:
        if self.has(key):
            return self._values[key]
        if default is None:
            raise self.error(key, "is missing", f"expected {wanted}")
        return default

    def text(self, key: str, default: str | None = None) -> str:
        value = self.get(key, "a text", default)
        if not isinstance(value, str):
            raise self.error(key, f"is {value!r}", "expected a text")
        return str(value)  # not Ansible's tagged subclass of str

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self.get(key, "a list of texts", default)
        if not isinstance(value, list | tuple) or not all(isinstance(each, str | int | float) for each in value):
            raise self.error(key, f"is {value!r}", "expected a list of texts")
        return tuple(str(each) for each in value)

    def mapping(self, key: str) -> dict[str, Any]:
        value = self.get(key, "a mapping", {})
        if not isinstance(value, Mapping):
            raise self.error(key, f"is {value!r}", "expected a mapping")
        return {str(name): each for name, each in value.items()}

    def integer(self, key: str) -> int:
        value = self.get(key, "a whole number")
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, f"is {value!r}", "expected a whole number, 0 or more")
        return int(value)

    def seconds(self, key: str) -> float:
        value = self.get(key, "a number of seconds")
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = 0.0
        if isinstance(value, bool) or not 0 < seconds < float("inf"):
            raise self.error(key, f"is {value!r}", "expected a number of seconds above 0")
        return seconds

    def environment(self, key: str) -> dict[str, str]:
        variables = self.mapping(key)
        for name, value in variables.items():
            if not _VARIABLE.fullmatch(name):
                raise self.error(f"{key}.{name}", "is not the name of a variable", "expected letters, digits and _")
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise self.error(f"{key}.{name}", f"is a {type(value).__name__}", "expected a text; quote it")
        return {name: str(value) for name, value in variables.items()}

    def ports(self, key: str) -> dict[str, int]:
        return {label: _port(self, f"{key}.{label}", value) for label, value in self.mapping(key).items()}

    def refuse_the_rest(self) -> None:
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise self.error(unknown[0], "is unknown", f"known keys: {', '.join(sorted(self._read))}")


def _health(service: _Table) -> HealthCheck:
    table = _Table(service.owner, service.get("health", "a mapping with kind and timeout_seconds"))
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
        port=_port(table, "port", table.get("port", "a port", None if asked else 0), lowest=1 if asked else 0),
        path=table.text("path", "/"),
        service=table.text("service", ""),
        timeout_seconds=table.seconds("timeout_seconds"),
    )
    table.refuse_the_rest()
    return check


def _port(table: _Table, key: str, value: object, lowest: int = 1) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _HIGHEST_PORT:
        raise table.error(key, f"is {value!r}", f"expected a port, {lowest} to {_HIGHEST_PORT}")
    return int(value)
