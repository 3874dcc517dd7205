"""Ansible's door to icosfl: each filter hands its arguments to one function and its errors to the user."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
import yaml
from ansible.errors import AnsibleError, AnsibleFilterError

from icosfl.errors import InventoryError
from icosfl.fleet import problems, topology

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, ten times as fast, where there is one

# What every host must have a value for, and what those must not share that share a machine.
NEEDED = (
    "icosfl_address",
    "icosfl_slot",
    "icosfl_supernodes",
    "icosfl_port_overrides",
    "icosfl_runtime",
    "icosfl_ports",
    "icosfl_port_stride",
    "icosfl_supernode_port_stride",
)
OF_MACHINES = ("icosfl_home", "icosfl_unit_prefix")


def host_ports(  # noqa: PLR0913, PLR0917 (as of the function)
    bases: Mapping[str, int],
    stride: int,
    slot: int,
    overrides: Mapping[str, int],
    supernodes: int = 1,
    supernode_stride: int = 0,
) -> dict[str, int]:
    """Return the ports of the host in `slot`."""
    try:
        return topology.host_ports(bases, stride, slot, overrides, supernodes, supernode_stride)
    except InventoryError as error:
        raise AnsibleFilterError(str(error)) from error


def join(host: str, port: int) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return topology.address_of(str(host), port)


def flower_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every Flower process, and `more`."""
    from icosfl.fleet import flower  # only the plays that need it load it

    return {**flower.ENVIRONMENT, **more}


def otelcol_config(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of an OpenTelemetry Collector; the mapping has the fields of `otelcol.Otelcol`."""
    from icosfl.fleet import otelcol  # only the plays that need it load it

    try:
        return otelcol.document(otelcol.Otelcol(**plan))
    except TypeError as error:
        raise AnsibleFilterError(f"otelcol_config: {error}") from error


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
    """Return what is wrong with the inventory, a sentence each; empty when it is sound.

    Each variable that is read of a host is a template to fill, so only those are read that are needed: some only of
    hosts that share a machine.
    """
    known, prefixes = known_variables(Path(project))
    specs, found = [], []
    for name in hosts:
        values = hostvars[name]
        found += problems.unknown_variables(name, list(values), known, prefixes)
        try:
            unset = problems.unset_variables(str(name), [each for each in NEEDED if each not in values])
            specs += [] if unset else [_spec(name, values)]
            found += _bad_programs(str(name), values)
            found += problems.unfit_otlp_listen(str(name), str(values.get("icosfl_otlp_listen", "")))
            if str(values.get("icosfl_runtime")) == "docker":
                found += problems.unfit_source(str(name), "docker", str(values["icosfl_python_source"]))
        except AnsibleError as error:
            cure = "correct the host's variables"
            unset = [topology.Problem(str(name), "variables", _innermost(error), cure)]
        found += unset
    machines = Counter(spec.address for spec in specs)
    shared = [_with_machine(spec, hostvars[spec.name]) if machines[spec.address] > 1 else spec for spec in specs]
    if len(specs) == len(hosts):
        found += _find(shared, hostvars, runtimes, connections)
    return [str(problem) for problem in found]


def _spec(name: str, values: Mapping[str, Any]) -> problems.HostSpec:
    return problems.HostSpec(
        name=str(name),
        groups=frozenset(str(group) for group in values["group_names"]),
        address="" if values["icosfl_address"] is None else str(values["icosfl_address"]),
        slot=values["icosfl_slot"],
        overrides=values["icosfl_port_overrides"],
        runtime=str(values["icosfl_runtime"]),
        connection=str(values.get("ansible_connection", "ssh")).removeprefix("ansible.builtin."),
        supernodes=values["icosfl_supernodes"],
    )


def _bad_programs(host: str, values: Mapping[str, Any]) -> list[topology.Problem]:
    """What is wrong with the third-party programs that a host chose."""
    chosen = {name: str(values[name]) for name in problems.CHOICES if name in values}
    found = problems.unknown_choices(host, chosen)
    if found or "parts_wanted" not in values or not set(chosen.values()) - {"embedded"}:
        return found
    return problems.unfit_parts(host, values["parts_pins"], values["parts_wanted"], platform.machine())


def _with_machine(spec: problems.HostSpec, values: Mapping[str, Any]) -> problems.HostSpec:
    home, prefix = (str(values.get(name, "")) for name in OF_MACHINES)
    return replace(spec, home=home, unit_prefix=prefix)


def _find(
    specs: list[problems.HostSpec], hostvars: Mapping[str, Any], runtimes: list[str], connections: list[str]
) -> list[topology.Problem]:
    if not specs:
        return problems.find_problems([], {}, 1, runtimes, connections)
    first = hostvars[specs[0].name]
    bases, stride, supernode_stride = (first[name] for name in NEEDED[-3:])
    return problems.find_problems(specs, bases, stride, runtimes, connections, supernode_stride)


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def known_variables(project: Path) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the variables that the project declares, and the prefixes by which its variables are told."""
    names: set[str] = set()
    for path in sorted(project.glob("group_vars/all/*.yml")):
        names |= set(_read(path))
    prefixes = {"icosfl_"}
    for path in sorted(project.glob("roles/*/meta/argument_specs.yml")):
        prefixes.add(f"{path.parent.parent.name}_")
        for entry in _read(path)["argument_specs"].values():
            names |= set(entry.get("options", {}))
    return frozenset(names), tuple(sorted(prefixes))


def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER) or {}  # noqa: S506 (a safe loader)


class FilterModule:
    """The filters that playbooks and group_vars use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "icosfl_at": topology.listen_address,
            "icosfl_flower_environment": flower_environment,
            "icosfl_host_ports": host_ports,
            "icosfl_inventory_problems": inventory_problems,
            "icosfl_join": join,
            "icosfl_supernode_ports": topology.supernode_ports,
            "otelcol_config": otelcol_config,
            "to_toml": to_toml,
        }
