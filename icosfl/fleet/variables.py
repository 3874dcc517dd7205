"""The environment that a runtime of the machine's own gives a service: what its description names, and little more.

Whoever may look at units or containers can read it, so it must hold no secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from icosfl.errors import ConfigError
from icosfl.fleet.service import Service

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SECRET = re.compile("PASS|SECRET|TOKEN|CREDENTIAL|KEY", re.IGNORECASE)


def variables(service: Service, directory: str, where: str) -> dict[str, str]:
    """Return the variables of a service, sorted by name.

    Args:
        service: The service.
        directory: Where it runs.
        where: Where everybody can read them, for messages: "a unit".

    Raises:
        ConfigError: A value seems to be a secret, or has a control character.
    """
    found: Mapping[str, str] = {
        "HOME": service.writes[0] if service.writes else directory,
        "LANG": "C.UTF-8",
        **service.environment,
    }
    for name, value in found.items():
        if _SECRET.search(name) and not value.startswith("/"):
            raise _refuse(service, name, f"seems to be a secret, which everybody could read in {where}")
        if _CONTROL.search(value):
            raise _refuse(service, name, f"has a line end or another control character, which {where} cannot have")
    return dict(sorted(found.items()))


def _refuse(service: Service, name: str, why: str) -> ConfigError:
    return ConfigError(
        f"service {service.name}: environment.{name} {why}", cure="put it into one of the service's files"
    )
