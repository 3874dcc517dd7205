"""The CA and its certificates, as functions on PEM texts: what is signed for whom, and when it must be signed anew.

A key is made where it stays: the CA's on the control node, a service's and a node's on its host. Only requests,
certificates and public keys travel.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from icosfl.errors import ConfigError
from icosfl.fleet.keys import ANEW, common_name, private_key, private_pem

AUTHORITY_DAYS = 3650
# A host's clock may be behind the control node's: a certificate holds from a little before now.
SKEW = timedelta(minutes=5)
# Renewed as soon as less than this share of its time is left.
RENEW_SHARE = 1 / 3
ALWAYS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Authority:
    """The fleet's CA: its certificate and its private key, as PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says.

    Args:
        subject: Its common name.
        issuer: The common name of who signed it.
        names: The host names and addresses that it holds for.
        not_before: From when.
        not_after: Until when.
    """

    subject: str
    issuer: str
    names: frozenset[str]
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime) -> float:
        """How many days it still holds; negative when it is over."""
        return (self.not_after - now) / timedelta(days=1)

    def ages(self, now: datetime) -> bool:
        """Whether less than a third of its time is left."""
        return self.not_after - now < (self.not_after - self.not_before) * RENEW_SHARE


def make_authority(name: str, now: datetime, key: ec.EllipticCurvePrivateKey | None = None) -> Authority:
    """Make a CA's certificate, and its key unless there is one."""
    key = key or ec.generate_private_key(ec.SECP384R1())
    subject = common_name(name)
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(subject, subject, key.public_key(), now, now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    return Authority(_pem(certificate), private_pem(key))


def sign(authority: Authority, request: str, names: Sequence[str], days: float, now: datetime) -> str:
    """Sign a request for a TLS server, which the certificate makes no client; never beyond the CA's own end.

    Args:
        authority: The CA.
        request: The host's request; only its name and its public key are taken from it.
        names: The host names and addresses at which clients call the service.
        days: How long the certificate holds.
        now: What the clock says.

    Raises:
        ConfigError: the request is none, its signature is not its key's, or the CA's files do not belong together.
    """
    held = x509.SubjectAlternativeName([_general(name) for name in sorted(set(names))])
    return _signed(authority, request, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), held], days, now)


def sign_client(authority: Authority, request: str, days: float, now: datetime) -> str:
    """Sign a request for a TLS client, which the certificate makes no server; it is known by its common name.

    Raises:
        ConfigError: as for `sign`.
    """
    return _signed(authority, request, [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])], days, now)


def read_certificate(pem: str) -> Certificate:
    """What a certificate says.

    Raises:
        ConfigError: the text is no certificate.
    """
    return _read(_certificate(pem))


def names_of(*names: str) -> tuple[str, ...]:
    """The names of a service: those given, each once, and those by which its own host calls it."""
    return tuple(dict.fromkeys(str(name) for name in (*names, *ALWAYS) if name))


def reason_to_sign(present: str, request: str, authority: Authority | str, names: Sequence[str], now: datetime) -> str:
    """Why the present certificate will not do; "" when it will.

    Args:
        present: The certificate that the host has; "" for none.
        request: The host's request, for the key that it has now.
        authority: The CA, or its certificate.
        names: The names that the certificate must hold for, no more and no fewer.
        now: What the clock says.

    Raises:
        ConfigError: the request or the CA cannot be read.
    """
    asked = _request(request)
    signer = _certificate(authority if isinstance(authority, str) else authority.certificate)
    if not present.strip():
        return "there is none yet"
    try:
        found = _certificate(present)
    except ConfigError:
        return "the present one cannot be read"
    says = _read(found)
    left = says.days_left(now)
    reasons = {
        "the host has another key": found.public_key() != asked.public_key(),
        "another CA signed it": not _issued(found, signer),
        "the host's names changed": says.names != {_canonical(name) for name in names},
        f"{left:.0f} days are left" if left > 0 else "it is over": says.ages(now),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _signed(authority: Authority, request: str, uses: Sequence[x509.ExtensionType], days: float, now: datetime) -> str:
    asked = _request(request)
    signer, key = _certificate(authority.certificate), private_key(authority.key)
    if signer.public_key() != key.public_key():
        raise ConfigError("the CA's key is not that of its certificate", cure="restore both from the same backup")
    ends = min(now + timedelta(days=days), signer.not_valid_after_utc)
    if ends <= now:
        raise ConfigError("the CA's certificate is over", cure="remove its directory, and run site.yml for all hosts")
    public = asked.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ConfigError("a request's key is not of an elliptic curve", cure=ANEW)
    certificate = (
        _builder(asked.subject, signer.subject, public, now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(_identifier(signer), critical=False)
    )
    for extension in uses:
        certificate = certificate.add_extension(extension, critical=False)
    return _pem(certificate.sign(key, hashes.SHA384()))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(ends)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _identifier(signer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    known = signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)


def _issued(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read(certificate: x509.Certificate) -> Certificate:
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = frozenset(str(name.value) for name in held)
    except x509.ExtensionNotFound:
        names = frozenset()
    return Certificate(
        subject=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        names=names,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _request(pem: str) -> x509.CertificateSigningRequest:
    try:
        request = x509.load_pem_x509_csr(pem.encode())
    except ValueError as error:
        raise ConfigError("a host's request for a certificate cannot be read", cure="run the play again") from error
    if not request.is_signature_valid:
        raise ConfigError("a host's request is not signed with its own key", cure="run the play again")
    return request


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise ConfigError("a certificate cannot be read", cure=ANEW) from error


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _canonical(name: str) -> str:
    return str(_general(name).value)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise ConfigError(
            f"{name!r} is neither an address nor a host name in ASCII", cure="correct icosfl_address or the host's name"
        ) from error
