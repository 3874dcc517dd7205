"""What a host keeps for itself: private keys and secrets, made on it once. They never leave it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet import keys

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a host shall have in its directory.

    Args:
        directory: Where everything lies.
        user: The system user who reads it; "" for whoever runs this.
        name: The host's, for the request.
        tls_keys: The files of the keys of services that serve TLS, by service.
        certificates: The files of the certificates for those keys, by service.
        node_keys: The files of the SuperNodes' keys, in their order.
        secrets: The files of secrets between processes of this host.
    """

    directory: Path
    user: str
    name: str
    tls_keys: Mapping[str, str] = field(default_factory=dict)
    certificates: Mapping[str, str] = field(default_factory=dict)
    node_keys: Sequence[str] = ()
    secrets: Sequence[str] = ()


@dataclass(slots=True)
class Identity:
    """What of a host's keys may travel.

    Args:
        made: Files that were made now, or would be.
        requests: The requests for certificates of the services' keys, by service.
        certificates: The present certificates, by service; "" where there is none.
        public_keys: The public halves of the SuperNodes' keys, as PEM.
    """

    made: list[str] = field(default_factory=list)
    requests: dict[str, str] = field(default_factory=dict)
    certificates: dict[str, str] = field(default_factory=dict)
    public_keys: list[str] = field(default_factory=list)


def establish(wanted: Wanted, *, dry: bool = False) -> Identity:
    """Make the keys and secrets that are missing, and return what may travel.

    Args:
        wanted: What the host shall have.
        dry: Only look; what is missing is named in `made` and nothing else.

    Raises:
        ConfigError: a file cannot be read or written, or is no key.
    """
    found = Identity()
    try:
        if not dry:
            _make_directory(wanted)
        for name in wanted.secrets:
            _text(wanted, name, lambda: secrets.token_hex(SECRET_BYTES), found, dry=dry)
        for name in wanted.node_keys:
            key = _text(wanted, name, keys.make_node_key, found, dry=dry)
            found.public_keys += [keys.node_public_key(key)] if key else []
        for service, name in wanted.tls_keys.items():
            key = _text(wanted, name, keys.make_key, found, dry=dry)
            found.requests[service] = keys.make_request(key, wanted.name) if key else ""
        for service, name in wanted.certificates.items():
            file = Path(name)
            found.certificates[service] = file.read_text(encoding="utf-8") if file.exists() else ""
    except LookupError as error:
        raise ConfigError(
            f"the user {wanted.user} is missing", cure="run site.yml without --tags: it makes it"
        ) from error
    except OSError as error:
        raise ConfigError(f"{wanted.directory}: {error}", cure="see who owns it, and the disk") from error
    return found


def _make_directory(wanted: Wanted) -> None:
    """Make the directory and what is missing above it: root's, and readable for the services' user."""
    missing = [each for each in (wanted.directory, *wanted.directory.parents) if not each.exists()]
    for directory in reversed(missing):
        directory.mkdir(mode=0o700)
        if wanted.user:
            shutil.chown(directory, group=wanted.user)
            directory.chmod(0o750)


def _text(wanted: Wanted, name: str, make: Callable[[], str], found: Identity, *, dry: bool) -> str:
    """The text of a file that is for its reader only; made when it is missing. "" when it is and must not be made."""
    file = Path(name)
    if file.exists():
        return file.read_text(encoding="utf-8")
    found.made.append(name)
    if dry:
        return ""
    text = make()
    number, scratch = tempfile.mkstemp(dir=wanted.directory, prefix=f".{file.name}.")  # 0600 from its first moment
    with os.fdopen(number, "w", encoding="utf-8") as stream:
        if wanted.user:
            shutil.chown(scratch, user=wanted.user, group=wanted.user)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    Path(scratch).replace(file)
    return text
