"""Attributes as the text that rules are written in, and a short name for what they say. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Attributes = Mapping[str, str]

_DIGEST_BYTES = 16


def read_attributes(items: Iterable[KeyValue]) -> Attributes:
    """Attributes by name; of a name that stands twice the last one counts."""
    return {item.key: _text(item.value) for item in items}


def digest(attributes: Attributes) -> bytes:
    """16 bytes that are the same for the same attributes in any order, and for no others.

    It takes the place of the attributes where they are only compared: it is short however long they are.
    """
    content = json.dumps(sorted(attributes.items())).encode()
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _text(value: AnyValue) -> str:
    """An attribute's value as text.

    A list, map or byte string stands as its encoding: it tells streams apart, but no rule can ask for it.
    """
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "int_value":
            return str(value.int_value)
        case "double_value":
            return repr(value.double_value)
        case None:
            return ""
        case _:
            return value.SerializeToString(deterministic=True).hex()
