from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret

from icosfl.errors import InventoryError
from icosfl.fleet.inventory import Fleet, environment_of, find_inventory, find_project, load_fleet
from icosfl.fleet.vault import PASSWORD_FILE, use_password_file
from support.fleet import make_host

PROJECT = Path(__file__).parents[3]
HOSTS = """
lab:
  children:
    workers:
      hosts:
        worker-1: {{ icosfl_slot: 1 {more} }}
    controller:
      hosts:
        control: {{ icosfl_slot: 0 }}
"""


def write_inventory(folder: Path, hosts: str, variables: str = "") -> Path:
    inventory = folder / "lab"
    (inventory / "group_vars").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(hosts, encoding="utf-8")
    (inventory / "group_vars" / "lab.yml").write_text(
        "ansible_connection: local\nicosfl_address: 127.0.0.1\nicosfl_home: /srv/{{ inventory_hostname }}\n"
        + variables,
        encoding="utf-8",
    )
    return inventory


def load(folder: Path, more: str = "", variables: str = "") -> Fleet:
    return load_fleet(write_inventory(folder, HOSTS.format(more=more), variables), PROJECT)


def test_the_local_inventory_has_three_hosts_that_share_this_machine() -> None:
    fleet = load_fleet(find_inventory("local", PROJECT), PROJECT)

    assert [host.name for host in fleet.hosts] == ["control", "worker-1", "worker-2"]
    assert [host.slot for host in fleet.hosts] == [0, 1, 2]
    assert all(host.is_local for host in fleet.hosts)
    assert [host.is_controller for host in fleet.hosts] == [True, False, False]
    ports = [port for host in fleet.hosts for port in host.ports.values()]
    assert len(set(ports)) == len(ports)


def test_the_example_fleet_is_reached_over_ssh() -> None:
    fleet = load_fleet(find_inventory("prod", PROJECT), PROJECT)

    assert fleet.environment == "prod"
    assert {host.connection for host in fleet.hosts} == {"ssh"}


def test_values_are_templated_for_each_host_and_plain(tmp_path: Path) -> None:
    fleet = load(
        tmp_path, variables="icosfl_training: { window: 20s, min-windows: 4 }\nicosfl_sampling_period_seconds: 0.5\n"
    )

    control, worker = fleet.hosts
    assert (control.name, worker.name) == ("control", "worker-1")
    assert worker.paths["config"] == Path("/srv/worker-1/etc")
    assert worker.ports["forecast"] == control.ports["forecast"] + 100
    assert worker.endpoint("forecast") == f"127.0.0.1:{worker.ports['forecast']}"
    assert worker.training == {"window": "20s", "min-windows": 4}
    assert {type(value) for value in worker.training.values()} == {str, int}
    assert worker.node.period_seconds == 0.5
    assert worker.node.store.metadata.port == worker.ports["dataclay_metadata"]


def test_a_port_override_is_in_the_ports(tmp_path: Path) -> None:
    fleet = load(tmp_path, more=", icosfl_port_overrides: { forecast: 18082 }")

    assert fleet.hosts[1].ports["forecast"] == 18082


def test_a_host_with_more_supernodes_has_ports_for_each(tmp_path: Path) -> None:
    fleet = load(tmp_path, more=", icosfl_supernodes: 2")

    control, worker = fleet.hosts
    assert (control.supernodes, worker.supernodes) == (1, 2)
    assert worker.ports["supernode_health_2"] == worker.ports["supernode_health"] + 1000
    assert "supernode_health_2" not in control.ports


def test_a_value_of_the_wrong_kind_names_host_and_key(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"worker-1: icosfl_node\.period_seconds is 'often'") as caught:
        load(tmp_path, variables="icosfl_sampling_period_seconds: often\n")

    assert caught.value.cure


def test_a_template_that_cannot_be_filled_names_host_and_key(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"worker-1: icosfl_paths: .*no_such_thing"):
        load(tmp_path, variables="icosfl_paths: { root: '{{ no_such_thing }}' }\n")


def test_a_wrong_port_override_says_what_the_topology_says(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match=r"worker-1: icosfl_host_ports: .*'forcast'.*no service"):
        load(tmp_path, more=", icosfl_port_overrides: { forcast: 18082 }")


def test_an_inventory_that_is_no_yaml_is_refused_with_its_file(tmp_path: Path) -> None:
    inventory = write_inventory(tmp_path, "lab:\n  hosts: [unclosed\n")

    with pytest.raises(InventoryError, match=r"hosts\.yml|lab"):
        load_fleet(inventory, PROJECT)


def test_an_inventory_without_hosts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="names no hosts"):
        load_fleet(write_inventory(tmp_path, "lab:\n  children: {}\n"), PROJECT)


def test_an_unknown_inventory_names_those_that_there_are() -> None:
    with pytest.raises(InventoryError, match="no inventory nowhere") as caught:
        find_inventory("nowhere", PROJECT)

    assert "local, prod" in caught.value.cure


def test_the_project_is_found_from_below_it() -> None:
    assert find_project(PROJECT / "roles" / "redis") == PROJECT


def test_the_project_is_found_from_elsewhere_by_the_package(tmp_path: Path) -> None:
    assert find_project(tmp_path) == PROJECT


def test_an_environment_is_named_by_its_directory(tmp_path: Path) -> None:
    inventory = write_inventory(tmp_path, HOSTS.format(more=""))

    assert environment_of(inventory) == "lab"
    assert environment_of(inventory / "hosts.yml") == "lab"
    assert environment_of(PROJECT / "prod") == "prod"


@pytest.mark.parametrize(
    ("listen", "told"),
    [("", ""), ("192.0.2.9", "192.0.2.9:4316"), ("0.0.0.0", "192.0.2.8:4316"), ("2001:db8::9", "[2001:db8::9]:4316")],
)
def test_collectors_on_other_hosts_are_told_an_address_that_they_can_reach(
    tmp_path: Path, listen: str, told: str
) -> None:
    host = make_host("edge", tmp_path, otlp_listen=listen, address="192.0.2.8", ports={"otlp_remote": 4316})

    assert host.otlp_remote == told


@pytest.fixture
def encrypted(tmp_path: Path) -> str:
    """A line of group_vars whose value is in a vault; its password stands in the file `password`."""
    (tmp_path / "password").write_text("open sesame\n", encoding="utf-8")
    secrets = [("default", VaultSecret(b"open sesame"))]
    text = VaultLib(secrets).encrypt("198.51.100.7", secrets[0][1]).decode("ascii")
    return "icosfl_listen: !vault |\n" + "".join(f"  {line}\n" for line in text.splitlines())


def test_a_variable_in_a_vault_is_read_with_the_password_of_the_environment(
    tmp_path: Path, encrypted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "password"))

    assert load(tmp_path, variables=encrypted).hosts[0].listen == "198.51.100.7"


def test_a_whole_file_in_a_vault_is_read(tmp_path: Path, encrypted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_FILE, str(tmp_path / "password"))
    secrets = [("default", VaultSecret(b"open sesame"))]
    inventory = write_inventory(tmp_path, HOSTS.format(more=""))
    (inventory / "host_vars").mkdir()
    (inventory / "host_vars" / "control.yml").write_bytes(
        VaultLib(secrets).encrypt("icosfl_listen: 198.51.100.8\n", secrets[0][1])
    )

    assert load_fleet(inventory, PROJECT).hosts[0].listen == "198.51.100.8"


def test_a_vault_without_a_password_says_how_to_give_it(
    tmp_path: Path, encrypted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD_FILE, raising=False)

    with pytest.raises(InventoryError) as raised:
        load(tmp_path, variables=encrypted)

    assert "--vault-password-file" in raised.value.cure


def test_a_password_file_counts_from_where_the_user_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSWORD_FILE, "elsewhere")

    use_password_file(None)
    assert os.environ[PASSWORD_FILE] == str(tmp_path / "elsewhere")

    use_password_file(Path("password"))
    assert os.environ[PASSWORD_FILE] == str(tmp_path / "password")
