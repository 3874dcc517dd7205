"""The certificates of the port for other hosts, read again when their files change."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from icosfl.config import BridgeTls
from icosfl.errors import RunFailed

_CURE = "run site.yml: it puts the bridge's certificate, its key and the authority's certificate in their places"

logger = logging.getLogger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


def server_credentials(config: BridgeTls) -> grpc.ServerCredentials:
    """TLS that asks each client for a certificate of the authority, and takes on renewed files without a restart.

    Raises:
        RunFailed: a file cannot be read, is not what it should be, or the key is not the certificate's.
    """
    files = CertificateFiles(config)
    changed: Callable[[], Any] = files.changed  # None means as before: gRPC says so, its types do not
    return grpc.dynamic_ssl_server_credentials(files.first, changed, require_client_authentication=True)


class CertificateFiles:
    """What the files held when they last were as they should be.

    Args:
        config: Where they are.

    Raises:
        RunFailed: a file cannot be read, is not what it should be, or the key is not the certificate's.
    """

    def __init__(self, config: BridgeTls) -> None:
        self._config = config
        self._seen = self._stamp()
        self.first = _read(config)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What the files hold, if they changed since they were last asked about; called at each new connection.

        Files that do not fit each other are left alone: they are just being replaced, or somebody will be told.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            found = _read(self._config)
        except RunFailed as error:
            logger.warning("the certificate that was read before stays in use: %s", error)
            return None
        logger.info("the certificate was read anew: %s", self._config.certificate)
        return found

    def _stamp(self) -> _Stamp:
        return tuple(_stat(path) for path in (self._config.certificate, self._config.key, self._config.authority))


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def _read(config: BridgeTls) -> grpc.ServerCertificateConfiguration:
    certificate = _pem("tls.certificate", config.certificate)
    key = _bytes("tls.key", config.key)
    authority = _pem("tls.authority", config.authority)
    try:
        # a key with a password would ask for it at the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.certificate, config.key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise RunFailed(
            f"tls.key: {config.key} is no key, or not that of {config.certificate}: {_reason(error)}", cure=_CURE
        ) from error
    return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)


def _pem(name: str, path: Path) -> bytes:
    """The bytes of a file that must hold certificates."""
    content = _bytes(name, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=content.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise RunFailed(f"{name}: {path} is no certificate: {_reason(error)}", cure=_CURE) from error
    return content


def _bytes(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunFailed(f"{name}: {path} cannot be read: {error.strerror}", cure=_CURE) from error


def _reason(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error)
