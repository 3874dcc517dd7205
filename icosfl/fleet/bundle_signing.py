"""Signs bundles on the control node with an Ed25519 key; `bundle_signature` checks on hosts."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from icosfl.errors import UserError


def make_key(path: Path) -> None:
    """Make a private key that only its owner may read.

    Raises:
        UserError: Something lies there already, or nothing can be written.
    """
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(
            f"{path} cannot be made: {error.strerror}", cure="name a file in a directory of yours"
        ) from error
    with os.fdopen(handle, "wb") as file:
        file.write(pem)


def public_key(path: Path) -> str:
    """Return the public half of a private key, 32 bytes in base64: what `icosfl_bundle_public_key` wants.

    Raises:
        UserError: See `sign`.
    """
    return base64.b64encode(_read(path).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def sign(message: bytes, path: Path) -> bytes:
    """Return the message's signature.

    Raises:
        UserError: The file is no Ed25519 key, or others may read it.
    """
    return _read(path).sign(message)


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        mode = path.stat().st_mode & 0o077
        pem = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"the signing key {path} cannot be read: {error.strerror}",
            cure="name the right file, or make a key: icosfl bundle --make-key FILE",
        ) from error
    if mode:
        raise UserError(f"others may read the signing key {path}", cure=f"chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{path} is no private key without password in PEM", cure="icosfl bundle --make-key FILE makes one"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is no Ed25519 key", cure="icosfl bundle --make-key FILE makes one")
    return key
