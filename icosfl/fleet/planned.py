"""Which services a host is meant to have: those of the roles that site.yml gives to its groups.

Read from the playbook and the roles themselves, where this stands once, so that a service that was never deployed is
missed. A role that only some hosts get (`when`) is not planned for any: whether it is missed is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from icosfl.errors import ConfigError

Plan = Mapping[str, tuple[str, ...]]
"""The names of services by the group whose hosts get them, in the order in which site.yml deploys them."""


def read_plan(project: Path) -> Plan:
    """Read what `playbooks/site.yml` gives to each group.

    Raises:
        ConfigError: the playbook, or what a role says of its services, cannot be read.
    """
    plan: dict[str, tuple[str, ...]] = {}
    for play in _yaml(project / "playbooks" / "site.yml") or []:
        roles = (_name(role) for role in play.get("roles", []) if not _conditional(role))
        names = tuple(name for role in roles for name in _services(project, role))
        plan[str(play["hosts"])] = plan.get(str(play["hosts"]), ()) + names
    return plan


def planned_services(plan: Plan, groups: Collection[str]) -> tuple[str, ...]:
    """The names of the services that a host of these groups is meant to have."""
    return tuple(name for group, names in plan.items() if group in groups for name in names)


def _services(project: Path, role: str) -> Iterator[str]:
    path = project / "roles" / role / "vars" / "main.yml"
    described = (_yaml(path) or {}).get(f"__{role}_services", []) if path.exists() else []
    return (str(service["name"]) for service in described)


def _conditional(role: Any) -> bool:
    return isinstance(role, Mapping) and "when" in role


def _name(role: Any) -> str:
    return str(role["role"] if isinstance(role, Mapping) else role)


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}", cure="run icosfl in a complete checkout") from error
