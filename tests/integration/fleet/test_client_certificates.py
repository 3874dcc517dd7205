"""Who gets in where a gRPC server asks for certificates: clients that the fleet's CA signed, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server

from icosfl.fleet import authority, keys, pki
from icosfl.fleet.clients import issue

NOW = datetime.now(UTC)
SECONDS = 5.0
Pair = tuple[bytes, bytes]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a fleet's CA."""
    found = tmp_path_factory.mktemp("pki")
    authority.open_authority(found, "fleet", NOW)
    return found


@pytest.fixture(scope="module")
def ca(directory: Path) -> pki.Authority:
    return authority.open_authority(directory, "fleet", NOW)


@pytest.fixture(scope="module")
def client(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A client as `icosfl certificate` makes it."""
    made = issue("gateway", tmp_path_factory.mktemp("out"), directory=directory, days=1, now=NOW)
    return made.key.read_bytes(), made.certificate.read_bytes()


def a_server(ca: pki.Authority) -> Pair:
    """The key and certificate of a host's service."""
    key = keys.make_key()
    return key.encode(), pki.sign(ca, keys.make_request(key, "hub"), pki.names_of("hub"), 1, NOW).encode()


def a_client(ca: pki.Authority, then: datetime = NOW) -> Pair:
    """The key and certificate of a client."""
    key = keys.make_key()
    return key.encode(), pki.sign_client(ca, keys.make_request(key, "gateway"), 1, then).encode()


@pytest.fixture(scope="module")
def address(ca: pki.Authority) -> Iterator[str]:
    """A server with a host's certificate, which wants one of its clients."""
    with serving(ca, a_server(ca)) as found:
        yield found


@contextmanager
def serving(ca: pki.Authority, own: Pair) -> Iterator[str]:
    """A gRPC server that takes clients of this CA, and how it proves itself."""
    server = grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(HealthServicer(), server)
    asks = grpc.ssl_server_credentials([own], ca.certificate.encode(), require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", asks)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def ask(address: str, trusted: pki.Authority, own: Pair | None) -> None:
    """Ask the server for its health.

    Raises:
        grpc.RpcError: it, or the client, refuses the other.
    """
    key, certificate = own or (None, None)
    proof = grpc.ssl_channel_credentials(trusted.certificate.encode(), key, certificate)
    with grpc.secure_channel(address, proof) as channel:
        HealthStub(channel).Check(HealthCheckRequest(), timeout=SECONDS)


def test_a_client_of_the_fleets_ca_gets_in(address: str, ca: pki.Authority, client: Pair) -> None:
    ask(address, ca, client)


@pytest.mark.parametrize("who", ["nobody", "foreign", "server", "over"])
def test_nobody_else_gets_in(address: str, ca: pki.Authority, who: str) -> None:
    shown = {
        "nobody": None,
        "foreign": a_client(pki.make_authority("fleet", NOW)),  # a CA of the same name with another key
        "server": a_server(ca),  # a host's own service is no client, though the same CA signed it
        "over": a_client(ca, NOW - timedelta(days=2)),
    }

    with pytest.raises(grpc.RpcError) as refused:
        ask(address, ca, shown[who])

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_plaintext_gets_no_answer(address: str) -> None:
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as refused:
        HealthStub(channel).Check(HealthCheckRequest(), timeout=SECONDS)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_client_that_plays_the_server_is_refused(ca: pki.Authority, client: Pair) -> None:
    with serving(ca, client) as address, pytest.raises(grpc.RpcError) as refused:
        ask(address, ca, a_client(ca))

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in (refused.value.details() or "")
