"""The bytecode of what nodes load, made once with the bundle and installed by uv like everything else: as wheels.

Hosts would take half a minute of a processor for it at each release, and each of a fleet the same half minute. A wheel
of bytecode holds nothing but `__pycache__` directories, which come to lie beside the sources from the other wheels.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import cache_from_source, source_from_cache
from pathlib import Path

from icosfl.errors import RunFailed
from icosfl.fleet import bundle_compiler

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that zip knows
# -S, -s, -P: nothing of this environment comes into the compiler's interpreter
_COMPILER = (sys.executable, "-S", "-s", "-P", "-W", "ignore", bundle_compiler.__file__)
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"}


def compile_files(sources: Iterable[Path], root: Path) -> dict[str, Path]:
    """Write the bytecode of sources beside them; the same sources give the same bytes.

    Args:
        sources: The files.
        root: The directory that their names in the bytecode begin at.

    Returns:
        The bytecode's files by their path below `root`.

    Raises:
        RunFailed: One of them is no Python.
    """
    jobs = {source: Path(cache_from_source(str(source))) for source in sorted(sources)}
    lines = [f"{source}\t{source.relative_to(root)}\t{target}\n" for source, target in jobs.items()]
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(_compile, [lines[first::workers] for first in range(workers)]))
    return {str(target.relative_to(root)): target for target in jobs.values()}


def loaded_sources(packages: Path, but: str) -> list[Path]:
    """Return the modules of an environment that were loaded there, by the bytecode that this left.

    Args:
        packages: Its site-packages.
        but: A package to leave out.
    """
    left = (path for path in packages.rglob("*.pyc") if path.relative_to(packages).parts[0] != but)
    return [Path(source_from_cache(str(path))) for path in left]


def bytecode_wheel(into: Path, name: str, version: str, files: Mapping[str, Path]) -> Path:
    """Write a wheel that holds files; the same files give the same bytes.

    Args:
        into: The directory to write to.
        name: The wheel's distribution.
        version: Its version.
        files: Where each is to lie below site-packages.
    """
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-none-any"
    info = f"{name}-{version}.dist-info"
    members = {
        **{place: path.read_bytes() for place, path in sorted(files.items())},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: icosfl\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    lines = [f"{place},sha256={_digest(data)},{len(data)}\n" for place, data in members.items()]
    members[f"{info}/RECORD"] = f"{''.join(lines)}{info}/RECORD,,\n".encode()
    wheel = into / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for place, data in members.items():
            member = zipfile.ZipInfo(place, _EPOCH)
            member.external_attr = 0o644 << 16
            archive.writestr(member, data, zipfile.ZIP_DEFLATED, 9)
    return wheel


def outside_names(project: Path, sources: Iterable[str]) -> list[str]:
    """Return what a project's modules import from elsewhere: together with its locked requirements, what it loads."""
    found: set[str] = set()
    for source in sources:
        if source.endswith(".py"):
            for node in ast.walk(ast.parse((project / source).read_bytes())):
                if isinstance(node, ast.Import):
                    found |= {each.name for each in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found |= {f"{node.module}.{each.name}" for each in node.names}
    known = {*sys.stdlib_module_names, "icosfl"}
    return sorted(name for name in found if name.partition(".")[0] not in known)


def _compile(lines: list[str]) -> None:
    done = subprocess.run(  # noqa: S603
        _COMPILER, input="".join(lines), env=_ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RunFailed(f"bytecode cannot be made: {done.stderr.strip()[-500:]}", cure="look at what it says")


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
