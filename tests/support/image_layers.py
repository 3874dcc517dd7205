"""What is in the layers of an image's archive, and what must not be in any."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

COMPILERS = re.compile(r"(?:.*-)?(?:gcc|g\+\+|cc|c\+\+|cc1|cc1plus|clang|ld|as|make|cmake|ninja|rustc|go)(?:-[\d.]+)?")
LEFTOVERS = re.compile(r"pip|uv|uvx|.*\.whl|\.cache|__pypackages__|wheelhouse|bundle\.tar")
SECRETS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/]{40}|\$ANSIBLE_VAULT;")


def layers(archive: Path) -> Iterator[tuple[str, tarfile.TarFile]]:
    """The layers of what `docker save` wrote, by name."""
    with gzip.open(archive) as unpacked, tarfile.open(fileobj=io.BytesIO(unpacked.read())) as whole:
        manifest = whole.extractfile("manifest.json")
        assert manifest is not None
        for name in json.loads(manifest.read())[0]["Layers"]:
            file = whole.extractfile(name)
            assert file is not None
            with tarfile.open(fileobj=file) as layer:
                yield name, layer


def files(archive: Path) -> list[str]:
    """The paths of all files of all layers."""
    return [member.name for _, layer in layers(archive) for member in layer if not member.isdir()]


def unwanted(archive: Path, *texts: str) -> list[str]:
    """What must not be in an image: compilers, leftovers of the build, secrets, and texts, such as paths."""
    found = []
    for _, layer in layers(archive):
        for member in layer:
            parts = PurePosixPath(member.name).parts
            if member.isfile() and COMPILERS.fullmatch(parts[-1]) and member.mode & 0o111:
                found.append(f"compiler: {member.name}")
            found += [f"leftover: {member.name}" for part in parts if LEFTOVERS.fullmatch(part)][:1]
            file = layer.extractfile(member) if member.isfile() else None
            data = file.read() if file else b""
            if SECRETS.search(data):
                found.append(f"secret: {member.name}")
            found += [f"{text}: {member.name}" for text in texts if text.encode() in data]
    return found
