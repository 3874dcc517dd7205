"""Compiles Python to bytecode that is the same wherever and whenever it is made: `python -S bundle_compiler.py < list`.

Each line of the list is a source, the name that it gets in the bytecode and the file to write, with tabs between. The
files are valid as they are: nothing compares them with their sources, whose times change on their way to hosts.

What `marshal` writes depends on what else the process holds (it marks what is referred to more than once, and names
are shared by the whole interpreter). So this runs in an interpreter that has loaded nothing else, and each file is
compiled in a copy of it that has compiled nothing before.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
from pathlib import Path

_UNCHECKED = (1).to_bytes(4, "little")  # PEP 552: valid by a hash of the source, which nobody is to check


def compiled(source: bytes, name: str) -> bytes:
    """Return the contents of a .pyc file.

    Args:
        source: The text to compile.
        name: What tracebacks call it where the source is not beside its bytecode; elsewhere they name the source.

    Raises:
        SyntaxError: It is no Python.
    """
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source) + marshal.dumps(code)


def main() -> int:
    """Compile what standard input lists; returns how many files could not be."""
    failed = 0
    for line in sys.stdin:
        source, name, target = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            _compile(Path(source), name, Path(target))
        failed += os.waitpid(child, 0)[1] != 0
    return failed


def _compile(source: Path, name: str, target: Path) -> None:
    """Compile one file and end this process."""
    code = 1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(compiled(source.read_bytes(), name))
        code = 0
    except (SyntaxError, ValueError, OSError) as error:
        sys.stderr.write(f"{source}: {error}\n")
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
