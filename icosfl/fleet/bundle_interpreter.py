"""The base Python of the control node as a tree that runs from any directory of a host with the same kind of C library.

    bin/python3.11  lib/python3.11/  lib/libpython3.11.so.1.0 where the interpreter is linked to it

The interpreter finds its library by itself from there. Other libraries (OpenSSL, SQLite, …) are the host's own, from
Debian's python3, so that the host's security updates reach them; the installer proves that they are there. Programs
that look for libraries in a directory of the control node are rewritten to look beside themselves: on a host somebody
else may own that directory.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from icosfl.errors import RunFailed, UserError
from icosfl.fleet.bundle_bytecode import compile_files

# Neither tests nor what needs a screen or the internet.
LEFT_OUT = {
    *(
        "__pycache__",
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "ensurepip",
        "tkinter",
        "turtledemo",
    ),
    *("lib2to3", "EXTERNALLY-MANAGED", "sitecustomize.py", "turtle.py"),
}
LEFT_OUT_STARTS = ("config-3", "_test", "_xx", "xx", "_tkinter", "nis.", "ossaudiodev", "_ctypes_test")
_ASK = """
import json, sys, sysconfig
base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix, "installed_base": sys.base_prefix,
        "installed_platbase": sys.base_exec_prefix}
print(json.dumps({
    "executable": getattr(sys, "_base_executable", sys.executable),
    "name": "python%d.%d" % sys.version_info[:2],
    "stdlib": sysconfig.get_path("stdlib", "posix_prefix", base),
    "dynload": sysconfig.get_config_var("DESTSHARED"),
    "library": sysconfig.get_config_var("INSTSONAME"),
    "library_dirs": [sysconfig.get_config_var("LIBDIR"), sys.base_prefix + "/lib",
                     (sysconfig.get_config_var("LIBDIR") or "") + "/" + (sysconfig.get_config_var("MULTIARCH") or "")],
}))
"""
_LOAD, _DYNAMIC = 1, 2
_NULL, _NEEDED, _STRTAB, _RPATH, _RUNPATH = 0, 1, 5, 15, 29
_ELF64_LITTLE = b"\x7fELF\x02\x01"


def copy_interpreter(python: Path, into: Path, *, compiled: bool = True) -> None:
    """Copy an interpreter, its library and its standard library to `into`.

    Args:
        python: The interpreter, or one of an environment made with it.
        into: The directory to make.
        compiled: Whether to write the bytecode too: hosts cannot, and each start would take seconds more.

    Raises:
        UserError: This Python cannot be made to run from elsewhere.
        RunFailed: It cannot be asked, or cannot compile.
    """
    found = json.loads(_output([str(python), "-I", "-c", _ASK]))
    name, executable = found["name"], Path(found["executable"]).resolve()
    (into / "bin").mkdir(parents=True)
    shutil.copyfile(executable, into / "bin" / name)
    stdlib = into / "lib" / name
    shutil.copytree(found["stdlib"], stdlib, ignore=_ignored, ignore_dangling_symlinks=True)
    if not (stdlib / "lib-dynload").is_dir():
        shutil.copytree(found["dynload"], stdlib / "lib-dynload", ignore=_ignored)
    if not (stdlib / "os.py").is_file():
        raise UserError(f"{executable} has no standard library in {found['stdlib']}", cure="install all of Python")
    shared = [each for each in needed_libraries(executable.read_bytes()) if each.startswith("libpython")]
    for library in shared:
        _copy_library(library, found["library_dirs"], into / "lib")
    for path in _programs(into):
        data = path.read_bytes()
        moved = relocated(data, os.path.relpath(into / "lib", path.parent))
        if shared and path.parent.name == "bin" and not _search_path(moved):
            raise UserError(
                f"{executable} needs {shared[0]} and does not say where that lies, so it cannot be moved",
                cure="set up the project with Debian's python3.11 or one that pyenv built: PYTHON=… make setup",
            )
        path.write_bytes(moved)
    (into / "bin" / name).chmod(0o755)
    if compiled:
        compile_files(stdlib.rglob("*.py"), stdlib)


def needed_libraries(program: bytes) -> tuple[str, ...]:
    """Return the libraries that a program is linked to; nothing for what is no 64-bit ELF program."""
    return tuple(_text(program, offset) for tag, offset in _strings(program) if tag == _NEEDED)


def relocated(program: bytes, libraries: str) -> bytes:
    """Return a program that looks for its libraries at a path relative to itself, where it had one to look at.

    Args:
        program: The file's bytes.
        libraries: The path, from the program's directory.
    """
    result = bytearray(program)
    for tag, offset in _strings(program):
        if tag in {_RPATH, _RUNPATH}:
            before = _text(program, offset).encode()
            after = f"$ORIGIN/{libraries}".encode()
            if len(after) > len(before):
                after = b""  # no room: it looks where the host's own programs do
            result[offset : offset + len(before)] = after.ljust(len(before), b"\0")
    return bytes(result)


def _search_path(program: bytes) -> str:
    return next((_text(program, offset) for tag, offset in _strings(program) if tag in {_RPATH, _RUNPATH}), "")


def _strings(program: bytes) -> Iterator[tuple[int, int]]:
    """The entries of the dynamic section that are texts: their tags, and where in the file the texts begin."""
    if not program.startswith(_ELF64_LITTLE):
        return
    start, size, count = struct.unpack_from("<Q", program, 32)[0], *struct.unpack_from("<HH", program, 54)
    segments = [struct.unpack_from("<IIQQQQ", program, start + index * size) for index in range(count)]
    dynamic = next((segment for segment in segments if segment[0] == _DYNAMIC), None)
    if dynamic is None:
        return
    entries: list[tuple[int, int]] = []
    while (entry := struct.unpack_from("<QQ", program, dynamic[2] + 16 * len(entries)))[0] != _NULL:
        entries.append(entry)
    address = next(value for tag, value in entries if tag == _STRTAB)
    table = next(
        segment[2] + address - segment[3]
        for segment in segments
        if segment[0] == _LOAD and segment[3] <= address < segment[3] + segment[5]
    )
    yield from ((tag, table + value) for tag, value in entries if tag in {_NEEDED, _RPATH, _RUNPATH})


def _text(program: bytes, offset: int) -> str:
    return program[offset : program.index(b"\0", offset)].decode()


def _programs(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and (path.parent.name == "bin" or ".so" in path.name)]


def _ignored(directory: str, names: list[str]) -> set[str]:
    del directory
    return {name for name in names if name in LEFT_OUT or name.startswith(LEFT_OUT_STARTS) or name.endswith(".a")}


def _copy_library(name: str, directories: list[str | None], into: Path) -> None:
    for directory in directories:
        if directory and (Path(directory) / name).is_file():
            shutil.copyfile(Path(directory) / name, into / name)
            return
    raise UserError(f"{name} is not where Python says", cure="install all of Python, or set up with another one")


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise RunFailed(f"{command[0]} ended with {done.returncode}: {said}", cure="look at what it says")
    return done.stdout
