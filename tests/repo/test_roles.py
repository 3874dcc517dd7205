"""The house rules of roles, as tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
FILTERS = {"icosfl_inventory_problems", "icosfl_bridge_rows_forwarded_total", "icosfl_collect_samples_total"}
STAGES = ["preflight", "install", "configure", "service", "verify"]
INTERNAL = {"service", "docker_engine"}  # one makes what the others declare, one what a host lacks for that
SERVICES = [role for role in ROLES if (role / "tasks" / "verify.yml").exists() and role.name not in INTERNAL]
WIRING = sorted(
    path
    for group in ("all", "nodes", "controller", "workers")
    for path in (ROOT / "group_vars" / group).glob("*.yml")
    if (ROOT / "roles" / path.stem).is_dir()
)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def options(role: Path) -> dict[str, Any]:
    entries = read(role / "meta" / "argument_specs.yml")["argument_specs"].values()
    return {name: option for entry in entries for name, option in entry.get("options", {}).items()}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
class TestEveryRole:
    def test_its_readme_is_short(self, role: Path) -> None:
        lines = (role / "README.md").read_text(encoding="utf-8").splitlines()

        assert 5 <= len(lines) <= 40

    def test_its_defaults_and_the_commented_names_are_its_arguments(self, role: Path) -> None:
        text = (role / "defaults" / "main.yml").read_text(encoding="utf-8")
        commented = set(re.findall(rf"^# ({role.name}_\w+):$", text, re.MULTILINE))
        set_here = set(yaml.safe_load(text) or {})

        assert set_here | commented == set(options(role))
        assert not set_here & commented

    def test_what_has_no_default_is_required_and_nothing_else_is(self, role: Path) -> None:
        set_here = set(read(role / "defaults" / "main.yml"))

        for name, option in options(role).items():
            assert option.get("required", False) == (name not in set_here), name

    def test_no_default_stands_in_its_argument_spec(self, role: Path) -> None:
        assert not [name for name, option in options(role).items() if "default" in option]

    def test_every_argument_has_the_roles_prefix(self, role: Path) -> None:
        assert all(name.startswith(f"{role.name}_") for name in options(role))

    def test_it_names_no_group_no_fact_of_the_fleet_and_no_other_roles_variable(self, role: Path) -> None:
        others = [re.escape(name) for other in ROLES if other != role for name in options(other)]
        foreign = re.compile(rf"\b(groups\[|groups\.|icosfl_\w+|{'|'.join(others)})\b")
        for path in sorted(role.rglob("*")):
            if path.suffix not in {".yml", ".j2"}:
                continue
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.lstrip().startswith("#"):
                    continue
                found = [match.group(0) for match in foreign.finditer(line) if match.group(0) not in FILTERS]
                assert not found, f"{path.relative_to(ROOT)}: {line.strip()}"

    def test_it_ignores_no_error_and_takes_no_shell(self, role: Path) -> None:
        text = "\n".join(path.read_text(encoding="utf-8") for path in role.rglob("*.yml"))

        assert "ignore_errors" not in text
        assert "builtin.shell" not in text


@pytest.mark.parametrize("role", SERVICES, ids=lambda role: role.name)
def test_a_service_role_has_the_five_stages_in_order(role: Path) -> None:
    main = read(role / "tasks" / "main.yml")

    present = [task["ansible.builtin.import_tasks"].removesuffix(".yml") for task in main]
    assert present == [stage for stage in STAGES if (role / "tasks" / f"{stage}.yml").exists()]
    assert {"preflight", "install", "verify"} <= set(present)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_task_is_named_after_its_file(role: Path) -> None:
    for path in sorted((role / "tasks").glob("*.yml")):
        if path.name == "main.yml":
            continue
        for task in read(path):
            assert task["name"].startswith(f"{path.stem} | "), f"{path.relative_to(ROOT)}: {task['name']}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_tags_stand_on_imports_only_so_that_they_reach_every_task(role: Path) -> None:
    for path in sorted((role / "tasks").glob("*.yml")):
        for task in read(path):
            imported = task.get("ansible.builtin.import_tasks", "").removesuffix(".yml")
            assert "ansible.builtin.include_tasks" not in task, path.relative_to(ROOT)
            if path.name == "main.yml":
                assert {role.name, f"{role.name}_{imported}"} <= set(task["tags"]), f"{role.name}: {task['name']}"
            else:
                assert "tags" not in task, f"{path.relative_to(ROOT)}: {task['name']}"
            assert path.stem not in STAGES or "ansible.builtin.include_role" not in task, path.relative_to(ROOT)


def test_an_inventory_is_validated_whichever_tags_are_asked_for() -> None:
    (task,) = read(ROOT / "roles/validate_inventory/tasks/main.yml")

    assert "always" in task["tags"]


def test_images_are_removed_only_where_services_run_in_docker() -> None:
    # where a control node is a host of another runtime its Engine has other fleets' images, and such as are being built
    imports = [
        task
        for playbook in ROOT.glob("playbooks/*.yml")
        for play in yaml.safe_load(playbook.read_text(encoding="utf-8"))
        for task in play.get("tasks", ())
        for what in (task.get("ansible.builtin.import_role"),)
        if what and (what["name"], what.get("tasks_from")) == ("container_image", "remove")
    ]

    assert len(imports) == 3
    assert all("icosfl_runtime" in task["when"] for task in imports)


def test_the_runtimes_that_an_inventory_may_name_are_those_that_services_run_in() -> None:
    allowed = read(ROOT / "roles/validate_inventory/defaults/main.yml")["validate_inventory_runtimes"]

    for entry in read(ROOT / "roles/service/meta/argument_specs.yml")["argument_specs"].values():
        if entry["options"]:
            assert entry["options"]["service_runtime"]["choices"] == allowed


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_an_argument_that_is_a_secret_is_kept_out_of_logs(role: Path) -> None:
    for name, option in options(role).items():
        if re.search("password|secret|token|credential", name):
            assert option.get("no_log") is True, name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_service_role_declares_and_calls_no_module_on_the_host(role: Path) -> None:
    local = {"declare", "ansible.builtin.assert", "ansible.builtin.import_tasks"}
    for path in sorted((role / "tasks").glob("*.yml")) if role in SERVICES else []:
        for task in read(path):
            assert local & set(task), f"{path.relative_to(ROOT)}: {task['name']}"
            if "declare" in task:
                assert task["declare"]["role"].startswith(role.name), f"{path.relative_to(ROOT)}: {task['name']}"


@pytest.mark.parametrize("path", WIRING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_wiring_hands_over_only_arguments_that_the_role_declares(path: Path) -> None:
    declared = options(ROOT / "roles" / path.stem)

    assert set(read(path)) <= set(declared)


def test_every_required_argument_is_wired() -> None:
    wired = {name for path in WIRING for name in read(path)}
    for role in ROLES:
        required = {name for name, option in options(role).items() if option.get("required")}
        assert required <= wired, role.name


@pytest.mark.parametrize("template", sorted((ROOT / "roles").rglob("*.j2")), ids=lambda path: path.name)
def test_a_template_says_who_manages_the_file(template: Path) -> None:
    first = template.read_text(encoding="utf-8").splitlines()[0]

    assert first == "{{ ansible_managed | comment }}" or "ansible_managed" in first
