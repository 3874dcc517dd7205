from __future__ import annotations

import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from icosfl.bridge.attributes import Attributes, digest, read_attributes


def read(*items: dict[str, object]) -> Attributes:
    return read_attributes(ParseDict(item, KeyValue()) for item in items)


def test_attributes_of_any_kind_are_written_as_text() -> None:
    attributes = read(
        {"key": "bool", "value": {"boolValue": True}},
        {"key": "int", "value": {"intValue": "3"}},
        {"key": "double", "value": {"doubleValue": 0.5}},
        {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "a"}]}}},
        {"key": "nothing"},
    )

    assert attributes["list"] not in ("", "a")
    assert dict(attributes) == {"bool": "true", "int": "3", "double": "0.5", "list": attributes["list"], "nothing": ""}


def test_of_a_name_that_stands_twice_the_last_counts() -> None:
    assert read({"key": "a", "value": {"stringValue": "x"}}, {"key": "a", "value": {"stringValue": "y"}}) == {"a": "y"}


def test_a_digest_is_that_of_the_attributes_in_any_order() -> None:
    assert digest({"a": "b", "c": "d"}) == digest({"c": "d", "a": "b"})


@pytest.mark.parametrize(
    "other", [{}, {"a": "b"}, {"ab": "", "c": "d"}, {"a": "b", "c": "e"}, {"a": "d", "c": "b"}, {"a": 'b", "c": "d'}]
)
def test_digests_of_other_attributes_differ(other: dict[str, str]) -> None:
    assert digest(other) != digest({"a": "b", "c": "d"})
