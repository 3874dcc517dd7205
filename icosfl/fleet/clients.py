"""Certificates of collectors that are no hosts of the fleet: made on the control node, carried there by a person."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from icosfl.errors import UserError
from icosfl.fleet import authority, keys, pki

# A part of file names, and as long as a common name may be.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Where the files lie on a collector's host, for example.
_FOLDER = Path("/etc/otelcol")


@dataclass(frozen=True, slots=True)
class Client:
    """What a collector proves itself with, and where it lies.

    Args:
        name: By which bridges know it.
        key: The file of its private key, for its owner only.
        certificate: The file of its certificate.
        authority: The file of the CA's certificate, by which it knows bridges.
        ends: When the certificate is over.
    """

    name: str
    key: Path
    certificate: Path
    authority: Path
    ends: datetime


def issue(  # noqa: PLR0913 (what a certificate is made of)
    name: str,
    output: Path,
    *,
    directory: Path,
    days: float,
    now: datetime,
    read: authority.Read = authority.read_text,
    replace: bool = False,
) -> Client:
    """Make a client's key, sign its certificate, and write both with the CA's certificate.

    Args:
        name: By which bridges shall know it.
        output: The directory that gets the three files.
        directory: The CA's.
        days: How long the certificate holds.
        now: What the clock says.
        read: Reads the CA's key, which may be encrypted.
        replace: Whether files that are there may go.

    Raises:
        ConfigError: there is no CA, or it cannot be read.
        UserError: the name will not do, a file is there already, or nothing can be written.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is no name for a client", cure="use up to 64 letters, digits, dots, dashes and underscores"
        )
    trusted = authority.certificate(directory)
    if not trusted:
        raise UserError(f"there is no CA in {directory} yet", cure="icosfl up makes it")
    key_file, signed_file, trusted_file = output / f"{name}.key", output / f"{name}.crt", output / "ca.crt"
    if not replace:
        _refuse_present(key_file, signed_file)
        if trusted_file.exists() and authority.read_text(trusted_file) != trusted:
            _refuse_present(trusted_file)
    signer = authority.open_authority(directory, "", now, read)
    key = keys.make_key()
    signed = pki.sign_client(signer, keys.make_request(key, name), days, now)
    try:
        authority.write(key_file, key, 0o600)
        authority.write(signed_file, signed, 0o644)
        authority.write(trusted_file, trusted, 0o644)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error}", cure="name a directory of yours") from error
    authority.note_client(directory, name, signed)
    return Client(name, key_file, signed_file, trusted_file, pki.read_certificate(signed).not_after)


def explain(client: Client, bridges: Mapping[str, str]) -> str:
    """What to do with the files, for a person.

    Args:
        client: What was made.
        bridges: Where each bridge listens for other hosts, host:port, by host.
    """
    import yaml  # only this pays for it

    lines = [
        f"{client.key}, {client.certificate} (until {client.ends:%Y-%m-%d %H:%M} UTC) and {client.authority} are made."
    ]
    if not bridges:
        return "\n".join(
            [*lines, "No bridge takes metrics from other hosts yet: set icosfl_otlp_listen and run icosfl up."]
        )
    lines += [
        f"Carry them to {_FOLDER} on the collector's host; nobody else may read the key.",
        "An OpenTelemetry Collector then sends with:",
        "",
        yaml.safe_dump({"exporters": otelcol_exporters(client, bridges)}, sort_keys=False, width=200),
        "Name them in service.pipelines.metrics.exporters. Bridges keep what a rule in icosfl_bridge_rules asks for.",
    ]
    return "\n".join(lines)


def otelcol_exporters(client: Client, bridges: Mapping[str, str]) -> dict[str, Any]:
    """The exporters with which an OpenTelemetry Collector sends to bridges, as its YAML has them."""
    tls = {
        "ca_file": str(_FOLDER / client.authority.name),
        "cert_file": str(_FOLDER / client.certificate.name),
        "key_file": str(_FOLDER / client.key.name),
        "reload_interval": "1h",  # a certificate that was renewed is taken without a restart
    }
    retry = {"enabled": True, "max_elapsed_time": "0s"}  # never give up: a bridge may be away
    return {
        f"otlp/{host}": {"endpoint": endpoint, "tls": dict(tls), "retry_on_failure": dict(retry)}
        for host, endpoint in bridges.items()
    }


def _refuse_present(*files: Path) -> None:
    present = [str(file) for file in files if file.exists()]
    if present:
        raise UserError(
            f"{' and '.join(present)} would be overwritten", cure="name another directory, or add --replace"
        )
