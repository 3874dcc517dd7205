"""Whether an Ed25519 signature is good (RFC 8032), in plain Python: a bare host has no library that could tell.

Runs on hosts before anything is installed there: the standard library only, Python 3.9. Checking handles no secret, so
its time may depend on what it reads; signing does, and is done with `cryptography` in `bundle_signing`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

Point = tuple[int, int, int, int]  # extended homogeneous coordinates

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_ROOT_OF_MINUS_1 = pow(2, (_P - 1) // 4, _P)
_KEY_BYTES = 32
_SIGNATURE_BYTES = 64


def is_signed(message: bytes, signature: bytes, public_key: str) -> bool:
    """Tell whether who owns the key signed the message.

    Args:
        message: What was signed.
        signature: 64 bytes.
        public_key: 32 bytes in base64.

    Raises:
        ValueError: That is no public key.
    """
    key = key_bytes(public_key)
    owner = _point(key)
    if owner is None:
        raise ValueError("the public key is no point of the curve")
    if len(signature) != _SIGNATURE_BYTES:
        return False
    commitment = _point(signature[:_KEY_BYTES])
    scalar = int.from_bytes(signature[_KEY_BYTES:], "little")
    if commitment is None or scalar >= _ORDER:
        return False
    digest = hashlib.sha512(signature[:_KEY_BYTES] + key + message).digest()
    challenge = int.from_bytes(digest, "little") % _ORDER
    return _same(_times(scalar, _BASE), _plus(commitment, _times(challenge, owner)))


def key_bytes(public_key: str) -> bytes:
    """Return the 32 bytes of a public key.

    Raises:
        ValueError: The text is not 32 bytes in base64.
    """
    try:
        key = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ValueError("a public key is 32 bytes in base64, 44 characters")
    return key


def _x_of(y: int, sign: int) -> int | None:
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if square == 0:
        return None if sign else 0
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P != 0:
        x = x * _ROOT_OF_MINUS_1 % _P
    if (x * x - square) % _P != 0:
        return None
    return _P - x if (x & 1) != sign else x


def _point(encoded: bytes) -> Point | None:
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = _x_of(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _plus(left: Point, right: Point) -> Point:
    a = (left[1] - left[0]) * (right[1] - right[0]) % _P
    b = (left[1] + left[0]) * (right[1] + right[0]) % _P
    c = 2 * left[3] * right[3] * _D % _P
    d = 2 * left[2] * right[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(scalar: int, point: Point) -> Point:
    total: Point = (0, 1, 1, 0)
    while scalar > 0:
        if scalar & 1:
            total = _plus(total, point)
        point = _plus(point, point)
        scalar >>= 1
    return total


def _same(left: Point, right: Point) -> bool:
    return (left[0] * right[2] - right[0] * left[2]) % _P == 0 and (left[1] * right[2] - right[1] * left[2]) % _P == 0


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _x_of(_BASE_Y, 0) or 0
_BASE: Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)
