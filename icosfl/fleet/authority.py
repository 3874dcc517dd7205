"""The CA's directory on the control node: its key, its certificate, and copies of what it signed.

`ca.key` (0600) is copied nowhere and may be encrypted with `ansible-vault encrypt`. `ca.crt` is what every host trusts.
`issued/HOST.SERVICE.crt` and `clients/NAME.crt` are for `icosfl doctor` and for whoever looks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from icosfl.errors import ConfigError
from icosfl.fleet import pki
from icosfl.fleet.keys import private_key

KEY, CERTIFICATE, ISSUED, CLIENTS = "ca.key", "ca.crt", "issued", "clients"
VAULTED = "$ANSIBLE_VAULT"

Read = Callable[[Path], str]


@dataclass(frozen=True, slots=True)
class Expiry:
    """A certificate that the control node knows: of whom, how many days it still holds, and who renews it."""

    name: str
    days_left: float
    ages: bool
    of_client: bool = False


def read_text(file: Path) -> str:
    """Read a file that is not encrypted.

    Raises:
        ConfigError: it cannot be read, or is encrypted.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", cure="run this as the user who owns it") from error
    if text.startswith(VAULTED):
        raise ConfigError(f"{file} is encrypted", cure="give the vault's password: --ask-vault-pass")
    return text


def certificate(directory: Path) -> str:
    """The CA's certificate as PEM; "" while there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    file = directory / CERTIFICATE
    return read_text(file) if file.exists() else ""


def open_authority(directory: Path, name: str, now: datetime, read: Read = read_text) -> pki.Authority:
    """The CA; made when it is first asked for. Several processes may ask at once.

    Args:
        directory: Where its files are.
        name: Its common name, when it is made.
        now: What the clock says.
        read: Reads the key's file, which may be encrypted.

    Raises:
        ConfigError: its files cannot be read or written, or do not belong together.
    """
    with _locked(directory):
        key, signed = directory / KEY, directory / CERTIFICATE
        if signed.exists() and not key.exists():
            raise ConfigError(
                f"{key} is missing, and {signed} is there",
                cure="restore the key from the backup; else move the directory away and run site.yml for all hosts",
            )
        if signed.exists():
            return pki.Authority(certificate(directory), read(key))
        made = pki.make_authority(name, now, private_key(read(key)) if key.exists() else None)
        if not key.exists():
            write(key, made.key, 0o600)
        write(signed, made.certificate, 0o644)
        return made


def note_issued(directory: Path, host: str, service: str, signed: str) -> None:
    """Keep a copy of a certificate that was issued to a host's service.

    Raises:
        ConfigError: it cannot be written.
    """
    _note(directory, directory / ISSUED / f"{host}.{service}.crt", signed)


def note_client(directory: Path, name: str, signed: str) -> None:
    """Keep a copy of a certificate that was issued to a client.

    Raises:
        ConfigError: it cannot be written.
    """
    _note(directory, directory / CLIENTS / f"{name}.crt", signed)


def forget_others(directory: Path, host: str, services: Collection[str], *, dry: bool = False) -> list[str]:
    """Drop the copies of a host's services but for these, which alone are renewed; returns whose they were.

    Args:
        directory: The CA's.
        host: Whose services.
        services: Those of them that have a certificate still.
        dry: Only look.
    """
    found = []
    for file in sorted((directory / ISSUED).glob("*.crt")):
        owner, _, service = file.stem.rpartition(".")
        if owner == host and service not in services:
            found.append(service)
            if not dry:
                file.unlink(missing_ok=True)
    return found


def expiries(directory: Path, now: datetime) -> tuple[Expiry, ...]:
    """The CA's certificate and those that it issued, the next to end first.

    Raises:
        ConfigError: one cannot be read.
    """
    files = {file: file.stem for folder in (ISSUED, CLIENTS) for file in (directory / folder).glob("*.crt")}
    if (directory / CERTIFICATE).exists():
        files[directory / CERTIFICATE] = "the CA"
    read = {file: pki.read_certificate(read_text(file)) for file in files}
    found = [
        Expiry(files[file], says.days_left(now), says.ages(now), file.parent.name == CLIENTS)
        for file, says in read.items()
    ]
    return tuple(sorted(found, key=lambda each: each.days_left))


def _note(directory: Path, file: Path, signed: str) -> None:
    with _locked(directory):
        write(file, signed, 0o644)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (directory / ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written: {error}", cure="set icosfl_pki_dir") from error


def write(file: Path, text: str, mode: int) -> None:
    """Write a file whole or not at all, never readable to others before it has its mode.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
