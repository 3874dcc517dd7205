"""Private keys, made where they stay, and what of them may travel: public halves and requests for certificates."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from icosfl.errors import ConfigError

ANEW = "delete the file; site.yml makes it anew"


def make_key() -> str:
    """Make a private key of an EC curve that TLS and Flower take, as PEM without a passphrase."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def make_node_key() -> str:
    """Make a SuperNode's private key, in the OpenSSH form that Flower reads."""
    return (
        ec.generate_private_key(ec.SECP384R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        .decode()
    )


def node_public_key(key: str) -> str:
    """The public half of a SuperNode's key, as PEM: by it the SuperLink knows the node.

    Raises:
        ConfigError: the text is no such key.
    """
    try:
        private = serialization.load_ssh_private_key(key.encode(), password=None)
    except ValueError as error:
        raise ConfigError("a SuperNode's key cannot be read", cure=ANEW) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ConfigError("a SuperNode's key is not of an elliptic curve", cure=ANEW)
    return public_pem(private.public_key())


def make_request(key: str, name: str) -> str:
    """Ask for a certificate of a service's key: what the CA signs is the public half only.

    Raises:
        ConfigError: the text is no private key.
    """
    private = private_key(key)
    request = x509.CertificateSigningRequestBuilder().subject_name(common_name(name)).sign(private, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """A public key as PEM."""
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, spki).decode()


def private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    """Read a private key.

    Raises:
        ConfigError: the text is none, or not of an elliptic curve.
    """
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError("a private key cannot be read", cure="restore it, or delete it to have a new one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError("a private key is not of an elliptic curve", cure=ANEW)
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as PEM, without a passphrase."""
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()).decode()


def common_name(common: str) -> x509.Name:
    """A name of X.509 with nothing but this."""
    # X.509 takes 64 characters; the whole name stands among the alternative names.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])
