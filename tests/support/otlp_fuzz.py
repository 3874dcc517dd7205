"""What must hold for any bytes that somebody sends to the bridge: shared by the fuzz test and by `make fuzz`."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from icosfl.bridge.batch import Batch, Reader, explain
from icosfl.bridge.rules import compile_rules
from support.otlp_reference import read_plainly
from support.otlp_requests import FUTURE, NOW, RULES, SCHEMA

TOLERANCE = 5


def new_reader() -> Reader:
    return Reader(compile_rules(RULES, SCHEMA), len(SCHEMA), TOLERANCE, FUTURE)


def check(reader: Reader, body: bytes) -> Batch | None:
    """Read the bytes and hold the outcome against what the official classes say; None for bytes that are refused.

    The reader may take what these refuse, for it looks at nothing that no rule asks for.
    """
    official = is_official(body)
    try:
        batch = reader.read(body, NOW)
    except DecodeError:
        assert not official, "a valid request is refused"
        return None
    assert batch.rows.width == len(SCHEMA)
    assert not np.isinf(batch.rows.values).any()
    assert batch.points == batch.stored + sum(batch.dropped.values())
    assert all(count > 0 for count in batch.dropped.values())
    assert bool(explain(batch)) == (batch.rejected > 0)
    if official:
        plain = read_plainly(body, RULES, SCHEMA, TOLERANCE, NOW + FUTURE)
        assert (batch.stored, batch.dropped) == (plain.stored, plain.dropped)
        assert batch.rows.times.tolist() == plain.times
        np.testing.assert_array_equal(batch.rows.values, np.reshape(plain.values, (-1, len(SCHEMA))))
        assert list(batch.strangers) == plain.strangers
    return batch


def is_official(body: bytes) -> bool:
    try:
        ExportMetricsServiceRequest.FromString(body)
    except DecodeError:
        return False
    return True
