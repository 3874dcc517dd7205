"""Each fact stands once: ports, and the direction of imports."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
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
