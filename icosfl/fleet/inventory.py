"""From an inventory, read the way Ansible reads it, to the fleet's hosts as frozen values.

Ansible's own Python interface resolves groups, precedence and templates, so that a variable means here what it means
in a playbook. Only this module knows that interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from icosfl.config import NodeConfig
from icosfl.errors import InventoryError
from icosfl.fleet import vault
from icosfl.fleet.topology import CONTROLLER, address_of

if TYPE_CHECKING:
    from ansible.inventory.host import Host as AnsibleHost
    from ansible.vars.manager import VariableManager

Scalar = bool | int | float | str

# What the fleet's tools read of a host: the variable and the field of `Host` that takes it.
VARIABLES = {
    "ansible_connection": "connection",
    "icosfl_address": "address",
    "icosfl_listen": "listen",
    "icosfl_otlp_listen": "otlp_listen",
    "icosfl_slot": "slot",
    "icosfl_supernodes": "supernodes",
    "icosfl_runtime": "runtime",
    "icosfl_host_ports": "ports",
    "icosfl_paths": "paths",
    "icosfl_training": "training",
    "icosfl_node": "node",
    "icosfl_required_disk_mb": "required_disk_mb",
    "icosfl_required_memory_mb": "required_memory_mb",
    "icosfl_redis_binary": "redis_binary",
    "icosfl_python_source": "python_source",
    "icosfl_bundles_dir": "bundles_dir",
    "icosfl_release_extras": "release_extras",
    "icosfl_images_dir": "images_dir",
    "icosfl_pki_dir": "pki_dir",
    "icosfl_certificate_days": "certificate_days",
}
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (addresses at which a service listens on all that its host has)
_DEFAULTS: dict[str, object] = {"ansible_connection": "ssh"}  # Ansible's own default, which is no variable
_FIELDS = {field: variable for variable, field in VARIABLES.items()}


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Host:
    """One logical host of the fleet, as the inventory and group_vars describe it.

    `ports` are by service (`group_vars/all/ports.yml`), `paths` by purpose (`group_vars/all/paths.yml`); `training`
    holds this fleet's overrides of the run configuration, `node` what its services are told of their node.
    """

    name: str
    groups: tuple[str, ...]
    connection: str
    address: str
    listen: str
    otlp_listen: str
    slot: int
    supernodes: int
    runtime: str
    ports: dict[str, int]
    paths: dict[str, Path]
    training: dict[str, Scalar]
    node: NodeConfig
    required_disk_mb: int
    required_memory_mb: int
    redis_binary: Path
    python_source: str
    bundles_dir: Path
    release_extras: tuple[str, ...]
    images_dir: Path
    pki_dir: Path
    certificate_days: float

    @property
    def is_local(self) -> bool:
        """Whether the host's services run on this machine, under this user."""
        return self.connection == "local"

    @property
    def is_controller(self) -> bool:
        """Whether the host is the fleet's controller."""
        return CONTROLLER in self.groups

    def endpoint(self, service: str) -> str:
        """Where a service of this host listens, host:port, seen from the host itself."""
        return address_of(self.listen, self.ports[service])

    @property
    def otlp_remote(self) -> str:
        """Where collectors on other hosts send, host:port; "" where they may not."""
        if not self.otlp_listen:
            return ""
        at = self.address if self.otlp_listen in EVERYWHERE else self.otlp_listen
        return address_of(at, self.ports["otlp_remote"])


@dataclass(frozen=True, slots=True)
class Fleet:
    """The hosts of one inventory.

    Args:
        project: The directory that holds site.yml.
        inventory: The inventory's path.
        hosts: All hosts, the controller first, then in the inventory's order.
    """

    project: Path
    inventory: Path
    hosts: tuple[Host, ...]

    @property
    def environment(self) -> str:
        """The name of the inventory, for example `local`."""
        return environment_of(self.inventory)


def environment_of(inventory: Path) -> str:
    """The name of an inventory: its directory's or, for a single file, that of the directory it lies in."""
    path = inventory.resolve()
    return path.name if path.is_dir() else path.parent.name


def find_project(start: Path) -> Path:
    """Return the directory that holds site.yml: `start`, one above it, or the checkout this package runs from.

    Raises:
        InventoryError: there is none.
    """
    for folder in (start, *start.parents, Path(__file__).parents[2]):
        if (folder / "playbooks" / "site.yml").is_file():
            return folder
    raise InventoryError(f"{start} is in no icosfl project", cure="change to the directory that holds site.yml")


def find_inventory(name: str, project: Path) -> Path:
    """Return the inventory that `name` means: a path as it stands, or an environment of the project.

    Raises:
        InventoryError: there is no such inventory.
    """
    given = Path(name).expanduser()
    for path in (given, project / given, project / "inventories" / given):
        if path.exists():
            return path.absolute()
    known = ", ".join(sorted(path.name for path in (project / "inventories").glob("*/")))
    raise InventoryError(
        f"there is no inventory {name}", cure=f"name a file, a directory or one of {known or 'inventories/*'}"
    )


def load_fleet(inventory: Path, project: Path) -> Fleet:
    """Read the inventory with the project's group_vars and template what `Host` needs of each host.

    Raises:
        InventoryError: the inventory cannot be read, has no hosts, or a host lacks a variable or gives it a value
            of the wrong kind: names host and key.
    """
    from ansible.errors import AnsibleError

    try:
        hosts = tuple(_hosts(inventory, project))
    except AnsibleError as error:
        cure = vault.CURE if "decrypt" in error.message else "correct the inventory or group_vars"
        raise InventoryError(f"{inventory}: {error.message}", cure=cure) from error
    return Fleet(project, inventory, tuple(sorted(hosts, key=lambda host: not host.is_controller)))


def _hosts(inventory: Path, project: Path) -> Iterator[Host]:
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import filter_loader, init_plugin_loader
    from ansible.utils.collection_loader import AnsibleCollectionConfig
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    if AnsibleCollectionConfig.collection_finder is None:
        init_plugin_loader()
    filter_loader.add_directory(str(project / "plugins" / "filter"))
    loader = DataLoader()
    loader.set_basedir(str(project / "playbooks"))
    vault.open_vaults(loader, project)
    for path in [inventory] if inventory.is_file() else sorted(inventory.glob("hosts.y*ml")):
        if path.suffix in {".yml", ".yaml"}:
            loader.load_from_file(str(path))  # Ansible itself only warns of a file that it cannot parse
    manager = InventoryManager(loader=loader, sources=[str(inventory)])
    variables = VariableManager(loader=loader, inventory=manager)
    HostVars(manager, variables, loader)  # registers itself: templates may then ask for another host's variables
    if not manager.get_hosts():
        raise InventoryError(
            f"{inventory} names no hosts", cure=f"put hosts into the groups {CONTROLLER} and workers of hosts.yml"
        )
    for host in manager.get_hosts():
        yield _host(host, variables)


def _host(host: AnsibleHost, variables: VariableManager) -> Host:
    from ansible.errors import AnsibleError
    from ansible.template import Templar

    values = variables.get_vars(host=host)
    templar = Templar(loader=None, variables=values)
    fields: dict[str, Any] = {"name": str(host.name), "groups": tuple(str(group.name) for group in host.get_groups())}
    for variable, field in VARIABLES.items():
        if variable not in values and variable not in _DEFAULTS:
            raise InventoryError(
                f"{host.name}: {variable} is not set", cure="keep playbooks/group_vars, a link to ../group_vars"
            )
        try:
            fields[field] = _plain(templar.template(values.get(variable, _DEFAULTS.get(variable))))
        except AnsibleError as error:
            cure = vault.CURE if "decrypt" in str(error) else f"correct {variable} or what it is made from"
            raise InventoryError(f"{host.name}: {variable}: {_reason(error)}", cure=cure) from error
    return _checked(fields)


def _checked(fields: dict[str, Any]) -> Host:
    try:
        return TypeAdapter(Host).validate_python(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        keys = [str(part) for part in problem["loc"]]
        key = ".".join([_FIELDS.get(keys[0], keys[0]), *keys[1:]])
        raise InventoryError(
            f"{fields['name']}: {key} is {problem['input']!r}: {problem['msg']}", cure=f"correct {key} of this host"
        ) from error


def _reason(error: Exception) -> str:
    """The innermost word of an error: Ansible wraps what our filters say in where it was said."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause)


def _plain(value: object) -> object:
    """Take off the tags with which Ansible marks where a value comes from."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    return float(value) if isinstance(value, float) else str(value)
