"""A release bundle that is made in a second: the control node's interpreter, uv, and a project of one module."""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

from icosfl.fleet.bundle import write_bundle
from icosfl.fleet.bundle_interpreter import copy_interpreter
from icosfl.fleet.bundle_parts import requirements_text
from icosfl.fleet.bundle_plan import Plan, own_target

UV = Path(sys.executable).parent / "uv"
WORKS = "print('warm')\n"


def wheel(directory: Path, name: str, files: dict[str, bytes], scripts: dict[str, Path] | None = None) -> Path:
    """A wheel as pip would build it."""
    info = f"{name}-1.dist-info"
    members = {
        **files,
        **{f"{name}-1.data/scripts/{script}": path.read_bytes() for script, path in (scripts or {}).items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for path, data in members.items()
    )
    path = directory / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(member, data)
    return path


def small_bundle(directory: Path, release: str, warm: str = WORKS) -> Path:
    """Write a bundle whose project does what it is given when it is loaded, `python -m icosfl.warm`."""
    source = directory / f"source-{release}"
    source.mkdir(parents=True)
    copy_interpreter(Path(sys.executable), source / "python", compiled=False)
    wheels = [
        wheel(source, "icosfl", {"icosfl/__init__.py": b"", "icosfl/warm.py": warm.encode()}),
        wheel(source, "uv", {}, {"uv": UV}),
    ]
    (source / "requirements.txt").write_text(requirements_text(wheels), encoding="utf-8")
    files = {
        "requirements.txt": source / "requirements.txt",
        **{f"wheelhouse/{each.name}": each for each in wheels},
        **{str(path.relative_to(source)): path for path in (source / "python").rglob("*") if path.is_file()},
    }
    write_bundle(directory / f"{release}.tar", Plan(release, "1", own_target(), (), ()), files, 1, None)
    return directory / f"{release}.tar"
