"""What questions to a host need to know of it; asked on the host itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from icosfl.config import NodeConfig
from icosfl.errors import ConfigError
from icosfl.fleet.inventory import Host, Scalar
from icosfl.fleet.topology import address_of


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Place:
    """A logical host, seen from its own machine.

    Args:
        name: The host.
        groups: Its groups in the inventory.
        runtime: What runs its services.
        unit_prefix: What the names of its units or containers begin with.
        root: Its directory.
        listen: Where its services listen.
        forecast_port: The port of its forecast service.
        training: The fleet's overrides of the run configuration.
        node: What its services are told of their node.
    """

    name: str
    groups: tuple[str, ...]
    runtime: str
    unit_prefix: str
    root: Path
    listen: str
    forecast_port: int
    training: dict[str, Scalar]
    node: NodeConfig

    @property
    def forecast(self) -> str:
        """Where its forecast service answers, host:port."""
        return address_of(self.listen, self.forecast_port)


def place_of(host: Host) -> Place:
    """The place of a host of this machine whose services its own supervisord runs."""
    return Place(
        name=host.name,
        groups=host.groups,
        runtime=host.runtime,
        unit_prefix="",
        root=host.paths["root"],
        listen=host.listen,
        forecast_port=host.ports["forecast"],
        training=host.training,
        node=host.node,
    )


def read_place(fields: Mapping[str, Any], cure: str) -> Place:
    """The place that a module's arguments describe.

    Args:
        fields: By their names.
        cure: What to do when they are not what this release expects.

    Raises:
        ConfigError: a field is missing, unknown or wrong.
    """
    try:
        return TypeAdapter(Place).validate_python(dict(fields))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"place.{key}: {first['msg']}", cure=cure) from error
