from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from icosfl.fleet import flower, topology

ROOT = Path(__file__).parents[3]
FACTS = yaml.safe_load((ROOT / "group_vars/all/ports.yml").read_text(encoding="utf-8"))


def load_plugin() -> ModuleType:
    """The plugin's file, loaded as Ansible loads it: by its path."""
    spec = importlib.util.spec_from_file_location("icosfl_filters", ROOT / "plugins" / "filter" / "icosfl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLUGIN = load_plugin()
FILTERS = PLUGIN.FilterModule().filters()

keys = st.text(min_size=1, max_size=8)
scalars = st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=8)
tables = st.dictionaries(
    keys,
    st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)),
    max_size=4,
)


def a_host(group: str, slot: int = 0, **more: Any) -> dict[str, Any]:
    """What Ansible knows of a host of a sound fleet on this machine."""
    return {
        "group_names": ["lab", "nodes", group],
        "ansible_connection": "local",
        "icosfl_address": "127.0.0.1",
        "icosfl_slot": slot,
        "icosfl_supernodes": 1,
        "icosfl_home": f"/srv/{group}-{slot}",
        "icosfl_unit_prefix": f"icosfl-{slot}",
        "icosfl_port_overrides": {},
        "icosfl_runtime": "supervisor",
        **FACTS,
        **more,
    }


def problems_of(hostvars: Mapping[str, Any]) -> list[str]:
    found = FILTERS["icosfl_inventory_problems"](
        hostvars, list(hostvars), str(ROOT), ["supervisor", "systemd"], ["local", "ssh"]
    )
    assert isinstance(found, list)
    return found


class TestToToml:
    @given(tables)
    def test_what_is_written_is_read_back(self, table: dict[str, Any]) -> None:
        assert tomllib.loads(FILTERS["to_toml"](table)) == table

    def test_nested_tables_and_lists_of_tables_keep_their_shape(self) -> None:
        config = {"store": {"metadata": {"host": "127.0.0.1", "port": 1}}, "series": [{"name": "power", "unit": "W"}]}

        assert tomllib.loads(FILTERS["to_toml"](config)) == config

    def test_a_key_without_a_value_is_left_out_wherever_it_stands(self) -> None:
        config = {"kept": 1, "gone": None, "inner": {"kept": 2, "gone": None}, "list": [{"kept": 3, "gone": None}]}

        assert tomllib.loads(FILTERS["to_toml"](config)) == {
            "kept": 1,
            "inner": {"kept": 2},
            "list": [{"kept": 3}],
        }

    @pytest.mark.parametrize(("value", "text"), [(True, "true"), (1, "1"), (1.0, "1.0"), ("1", '"1"')])
    def test_a_value_keeps_its_kind(self, value: object, text: str) -> None:
        assert FILTERS["to_toml"]({"value": value}) == f"value = {text}\n"

    def test_a_subclass_such_as_ansibles_tagged_values_is_written_as_what_it_is(self) -> None:
        class Tagged(str):
            """A text that remembers where it comes from."""

        assert FILTERS["to_toml"]({Tagged("key"): Tagged("text"), "list": (Tagged("a"),)}) == (
            'key = "text"\nlist = [\n    "a",\n]\n'
        )

    def test_an_item_without_a_value_is_refused(self) -> None:
        with pytest.raises(AnsibleFilterError, match="item of a list"):
            FILTERS["to_toml"]({"list": [1, None]})

    def test_what_is_no_mapping_is_refused(self) -> None:
        with pytest.raises(AnsibleFilterError, match=r"takes a mapping, not \[1\]"):
            FILTERS["to_toml"]([1])


class TestHostPorts:
    def test_the_ports_are_those_of_the_plan(self) -> None:
        bases, stride = FACTS["icosfl_ports"], FACTS["icosfl_port_stride"]

        found = FILTERS["icosfl_host_ports"](bases, stride, 2, {"forecast": 18082})

        assert found == topology.host_ports(bases, stride, 2, {"forecast": 18082})
        assert found["forecast"] == 18082

    @pytest.mark.parametrize(
        ("slot", "overrides", "named"),
        [("2", {}, "icosfl_slot"), (0, {"forcast": 18082}, "forcast"), (0, [18082], "icosfl_port_overrides")],
    )
    def test_a_wrong_slot_or_override_becomes_ansibles_error(self, slot: Any, overrides: Any, named: str) -> None:
        with pytest.raises(AnsibleFilterError, match=named):
            FILTERS["icosfl_host_ports"](FACTS["icosfl_ports"], FACTS["icosfl_port_stride"], slot, overrides)


class TestInventoryProblems:
    def test_a_sound_fleet_has_none(self) -> None:
        assert problems_of({"control": a_host("controller"), "worker": a_host("workers", 1)}) == []

    def test_each_problem_is_a_sentence_with_host_key_and_cure(self) -> None:
        fleet = {"control": a_host("controller"), "worker": a_host("workers", icosfl_slto=1)}

        misspelt, clash = problems_of(fleet)

        assert misspelt.startswith("worker: icosfl_slto: ")
        assert misspelt.endswith("Cure: did you mean icosfl_slot?")
        assert clash.startswith("worker: icosfl_slot: ")
        assert "listens. Cure: " in clash

    def test_a_misspelt_argument_of_a_role_is_found_too(self) -> None:
        fleet = {"control": a_host("controller", redis_max_memroy="1gb"), "worker": a_host("workers", 1)}

        (problem,) = problems_of(fleet)

        assert problem.startswith("control: redis_max_memroy: ")
        assert "redis_max_memory" in problem

    def test_an_exporter_that_does_not_exist_is_refused_with_those_that_do(self) -> None:
        fleet = {"control": a_host("controller", icosfl_host_metrics="kepler"), "worker": a_host("workers", 1)}

        (problem,) = problems_of(fleet)

        assert problem.startswith(
            "control: icosfl_host_metrics: this release does not have 'kepler'. Cure: use embedded "
        )

    def test_a_program_that_must_be_given_and_was_not_is_named_before_anything_is_installed(self) -> None:
        worker = a_host("workers", 1, icosfl_collector="otelcol", parts_wanted=["otelcol"])
        pins = {"otelcol": {"version": "", "program": "otelcol-contrib"}}
        fleet = {"control": a_host("controller"), "worker": {**worker, "parts_pins": pins}}

        (problem,) = problems_of(fleet)

        assert problem.startswith("worker: icosfl_part_files: otelcol: version '' is none. Cure: name a version")

    def test_a_host_without_a_connection_of_its_own_is_reached_over_ssh(self) -> None:
        fleet = {"control": a_host("controller"), "worker": a_host("workers", 1)}
        del fleet["worker"]["ansible_connection"]

        (problem,) = problems_of(fleet)

        assert problem.startswith("worker: icosfl_runtime: supervisor runs services on this machine only")
        assert "ssh" in problem

    def test_overrides_that_are_no_mapping_are_a_problem_like_any_other(self) -> None:
        fleet = {"control": a_host("controller"), "worker": a_host("workers", 1, icosfl_port_overrides=["forecast"])}

        (problem,) = problems_of(fleet)

        assert problem.startswith("worker: ")
        assert "icosfl_port_overrides" in problem

    def test_an_inventory_without_hosts_is_refused(self) -> None:
        assert problems_of({}) == ["inventory: hosts: it names no hosts. Cure: put hosts into controller and workers"]

    def test_a_variable_that_is_not_set_is_named_with_its_host(self) -> None:
        fleet = {"control": a_host("controller"), "worker": a_host("workers", 1)}
        del fleet["worker"]["icosfl_slot"]

        (problem,) = problems_of(fleet)

        assert problem.startswith("worker: icosfl_slot: it is not set. Cure: ")

    def test_an_address_without_a_value_is_named(self) -> None:
        fleet = {"control": a_host("controller"), "worker": a_host("workers", 1, icosfl_address=None)}

        (problem,) = (each for each in problems_of(fleet) if each.startswith("worker: "))

        assert problem.startswith("worker: icosfl_address: ")

    def test_a_template_that_cannot_be_filled_is_a_problem_of_its_host(self) -> None:
        class Unfilled(dict[str, Any]):
            def __getitem__(self, key: str) -> Any:
                if key == "icosfl_address":
                    raise AnsibleFilterError("'no_such_thing' is undefined")
                return super().__getitem__(key)

        fleet = {"control": a_host("controller"), "worker": Unfilled(a_host("workers", 1))}

        assert problems_of(fleet) == [
            "worker: variables: 'no_such_thing' is undefined. Cure: correct the host's variables"
        ]

    def test_only_hosts_that_share_a_machine_are_asked_for_their_directory(self) -> None:
        class Watched(dict[str, Any]):
            read: ClassVar[set[tuple[str, str]]] = set()

            def __getitem__(self, key: str) -> Any:
                Watched.read.add((self["icosfl_address"], key) if key != "icosfl_address" else ("", key))
                return super().__getitem__(key)

            def get(self, key: str, default: Any = None) -> Any:
                return Mapping.get(self, key, default)

        machines = ("192.0.2.1", "192.0.2.2", "192.0.2.2")
        hosts = [
            Watched(a_host("workers" if slot else "controller", slot, icosfl_address=address))
            for slot, address in enumerate(machines)
        ]

        assert problems_of({f"host-{slot}": host for slot, host in enumerate(hosts)}) == []
        assert {address for address, key in Watched.read if key == "icosfl_home"} == {"192.0.2.2"}


class TestAddresses:
    @pytest.mark.parametrize(
        ("host", "address"),
        [("192.0.2.1", "192.0.2.1:80"), ("2001:db8::1", "[2001:db8::1]:80"), ("hub.example.com", "hub.example.com:80")],
    )
    def test_an_ipv6_address_is_put_in_brackets(self, host: str, address: str) -> None:
        assert FILTERS["icosfl_join"](host, 80) == address

    def test_the_ports_of_each_supernode_are_listed_in_their_order(self) -> None:
        ports = FILTERS["icosfl_host_ports"](FACTS["icosfl_ports"], FACTS["icosfl_port_stride"], 1, {}, 3, 1000)

        first, second, third = FILTERS["icosfl_supernode_ports"](ports)

        assert first == {"clientappio": ports["supernode_clientappio"], "health": ports["supernode_health"]}
        assert second == {name: port + 1000 for name, port in first.items()}
        assert third == {name: port + 2000 for name, port in first.items()}


class TestKnownVariables:
    def test_facts_and_arguments_are_known_by_name_and_roles_by_prefix(self, tmp_path: Path) -> None:
        write(tmp_path / "group_vars/all/paths.yml", "icosfl_home: /opt\n")
        write(tmp_path / "group_vars/all/empty.yml", "# nothing yet\n")
        specs = "argument_specs:\n  main: { options: { kettle_size: {} } }\n  stop: { options: { kettle_root: {} } }\n"
        write(tmp_path / "roles/kettle/meta/argument_specs.yml", specs)
        write(tmp_path / "roles/spoon/meta/argument_specs.yml", "argument_specs: { main: {} }\n")

        known, prefixes = PLUGIN.known_variables(tmp_path)

        assert known == {"icosfl_home", "kettle_size", "kettle_root"}
        assert prefixes == ("icosfl_", "kettle_", "spoon_")

    def test_this_project_knows_its_own(self) -> None:
        known, prefixes = PLUGIN.known_variables(ROOT)

        assert {"icosfl_ports", "icosfl_training", "redis_listen_port", "host_base_root"} <= known
        assert {"icosfl_", "redis_", "supernode_"} <= set(prefixes)
        assert all(name.startswith(prefixes) for name in known)


def test_flowers_environment_is_what_the_command_line_uses_and_more() -> None:
    found = FILTERS["icosfl_flower_environment"]({"PATH": "/venv/bin"})

    assert found == {**flower.ENVIRONMENT, "PATH": "/venv/bin"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
