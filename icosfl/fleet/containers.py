"""Speaks with Docker for the containers of one host: what they do, and start, stop, remove. One call asks about all."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet.container_records import (
    DIGEST_LABEL,
    ROOT_LABEL,
    SERVICE_LABEL,
    ContainerLayout,
    alias,
)
from icosfl.fleet.engine import CALL_SECONDS, Engine
from icosfl.fleet.guarded import write
from icosfl.fleet.process_status import NOT_DEFINED, Status
from icosfl.fleet.service import HealthCheck, Service

_SETTLED_SECONDS = 3.0  # a process that lives so long counts as running, as under systemd
_LAST_SECOND = re.compile(r"\.\d+")
_SIGNALLED = 128  # an exit status above it tells a signal
_KILLED = 9


@dataclass(frozen=True, slots=True)
class Container:
    """A container of this host.

    Args:
        id: Docker's.
        name: Docker's.
        status: What it does, by its service's name.
        digest: Of the definition by which it was made.
        ports: Those that the machine offers for it.
        address: Its own on the host's network; "" when it has none.
    """

    id: str
    name: str
    status: Status
    digest: str
    ports: frozenset[int]
    address: str

    @property
    def service(self) -> str:
        """The name of its service."""
        return self.status.name


class Containers:
    """The containers of one host, and what else Docker keeps for it.

    Every method raises Unavailable when Docker does not answer, and RunFailed when it refuses.
    """

    def __init__(self, layout: ContainerLayout, engine: Engine) -> None:
        self.layout, self.engine = layout, engine

    def looks(self) -> dict[str, Container]:
        """Return all containers of this host, by service."""
        found = self.engine.inspect("container", self._listed("container", "--all", "--quiet"))
        return {each.service: each for each in map(self._read, found)}

    def refuse_strangers(self, names: Iterable[str], volumes: Iterable[str]) -> None:
        """Refuse to touch what has one of our names and is another's.

        Args:
            names: Of services.
            volumes: Their volumes.

        Raises:
            ConfigError: A container, a volume or the network is not of this host.
        """
        wanted = {
            "container": [self.layout.container(name) for name in names],
            "volume": [*volumes],
            "network": [self.layout.network],
        }
        for kind, ours in wanted.items():
            for each in self.engine.inspect(kind, ours):
                labels = (each["Config"] if kind == "container" else each).get("Labels") or {}
                if labels.get(ROOT_LABEL) != str(self.layout.root):
                    name = str(each["Name"]).removeprefix("/")
                    raise ConfigError(
                        f"{kind} {name} belongs to {labels.get(ROOT_LABEL) or 'somebody else'}",
                        cure="give this host another icosfl_slot or icosfl_unit_prefix",
                    )

    def statuses(self) -> dict[str, Status]:
        """Return the status of every service that has a container, by name."""
        return {name: container.status for name, container in self.looks().items()}

    def status(self, name: str) -> Status:
        """Return the status of one service."""
        found = self.engine.inspect("container", [self.layout.container(name)])
        return self._read(found[0]).status if found else Status(name, NOT_DEFINED)

    def check_of(self, service: Service) -> HealthCheck:
        """Return how to ask a service that runs whether it works.

        Docker itself takes connections on a published port, whether or not anybody listens behind it. So whoever wants
        nothing but a connection, or has no such port, is asked at the container's own address.
        """
        published = service.health.port in {service.ports[name] for name in service.publish}
        if service.sees_host or (published and service.health.kind != "tcp"):
            return service.health
        found = self.engine.inspect("container", [self.layout.container(service.name)])
        address = self._read(found[0]).address if found else ""
        return replace(service.health, host=address) if address else service.health

    def restart(self, services: Collection[Service]) -> None:
        """Start services by their definitions on disk, stopping those that run; does not wait until they work.

        A container that is as its definition says is kept, and with it what its service wrote to its log.
        """
        if not services:
            return
        seconds = CALL_SECONDS + max(service.stop_seconds for service in services)
        containers = self.looks()
        same = [each for each in services if self._is_as_defined(each, containers.get(each.name))]
        kept: set[str] = set()
        if same:
            with suppress(RunFailed):  # its network, or what it mounts, is gone: it is made anew
                self.engine.call("restart", *(containers[each.name].id for each in same), seconds=seconds)
                kept = {each.name for each in same}
        self._make([each for each in services if each.name not in kept], seconds)

    def update(self, name: str, words: Collection[str]) -> None:
        """Change the limits of a container that runs."""
        if not words:
            return  # this machine takes none of those that changed
        self.engine.call("update", *words, self.layout.container(name))

    def stop(self, services: Collection[str], seconds: float) -> None:
        """Stop services, so that they do not start with the machine either; returns when their processes are gone.

        Args:
            services: Their names.
            seconds: How long they may take; Docker kills each one after its own `stop_seconds`.
        """
        containers = self.looks()
        if ours := [containers[name].id for name in services if name in containers]:
            self.engine.call("stop", *ours, seconds=CALL_SECONDS + seconds)

    def remove(self, services: Collection[str]) -> None:
        """Remove containers, with what their images keep for themselves."""
        containers = self.looks()
        self._remove([containers[name].id for name in services if name in containers])

    def volumes(self, *, unused: bool = False) -> list[str]:
        """Return the names of this host's volumes; of those that no container has, where only they are wanted."""
        return self._listed("volume", "--quiet", *(("--filter", "dangling=true") if unused else ()))

    def networks(self) -> list[str]:
        """Return the names of this host's networks."""
        return self._listed("network", "--format", "{{.Name}}")

    def forget(self, volumes: Collection[str], networks: Collection[str]) -> None:
        """Remove volumes, whose directories stay, and networks."""
        if volumes:
            self.engine.call("volume", "rm", *volumes)
        if networks:
            self.engine.call("network", "rm", *networks)

    def last_exit(self, name: str) -> str:
        """Return how a service ended last ("exit status 3"); "" when that is not known."""
        told = self.engine.call(
            *("events", "--since", "1h", "--until", "0s", "--filter", "event=die"),
            *("--filter", f"container={self.layout.container(name)}"),
            *("--format", "{{.Actor.Attributes.exitCode}}"),
        ).split()
        return _exit(int(told[-1]), killed=False) if told and told[-1].isdigit() else self.status(name).reason

    def last_lines(self, name: str, count: int) -> list[str]:
        """Return the last lines that a service wrote."""
        with suppress(RunFailed):  # it has no container
            said = self.engine.said("logs", "--tail", str(count), self.layout.container(name))
            return [line.rstrip() for line in said.splitlines() if line.strip()][-count:]
        return []

    def log_of(self, name: str) -> str:
        """Return where to read what a service writes."""
        return f"docker logs {self.layout.container(name)}"

    def _is_as_defined(self, service: Service, container: Container | None) -> bool:
        path = self.layout.record(service.name)
        if container is None or container.name != self.layout.container(service.name) or not path.exists():
            return False
        record = self.layout.read(path)
        return container.digest == record.digest and record.limits == record.service.limits

    def _make(self, services: Collection[Service], seconds: float) -> None:
        """Make containers anew, by what Compose reads, and start them."""
        if not services:
            return
        # Compose would keep what the image of the old one keeps for itself, and not know one of an earlier prefix.
        self.stop([each.name for each in services], seconds)
        self.remove([each.name for each in services])
        names = {each.name: alias(each.name) for each in services}
        try:
            self.engine.compose(
                *("--project-name", self.layout.prefix, "--file", str(self.layout.file), "--progress", "quiet"),
                *("up", "--detach", "--no-deps", *names.values()),
                seconds=seconds,
            )
        except RunFailed as error:
            self._remove(each.id for name, each in self.looks().items() if name in names and each.status.down)
            raise RunFailed(
                f"service {', '.join(names)}: Docker cannot start it: {error.message}",
                cure="correct what Docker says, then run the playbook again",
            ) from error
        for each in services:
            record = self.layout.read(self.layout.record(each.name))
            write(self.layout.record(each.name), replace(record, limits=record.service.limits).text())

    def _remove(self, ids: Iterable[str]) -> None:
        if doomed := list(ids):
            self.engine.call("rm", "--force", "--volumes", *doomed)

    def _listed(self, kind: str, *words: str) -> list[str]:
        return self.engine.call(kind, "ls", *words, "--filter", self.layout.filter).split()

    def _read(self, found: Mapping[str, Any]) -> Container:
        labels, settings = found["Config"].get("Labels") or {}, found["NetworkSettings"]
        published = [port for ports in (settings.get("Ports") or {}).values() for port in ports or ()]
        own = (settings.get("Networks") or {}).get(self.layout.network) or {}
        return Container(
            id=found["Id"],
            name=found["Name"].removeprefix("/"),
            status=status_of(labels.get(SERVICE_LABEL, ""), found["State"], datetime.now(UTC)),
            digest=labels.get(DIGEST_LABEL, ""),
            ports=frozenset(int(port["HostPort"]) for port in published),
            address=own.get("IPAddress", ""),
        )


def status_of(name: str, state: Mapping[str, Any], now: datetime) -> Status:
    """Read the state of a container.

    Args:
        name: The service.
        state: What Docker says of it.
        now: The time.
    """
    known = state["Status"]
    if known == "running":
        started = datetime.fromisoformat(_LAST_SECOND.sub("", state["StartedAt"]).replace("Z", "+00:00"))
        uptime = (now - started).total_seconds()
        settled = "RUNNING" if uptime >= _SETTLED_SECONDS else "STARTING"
        return Status(name, settled, int(state["Pid"]), max(0, int(uptime)))
    if known == "restarting":
        return Status(name, "BACKOFF", reason=_exit(int(state["ExitCode"]), killed=bool(state.get("OOMKilled"))))
    if known in {"created", "exited"}:
        error = str(state.get("Error") or "")
        return Status(name, "FATAL" if error or known == "created" else "STOPPED", reason=error)
    return Status(name, "UNKNOWN", reason=f"it is {known}")


def _exit(code: int, *, killed: bool) -> str:
    if killed:
        return "it took more memory than memory_max_mb allows"
    if code <= _SIGNALLED:
        return f"exit status {code}"
    why = ", perhaps for more memory than memory_max_mb" if code - _SIGNALLED == _KILLED else ""
    return f"signal {code - _SIGNALLED}{why}"
