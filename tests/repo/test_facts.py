"""Each fact stands once and is used: ports, paths, variables, and the direction of imports."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOPOLOGY = (ROOT / "icosfl/fleet/topology.py").read_text(encoding="utf-8")
STAGES = ["collect", "bridge", "store", "process", "train", "aggregate", "serve", "fleet"]
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
]


def test_a_port_of_the_plan_stands_in_no_other_file_that_runs() -> None:
    facts = ROOT / "group_vars/all/ports.yml"
    ports = yaml.safe_load(facts.read_text(encoding="utf-8"))["icosfl_ports"].values()
    literal = re.compile(rf"(?<![\d.])(?:{'|'.join(str(port) for port in ports)})(?![\d.])")
    for path in TRACKED:
        if path == facts or path.suffix not in {".yml", ".j2", ".py", ".toml"} or "tests" in path.parts:
            continue
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            code = line.split("#")[0]
            assert not literal.search(code), f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_earlier_stages(stage: str) -> None:
    allowed = {*STAGES[: STAGES.index(stage) + 1], "store"}  # every stage may know what a store is
    for path in sorted((ROOT / "icosfl" / stage).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "icosfl" and len(parts) > 1 and parts[1] in STAGES:
                    assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_only_config_reads_the_environment_and_configuration_files() -> None:
    readers = {"os.environ", "os.getenv", "tomllib"}
    allowed = {"icosfl/config.py"}
    for path in sorted((ROOT / "icosfl").rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name in allowed or name.startswith(("icosfl/fleet/", "icosfl/cli")):
            continue  # the operator's side starts programs, and hands them an environment
        text = path.read_text(encoding="utf-8")
        assert not [reader for reader in readers if f"{reader}" in text], name


def test_no_module_swallows_every_exception() -> None:
    for path in sorted((ROOT / "icosfl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_public_function_and_class_has_a_docstring() -> None:
    for path in sorted((ROOT / "icosfl").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path.relative_to(ROOT)
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.relative_to(ROOT)}: {node.name}"


def test_no_secret_host_or_machine_path_stands_in_the_repository() -> None:
    banned = re.compile(
        r"https?://[\w.-]*(?:pypi|pythonhosted|debian\.org|npmjs)[\w.-]*|/root/|/work/|BEGIN [A-Z ]*PRIVATE KEY"
    )
    for path in TRACKED:
        if not path.is_file() or path.is_symlink() or path == Path(__file__):
            continue
        assert not banned.search(path.read_text(encoding="utf-8", errors="replace")), path.relative_to(ROOT)


def test_an_exported_name_exists_and_the_list_is_sorted() -> None:
    for path in sorted((ROOT / "icosfl").rglob("__init__.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "__all__" for t in node.targets):
                names = ast.literal_eval(node.value)
                assert names == sorted(names), path.relative_to(ROOT)


def facts() -> dict[str, Any]:
    """All variables of group_vars/all, by name."""
    found: dict[str, Any] = {}
    for path in sorted((ROOT / "group_vars/all").glob("*.yml")):
        found |= yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return found


def users() -> str:
    """What may use a fact, without comments: wiring, other facts, playbooks, and the tools that read the inventory."""
    paths = [
        path
        for path in TRACKED
        if path.is_file()
        and path.relative_to(ROOT).parts[0] in {"group_vars", "playbooks", "icosfl", "plugins", "roles"}
        and path.suffix in {".yml", ".py", ".j2"}
    ]
    lines = [line.split(" #")[0] for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


def test_no_fact_stands_twice() -> None:
    seen: dict[str, Path] = {}
    for path in sorted((ROOT / "group_vars/all").glob("*.yml")):
        for name in yaml.safe_load(path.read_text(encoding="utf-8")) or {}:
            assert seen.setdefault(name, path) == path, name


def test_every_fact_is_used_by_another_file_or_fact() -> None:
    text = users()
    for name in (name for name in facts() if name.startswith("icosfl_")):
        uses = re.findall(rf"(?<!\w)(?<!\| ){name}(?!\w)", re.sub(rf"(?m)^{name}:", "", text))  # "| name" is a filter
        assert uses, f"{name} stands in group_vars/all and nothing reads it"


def test_every_port_and_every_path_of_the_plan_is_used() -> None:
    text = users()
    for port in facts()["icosfl_ports"]:
        # A SuperNode's are read by the topology: a host has as many of them as it has SuperNodes.
        assert f"icosfl_host_ports.{port} " in text or port in TOPOLOGY, port
    for path in facts()["icosfl_paths"]:
        assert re.search(rf"icosfl_paths\.{path}\b|paths\[\"{path}\"\]", text), path


def test_inventories_set_only_variables_that_the_project_knows() -> None:
    declared = set(facts())
    for path in sorted((ROOT / "roles").glob("*/meta/argument_specs.yml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"].values():
            declared |= set(entry["options"])
    for path in sorted((ROOT / "inventories").glob("*/group_vars/**/*.yml")):
        ours = {
            name for name in yaml.safe_load(path.read_text(encoding="utf-8")) or {} if not name.startswith("ansible_")
        }
        assert ours <= declared, path.relative_to(ROOT)
