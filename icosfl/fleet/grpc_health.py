"""Asks a gRPC server for its health with nothing but a socket: `grpc.health.v1.Health/Check`, without TLS.

Loading grpcio takes a third of a second of processor time, more than everything else that a look at a host takes; the
watchdog looks twice a minute, for ever. One request of HTTP/2 needs little of HTTP/2: of the answer only its data
frame counts, and a server that refuses the request sends none.
"""

from __future__ import annotations

import socket
import struct
import time

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_STREAM = 1
_LONGEST_FRAME = 16_384
_MESSAGE_HEAD = 5  # compressed or not, and the length
_STATUS_FIELD = 0x08
_STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


def serving_status(host: str, port: int, service: str, seconds: float) -> str:
    """Return what the server says of a service, such as SERVING; "" when it refuses or does not know.

    Args:
        host: Where it listens.
        port: Where it listens.
        service: "" for the server as a whole.
        seconds: How long it may take altogether.

    Raises:
        OSError: It does not answer, not in time, or not as HTTP/2.
    """
    deadline = time.monotonic() + seconds
    with socket.create_connection((host, port), seconds) as connection:
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, b"") + _request(f"{host}:{port}", service))
        message = b""
        while True:
            kind, flags, stream, payload = _read_frame(connection, deadline)
            if kind == _SETTINGS and not flags & _ACK:
                connection.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                connection.sendall(_frame(_PING, _ACK, 0, payload))
            elif kind == _DATA and stream == _STREAM:
                message += payload
                if len(message) >= _MESSAGE_HEAD and len(message) >= _MESSAGE_HEAD + _length(message):
                    return _status(message[_MESSAGE_HEAD:])
            if kind in {_RESET, _GOAWAY} or (stream == _STREAM and kind in {_DATA, _HEADERS} and flags & _END_STREAM):
                return ""


def _request(authority: str, service: str) -> bytes:
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Check",
        ":authority": authority,
        "te": "trailers",
        "content-type": "application/grpc",
    }
    # Every header literally and without an index, as HPACK allows: no table, no Huffman.
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers.items())
    name = service.encode()
    message = b"\x0a" + bytes([len(name)]) + name if name else b""
    data = b"\x00" + struct.pack(">I", len(message)) + message
    return _frame(_HEADERS, _END_HEADERS, _STREAM, block) + _frame(_DATA, _END_STREAM, _STREAM, data)


def _text(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw  # shorter than 127 bytes, all of ours


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _read_frame(connection: socket.socket, deadline: float) -> tuple[int, int, int, bytes]:
    head = _read(connection, 9, deadline)
    length = int.from_bytes(head[:3], "big")
    if length > _LONGEST_FRAME:
        raise ConnectionError("its answer is not HTTP/2")
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return kind, flags, stream & 0x7FFFFFFF, _read(connection, length, deadline)


def _read(connection: socket.socket, count: int, deadline: float) -> bytes:
    found = b""
    while len(found) < count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionError("it closes the connection without an answer")
        found += part
    return found


def _length(message: bytes) -> int:
    return int.from_bytes(message[1:_MESSAGE_HEAD], "big")


def _status(message: bytes) -> str:
    """Read a HealthCheckResponse: field 1, an enum. It is left out when it is 0, and when the server refuses."""
    known = len(message) > 1 and message[0] == _STATUS_FIELD and message[1] < len(_STATUSES)
    return _STATUSES[message[1]] if known else ""
