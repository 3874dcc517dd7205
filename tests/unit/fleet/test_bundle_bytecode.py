from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from icosfl.errors import RunFailed
from icosfl.fleet.bundle_bytecode import bytecode_wheel, compile_files, loaded_sources, outside_names

# names that the interpreter knows or not, shared or not, and a set, whose order depends on the process
MODULES = {
    "a.py": "def path(self, name):\n    return name in {'self', 'name', 'b', 'c', None} or self.only_here\n",
    "part/b.py": "import os\n\nclass OnlyHere:\n    only_here = 'only_here'\n    other = 'only_here too', b'self'\n",
    "part/c.py": "# coding: latin-1\nname = '\u00e4'\n",
}


def sources(root: Path) -> list[Path]:
    """The modules, as files below a directory."""
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="latin-1")
    return [root / name for name in MODULES]


def test_the_same_sources_give_the_same_bytecode_in_whatever_order_and_place(tmp_path: Path) -> None:
    first = compile_files(sources(tmp_path / "here"), tmp_path / "here")
    elsewhere = tmp_path / "quite" / "elsewhere"
    second = {}
    for source in reversed(sources(elsewhere)):
        second |= compile_files([source], elsewhere)

    assert (
        set(first)
        == set(second)
        == {"__pycache__/a.cpython-311.pyc", *(f"part/__pycache__/{n}.cpython-311.pyc" for n in "bc")}
    )
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_bytecode_is_used_whatever_its_source_has_become_and_errors_name_the_source(tmp_path: Path) -> None:
    source = tmp_path / "m.py"
    source.write_text("def fail():\n    raise ValueError('as it was compiled')\n", encoding="utf-8")
    compile_files([source], tmp_path)
    source.write_text("# another text, of another time and size\n\n\n", encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-c", "import m; m.fail()"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert "as it was compiled" in done.stderr
    assert f'File "{source}", line 2' in done.stderr


def test_what_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def\n", encoding="utf-8")

    with pytest.raises(RunFailed, match=r"m\.py: invalid syntax"):
        compile_files([tmp_path / "m.py"], tmp_path)


def test_modules_that_were_loaded_are_those_that_left_bytecode(tmp_path: Path) -> None:
    compile_files(sources(tmp_path)[:2], tmp_path)

    assert loaded_sources(tmp_path, but="part") == [tmp_path / "a.py"]


def test_the_same_bytecode_makes_the_same_wheel_that_lists_all_that_it_holds(tmp_path: Path) -> None:
    wheels = []
    for place in ("one", "two"):
        files = compile_files(sources(tmp_path / place), tmp_path / place)
        wheels.append(bytecode_wheel(tmp_path / place, "some_bytecode", "3.11.7", files))

    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    with zipfile.ZipFile(wheels[0]) as archive:
        record = archive.read("some_bytecode-3.11.7.dist-info/RECORD").decode()
        assert {line.partition(",")[0] for line in record.splitlines()} == set(archive.namelist())
        assert Path(cache_from_source("part/b.py")).as_posix() in archive.namelist()


def test_only_imports_of_other_projects_say_what_is_loaded(tmp_path: Path) -> None:
    text = (
        "import os\nimport torch.nn as nn\nfrom numpy import (\n    array,\n)\nfrom icosfl import b\nfrom . import x\n"
    )
    (tmp_path / "m.py").write_text(text, encoding="utf-8")

    assert outside_names(tmp_path, ["m.py", "pyproject.toml"]) == ["numpy.array", "torch.nn"]
