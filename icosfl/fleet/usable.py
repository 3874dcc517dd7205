"""Whether this machine has what a service needs to be started at all."""

from __future__ import annotations

import os
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet.files import Plan
from icosfl.fleet.service import Service


def refuse_unusable(service: Service, files: Plan) -> None:
    """Refuse a service whose program or directory this machine has not, and will not have.

    Raises:
        ConfigError: Names the service and the key.
    """
    program = Path(service.command[0])
    if program.is_absolute() and not (program.is_file() and os.access(program, os.X_OK)):
        raise ConfigError(
            f"service {service.name}: command: {program} is not an executable file", cure="install it before"
        )
    if service.directory and not Path(service.directory).is_dir() and not files.makes(service.directory):
        raise ConfigError(
            f"service {service.name}: directory: {service.directory} does not exist", cure="make it before"
        )
