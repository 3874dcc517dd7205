"""What is signed for whom, and when it is signed anew."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from icosfl.errors import ConfigError
from icosfl.fleet import keys, pki

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
CA = pki.make_authority("fleet", NOW)
KEY = keys.make_key()
REQUEST = keys.make_request(KEY, "hub.example.com")
NAMES = pki.names_of("hub.example.com", "192.0.2.10")
SIGNED = pki.sign(CA, REQUEST, NAMES, 30, NOW)


def test_a_certificate_holds_for_the_hosts_names_and_for_its_own_loopback() -> None:
    says = pki.read_certificate(SIGNED)

    assert says.names == {"hub.example.com", "192.0.2.10", "localhost", "127.0.0.1", "::1"}
    assert (says.subject, says.issuer) == ("hub.example.com", "fleet")
    assert says.not_after == NOW + timedelta(days=30)
    assert says.not_before < NOW


def test_a_certificate_is_for_a_tls_server_and_signs_nothing() -> None:
    certificate = x509.load_pem_x509_certificate(SIGNED.encode())

    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_clients_certificate_is_for_a_tls_client_and_holds_for_no_server() -> None:
    certificate = x509.load_pem_x509_certificate(pki.sign_client(CA, REQUEST, 30, NOW).encode())
    says = pki.read_certificate(pki.sign_client(CA, REQUEST, 30, NOW))

    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (says.subject, says.issuer, says.names) == ("hub.example.com", "fleet", frozenset())
    assert says.not_after == NOW + timedelta(days=30)


def test_a_certificate_that_still_holds_is_kept() -> None:
    assert pki.reason_to_sign(SIGNED, REQUEST, CA, NAMES, NOW) == ""


def test_the_order_and_the_spelling_of_names_is_no_change() -> None:
    spelt = [*reversed(NAMES), "0:0:0:0:0:0:0:1"]

    assert pki.reason_to_sign(SIGNED, REQUEST, CA.certificate, spelt, NOW) == ""


@pytest.mark.parametrize(
    ("why", "present", "request_", "authority", "names", "days"),
    [
        ("there is none yet", "", REQUEST, CA, NAMES, 0),
        ("cannot be read", "garbage", REQUEST, CA, NAMES, 0),
        ("another key", SIGNED, keys.make_request(keys.make_key(), "hub"), CA, NAMES, 0),
        ("another CA", SIGNED, REQUEST, pki.make_authority("fleet", NOW), NAMES, 0),
        ("names changed", SIGNED, REQUEST, CA, [*NAMES, "192.0.2.11"], 0),
        ("names changed", SIGNED, REQUEST, CA, NAMES[1:], 0),
        ("9 days are left", SIGNED, REQUEST, CA, NAMES, 21),
        ("it is over", SIGNED, REQUEST, CA, NAMES, 31),
    ],
)
def test_a_certificate_is_signed_anew_when_it_will_not_do(
    why: str, present: str, request_: str, authority: pki.Authority, names: list[str], days: int
) -> None:
    assert why in pki.reason_to_sign(present, request_, authority, names, NOW + timedelta(days=days))


@settings(max_examples=15, deadline=None)
@given(st.floats(min_value=0, max_value=40))
def test_a_certificate_is_renewed_when_less_than_a_third_of_its_time_is_left(days: float) -> None:
    says = pki.read_certificate(SIGNED)
    now = NOW + timedelta(days=days)

    assert says.ages(now) == (says.days_left(now) < 30 / 3 + pki.SKEW / timedelta(days=3))


def test_a_certificate_ends_with_its_ca() -> None:
    late = NOW + timedelta(days=pki.AUTHORITY_DAYS - 10)

    assert pki.read_certificate(pki.sign(CA, REQUEST, NAMES, 30, late)).not_after == NOW + timedelta(
        days=pki.AUTHORITY_DAYS
    )
    with pytest.raises(ConfigError, match="is over"):
        pki.sign(CA, REQUEST, NAMES, 30, late + timedelta(days=11))


def test_a_request_that_its_key_did_not_sign_is_refused() -> None:
    body = bytearray(x509.load_pem_x509_csr(REQUEST.encode()).public_bytes(keys.serialization.Encoding.DER))
    body[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(body)).public_bytes(keys.serialization.Encoding.PEM).decode()

    with pytest.raises(ConfigError, match="not signed with its own key"):
        pki.sign(CA, forged, NAMES, 30, NOW)


def test_a_ca_whose_files_do_not_belong_together_signs_nothing() -> None:
    mixed = pki.Authority(CA.certificate, pki.make_authority("other", NOW).key)

    with pytest.raises(ConfigError, match="not that of its certificate"):
        pki.sign(mixed, REQUEST, NAMES, 30, NOW)


@pytest.mark.parametrize("text", ["", "no PEM", CA.certificate])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        keys.make_request(text, "hub")
    with pytest.raises(ConfigError):
        keys.node_public_key(text)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither an address nor a host name"):
        pki.sign(CA, REQUEST, ["sérver"], 30, NOW)
