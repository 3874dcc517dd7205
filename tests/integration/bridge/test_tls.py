"""Collectors of other hosts: who gets in with which certificate, and what a renewed one needs."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub

from icosfl.bridge import Bridge
from icosfl.config import BridgeConfig, BridgeTls, Endpoint, SenderLimits
from icosfl.errors import RunFailed
from icosfl.fleet import keys, pki
from icosfl.store import SeriesStore

NOW = datetime.now(UTC)
DAYS = 3.0
LOAD = ParseDict(
    {
        "resourceMetrics": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "host"}}]},
                "scopeMetrics": [
                    {
                        "metrics": [
                            {"name": "system.load", "gauge": {"dataPoints": [{"asDouble": 1, "timeUnixNano": 1}]}}
                        ]
                    }
                ],
            }
        ]
    },
    ExportMetricsServiceRequest(),
)


@dataclass(frozen=True)
class Pair:
    """A key and a certificate for it, as PEM."""

    key: bytes
    certificate: bytes


class Fleet:
    """A CA, the bridge's files that it fills, and the certificates that it gives away."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.authority = pki.make_authority("the CA", NOW)
        self.tls = BridgeTls(
            Endpoint("127.0.0.1", 0), directory / "bridge.crt", directory / "bridge.key", directory / "ca.crt"
        )
        self.issue()
        self.tls.authority.write_text(self.authority.certificate, encoding="ascii")

    def issue(self) -> None:
        """Give the bridge a new certificate."""
        pair = self.server("bridge.example")
        self.tls.key.write_bytes(pair.key)
        self.tls.certificate.write_bytes(pair.certificate)

    def server(self, name: str) -> Pair:
        key = keys.make_key()
        signed = pki.sign(self.authority, keys.make_request(key, name), pki.names_of(name), DAYS, NOW)
        return Pair(key.encode(), signed.encode())

    def client(self, name: str) -> Pair:
        key = keys.make_key()
        signed = pki.sign_client(self.authority, keys.make_request(key, name), DAYS, NOW)
        return Pair(key.encode(), signed.encode())


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "tls")


@pytest.fixture
def config(config: BridgeConfig, fleet: Fleet) -> BridgeConfig:
    return replace(config, tls=fleet.tls)


@contextmanager
def stub_of(bridge: Bridge, fleet: Fleet, pair: Pair | None) -> Iterator[MetricsServiceStub]:
    """A collector that trusts this fleet's CA, with this certificate."""
    mine = (pair.key, pair.certificate) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(fleet.authority.certificate.encode(), *mine)
    with grpc.secure_channel(str(bridge.listens_tls), credentials) as channel:
        yield MetricsServiceStub(channel)


def assert_refused(bridge: Bridge, fleet: Fleet, pair: Pair | None) -> None:
    with stub_of(bridge, fleet, pair) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Export(LOAD, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def assert_taken(bridge: Bridge, fleet: Fleet, pair: Pair) -> None:
    with stub_of(bridge, fleet, pair) as stub:
        assert stub.Export(LOAD, timeout=10) == ExportMetricsServiceResponse()


def served_certificate(bridge: Bridge, fleet: Fleet) -> bytes:
    """The certificate that the bridge shows to a new connection, as PEM."""
    context = ssl.create_default_context(cadata=fleet.authority.certificate)
    context.set_alpn_protocols(["h2"])
    address = (bridge.listens_tls.host, bridge.listens_tls.port)
    with (
        socket.create_connection(address, timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="bridge.example") as wrapped,
    ):
        return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True)).encode()


def test_a_client_with_a_certificate_of_the_authority_is_served(bridge: Bridge, fleet: Fleet, store) -> None:
    assert_taken(bridge, fleet, fleet.client("edge-01"))

    assert store.until(1).times.tolist() == [1]


def test_a_client_without_a_certificate_is_refused(bridge: Bridge, fleet: Fleet, store) -> None:
    assert_refused(bridge, fleet, None)
    assert store.appends == 0


def test_a_client_of_another_authority_is_refused(bridge: Bridge, fleet: Fleet, store, tmp_path: Path) -> None:
    stranger = Fleet(tmp_path / "strangers").client("edge-01")

    assert_refused(bridge, fleet, stranger)
    assert store.appends == 0


def test_a_servers_certificate_is_no_clients(bridge: Bridge, fleet: Fleet) -> None:
    assert_refused(bridge, fleet, fleet.server("superlink.example"))


def test_a_client_that_speaks_no_tls_is_refused(bridge: Bridge) -> None:
    with grpc.insecure_channel(str(bridge.listens_tls)) as channel, pytest.raises(grpc.RpcError) as caught:
        MetricsServiceStub(channel).Export(LOAD, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_the_port_without_tls_serves_this_host_as_before(bridge: Bridge) -> None:
    with grpc.insecure_channel(str(bridge.listens)) as channel:
        assert MetricsServiceStub(channel).Export(LOAD, timeout=10) == ExportMetricsServiceResponse()


def test_the_certificates_name_is_the_sender_that_limits_are_for(
    start: Callable[[BridgeConfig, Callable[[], SeriesStore]], Bridge], config: BridgeConfig, fleet: Fleet, store
) -> None:
    once = SenderLimits(requests_per_second=0.001, points_per_second=1e9, burst_seconds=1, senders=10)
    bridge = start(replace(config, limits=once), lambda: store)
    greedy = fleet.client("edge-01")
    assert_taken(bridge, fleet, greedy)

    with stub_of(bridge, fleet, greedy) as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Export(LOAD, timeout=10)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details().startswith("edge-01 sends more than")
    assert_taken(bridge, fleet, fleet.client("edge-02"))


def test_renewed_files_are_shown_to_new_connections_and_disturb_no_old_one(bridge: Bridge, fleet: Fleet) -> None:
    before = fleet.tls.certificate.read_bytes()
    assert served_certificate(bridge, fleet) == before
    with stub_of(bridge, fleet, fleet.client("edge-01")) as old:
        old.Export(LOAD, timeout=10)

        fleet.issue()

        assert served_certificate(bridge, fleet) == fleet.tls.certificate.read_bytes() != before
        old.Export(LOAD, timeout=10)
        assert_taken(bridge, fleet, fleet.client("edge-02"))


def test_another_authority_shuts_out_the_clients_of_the_one_before(
    bridge: Bridge, fleet: Fleet, tmp_path: Path
) -> None:
    after = Fleet(tmp_path / "after")
    fleet.tls.authority.write_text(after.authority.certificate, encoding="ascii")

    assert_refused(bridge, fleet, fleet.client("edge-01"))
    assert_taken(bridge, fleet, after.client("edge-01"))


def test_files_that_do_not_fit_each_other_are_not_taken_on(bridge: Bridge, fleet: Fleet, caplog) -> None:
    before = fleet.tls.certificate.read_bytes()
    fleet.tls.key.write_text(keys.make_key(), encoding="ascii")

    with caplog.at_level(logging.WARNING):
        assert served_certificate(bridge, fleet) == before

    assert f"tls.key: {fleet.tls.key} is no key, or not that of {fleet.tls.certificate}" in caplog.text
    fleet.issue()
    assert served_certificate(bridge, fleet) == fleet.tls.certificate.read_bytes()


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
def test_a_missing_file_is_named_at_the_start(config: BridgeConfig, fleet: Fleet, store, name: str) -> None:
    path: Path = getattr(fleet.tls, name)
    path.unlink()

    with pytest.raises(RunFailed, match=f"^tls.{name}: {path} cannot be read: No such file") as caught:
        Bridge(config, lambda: store).start()

    assert "site.yml" in caught.value.cure


@pytest.mark.parametrize("name", ["certificate", "key", "authority"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_broken_file_is_named_at_the_start(
    config: BridgeConfig, fleet: Fleet, store, name: str, content: bytes
) -> None:
    path: Path = getattr(fleet.tls, name)
    path.write_bytes(content)

    with pytest.raises(RunFailed, match=f"^tls.{name}: {path} is no ") as caught:
        Bridge(config, lambda: store).start()

    assert "site.yml" in caught.value.cure


def test_a_busy_port_is_named(config: BridgeConfig, fleet: Fleet, store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = Endpoint("127.0.0.1", taken.getsockname()[1])

        with pytest.raises(RunFailed, match=f"^tls.listen: cannot listen on {endpoint}"):
            Bridge(replace(config, tls=replace(fleet.tls, listen=endpoint)), lambda: store).start()
