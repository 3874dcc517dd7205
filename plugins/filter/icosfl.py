"""Ansible's door to icosfl: each filter hands its arguments to one function and its errors to the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli_w
import yaml
from ansible.errors import AnsibleFilterError

from icosfl.errors import InventoryError
from icosfl.fleet import problems, topology


def host_ports(bases: Mapping[str, int], stride: int, slot: int, overrides: Mapping[str, int]) -> dict[str, int]:
    """Return the ports of the host in `slot`."""
    try:
        return topology.host_ports(bases, stride, slot, overrides)
    except InventoryError as error:
        raise AnsibleFilterError(str(error)) from error


def flower_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every Flower process, and `more`."""
    from icosfl.fleet import flower  # only the plays that need it load it

    return {**flower.ENVIRONMENT, **more}


def to_toml(value: Mapping[str, Any]) -> str:
    """Return a configuration as TOML; keys without a value are left out."""
    if not isinstance(value, Mapping):
        raise AnsibleFilterError(f"to_toml takes a mapping, not {value!r}")
    return tomli_w.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        raise AnsibleFilterError("TOML cannot say that an item of a list has no value. Cure: take the item out")
    return str(value)


def inventory_problems(
    hostvars: Mapping[str, Any], hosts: list[str], project: str, runtimes: list[str], connections: list[str]
) -> list[str]:
    """Return what is wrong with the inventory, a sentence each; empty when it is sound."""
    known, prefixes = known_variables(Path(project))
    specs, found = [], []
    for name in hosts:
        values = hostvars[name]
        found += problems.unknown_variables(name, list(values), known, prefixes)
        specs.append(
            problems.HostSpec(
                name=str(name),
                groups=frozenset(str(group) for group in values["group_names"]),
                address=str(values["icosfl_address"]),
                slot=values["icosfl_slot"],
                overrides=values["icosfl_port_overrides"],
                runtime=str(values["icosfl_runtime"]),
                connection=str(values.get("ansible_connection", "ssh")),
            )
        )
    first = hostvars[hosts[0]]
    bases, stride = first["icosfl_ports"], first["icosfl_port_stride"]
    found += problems.find_problems(specs, bases, stride, runtimes, connections)
    return [str(problem) for problem in found]


def known_variables(project: Path) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the variables that the project declares, and the prefixes by which its variables are told."""
    names: set[str] = set()
    for path in sorted(project.glob("group_vars/all/*.yml")):
        names |= set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    prefixes = {"icosfl_"}
    for path in sorted(project.glob("roles/*/meta/argument_specs.yml")):
        prefixes.add(f"{path.parent.parent.name}_")
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            names |= set(entry.get("options", {}))
    return frozenset(names), tuple(sorted(prefixes))


class FilterModule:
    """The filters that playbooks and group_vars use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "icosfl_flower_environment": flower_environment,
            "icosfl_host_ports": host_ports,
            "icosfl_inventory_problems": inventory_problems,
            "to_toml": to_toml,
        }
