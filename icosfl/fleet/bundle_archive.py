"""What a bundle is: one tar whose first member, the manifest, names every other by SHA-256 and size.

The control node checks a bundle with this before it ships it, a host while it unpacks it. So this module runs on bare
hosts: the standard library only, Python 3.9. `plugins/module_utils` links to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .bundle_signature import is_signed  # relative: on a host this package is ansible.module_utils

FORMAT = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
TIME = 1580601600  # 2020-02-02, of all that is unpacked: uv notes the times of wheels
_CHUNK_BYTES = 1 << 20
_LARGEST_MANIFEST_BYTES = 16 << 20
_AGAIN = "build it again with icosfl bundle"


class BundleRefused(Exception):
    """A bundle, or a host for it, that cannot be used.

    Args:
        cause: What is wrong, with the file it is in.
        cure: What to do about it.
    """

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}. Cure: {cure}")
        self.cause = cause
        self.cure = cure


@dataclass(frozen=True)
class FileFact:
    """What the manifest says of one file: its digest, its size in bytes, whether it is a program."""

    sha256: str
    size: int
    executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds and for which hosts.

    Args:
        id: Version, digest of all that went in, and target.
        version: The project's.
        target: `python`, `tag`, `machine` and `glibc` of the hosts that it is for.
        needs_bytes: Disk that a host needs to install it.
        files: Every file by its path in the bundle.
        sha256: The digest of the manifest itself, which thereby stands for the whole bundle.
        signed: Whether it came with a signature; a good one only if a public key was given.
    """

    id: str
    version: str
    target: dict[str, str]
    needs_bytes: int
    files: dict[str, FileFact]
    sha256: str = ""
    signed: bool = False


def dump_manifest(manifest: Manifest) -> bytes:
    """Return the bytes that go into the bundle and are signed."""
    files = {
        path: {"sha256": fact.sha256, "size": fact.size, **({"executable": True} if fact.executable else {})}
        for path, fact in sorted(manifest.files.items())
    }
    value = {
        "format": FORMAT,
        "id": manifest.id,
        "version": manifest.version,
        "target": manifest.target,
        "needs_bytes": manifest.needs_bytes,
        "files": files,
    }
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def parse_manifest(raw: bytes, name: str, signed: bool = False) -> Manifest:
    """Read a manifest.

    Raises:
        BundleRefused: It is none, or one of another format.
    """
    try:
        value = json.loads(raw)
        if value["format"] != FORMAT:
            raise BundleRefused(f"{name} has format {value['format']}, this release reads {FORMAT}", _AGAIN)
        files = {
            str(path): FileFact(str(fact["sha256"]), int(fact["size"]), bool(fact.get("executable", False)))
            for path, fact in value["files"].items()
        }
        target = {str(key): str(item) for key, item in value["target"].items()}
        release, version, needs = str(value["id"]), str(value["version"]), int(value["needs_bytes"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleRefused(f"{name}: its manifest cannot be read ({error!r})", _AGAIN) from error
    for path in [*files, release]:
        parts = PurePosixPath(path).parts
        if not parts or ".." in parts or path.startswith("/") or path != str(PurePosixPath(path)):
            raise BundleRefused(f"{name}: its manifest names {path!r}, which may lie outside", _AGAIN)
    if "/" in release or release.startswith("."):
        raise BundleRefused(f"{name}: its manifest has the id {release!r}", _AGAIN)
    return Manifest(release, version, target, needs, files, hashlib.sha256(raw).hexdigest(), signed)


def read_manifest(path: Path, *, public_key: str = "", sha256: str = "") -> Manifest:
    """Read the manifest of a bundle, and nothing else.

    Raises:
        BundleRefused: There is none, or it is not what the arguments ask for (see `read_bundle`).
    """
    with _opened(path) as archive:
        return _manifest(archive, path, public_key, sha256)


def read_bundle(path: Path, into: Path | None = None, *, public_key: str = "", sha256: str = "") -> Manifest:
    """Check every file of a bundle against its manifest, in one pass, and unpack them on the way.

    Args:
        path: The bundle.
        into: An empty directory to unpack to; without it, bundles are only checked.
        public_key: Whose signature the manifest must bear, 32 bytes in base64; empty: nobody's.
        sha256: The digest that the manifest must have; empty: any.

    Raises:
        BundleRefused: It is damaged, incomplete, holds more than its manifest says, or is not rightly signed. What was
            unpacked until then is to be thrown away.
    """
    with _opened(path) as archive:
        manifest = _manifest(archive, path, public_key, sha256)
        seen: set[str] = set()
        while (member := _next(archive, path)) is not None:
            if member.name == SIGNATURE and not seen:
                continue
            fact = manifest.files.get(member.name)
            if fact is None or member.name in seen or not member.isreg():
                raise BundleRefused(f"{path}: {member.name} is not what the manifest names", _AGAIN)
            seen.add(member.name)
            source = archive.extractfile(member)
            if source is None or member.size != fact.size or _digest(source, path, fact, member, into) != fact.sha256:
                raise BundleRefused(
                    f"{path}: {member.name} is damaged, it is not the file of the manifest",
                    f"{_AGAIN} (delete the damaged one first)",
                )
        missing = sorted(set(manifest.files) - seen)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise BundleRefused(f"{path} is incomplete: {missing[0]}{more} missing", f"delete it and {_AGAIN}")
        return manifest


def _opened(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")  # closed by the callers' with
    except (OSError, tarfile.TarError) as error:
        raise BundleRefused(f"{path} is no bundle ({error})", _AGAIN) from error


def _next(archive: tarfile.TarFile, path: Path) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except (OSError, tarfile.TarError) as error:
        raise BundleRefused(f"{path} is damaged or incomplete ({error})", f"delete it and {_AGAIN}") from error


def _manifest(archive: tarfile.TarFile, path: Path, public_key: str, sha256: str) -> Manifest:
    raw = _whole(archive, path, MANIFEST)
    here = archive.offset
    following = _next(archive, path)
    signature = b""
    if following is not None and following.name == SIGNATURE:
        archive.offset = here
        signature = _whole(archive, path, SIGNATURE)
    else:
        archive.offset = here
    manifest = parse_manifest(raw, str(path), bool(signature))
    if sha256 and manifest.sha256 != sha256:
        raise BundleRefused(f"{path} is another bundle than the control node's", "run the playbook again")
    if public_key:
        try:
            good = is_signed(raw, signature, public_key)
        except ValueError as error:
            raise BundleRefused(f"the public key for bundles is wrong: {error}", "correct it") from error
        if not good:
            what = "signed with another key" if signature else "not signed"
            raise BundleRefused(f"{path} is {what}", "build it with the private key: icosfl bundle --sign-key FILE")
    return manifest


def _whole(archive: tarfile.TarFile, path: Path, name: str) -> bytes:
    member = _next(archive, path)
    if member is None or member.name != name or not member.isreg() or member.size > _LARGEST_MANIFEST_BYTES:
        raise BundleRefused(f"{path} is no bundle: it does not begin with {name}", _AGAIN)
    source = archive.extractfile(member)
    try:
        return source.read() if source else b""
    except (OSError, tarfile.TarError) as error:
        raise BundleRefused(f"{path} is damaged or incomplete ({error})", f"delete it and {_AGAIN}") from error


def _digest(source: IO[bytes], path: Path, fact: FileFact, member: tarfile.TarInfo, into: Path | None) -> str:
    digest = hashlib.sha256()
    target: Any = None
    if into is not None:
        place = into / member.name
        place.parent.mkdir(parents=True, exist_ok=True)
        target = place.open("xb")
    try:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            if target:
                target.write(chunk)
        if target:
            target.flush()  # writing later would change the time again
            os.fchmod(target.fileno(), 0o755 if fact.executable else 0o644)
            os.utime(target.fileno(), (TIME, TIME))
    except tarfile.TarError as error:
        raise BundleRefused(f"{path} is incomplete: {member.name} ends early", f"delete it and {_AGAIN}") from error
    finally:
        if target:
            target.close()
    return digest.hexdigest()
