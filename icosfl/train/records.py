"""Between Flower's records and the values of `icosfl.train.messages`: the only place that knows how they are packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from icosfl.errors import SchemaMismatch
from icosfl.train.messages import Arrays, Refused, Trained, Update

ARRAYS = "arrays"
METRICS = "metrics"
VALUE = "config"
EXAMPLES = "num-examples"
LOSS = "loss"

_JSON = "json"
_MODEL = "model"

T = TypeVar("T")


def pack(value: object) -> RecordDict:
    """A value of `icosfl.train.messages` alone."""
    return RecordDict({VALUE: value_record(value)})


def value_record(value: object) -> ConfigRecord:
    """A value as the record that carries it."""
    return ConfigRecord({_JSON: TypeAdapter(type(value)).dump_json(value).decode()})


def unpack(content: RecordDict, kind: type[T]) -> T:
    """The value of this kind in a message or reply.

    Raises:
        SchemaMismatch: there is none.
    """
    record = content.get(VALUE)
    text = record.get(_JSON) if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        raise SchemaMismatch(f"the message carries no {kind.__name__}")
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise SchemaMismatch(f"the message carries no sound {kind.__name__}: {wrong}") from error


def unpack_reply(content: RecordDict, kind: type[T]) -> T | Refused:
    """The value of this kind in a reply, or the node's refusal.

    Raises:
        SchemaMismatch: it is neither.
    """
    try:
        return unpack(content, Refused)
    except SchemaMismatch:
        return unpack(content, kind)


def pack_arrays(value: object, arrays: ArrayRecord) -> RecordDict:
    """A value with a model's arrays."""
    return RecordDict({ARRAYS: arrays, VALUE: value_record(value)})


def array_record(arrays: Sequence[NDArray[Any]]) -> ArrayRecord:
    """A model's arrays as the record that carries them."""
    return ArrayRecord(numpy_ndarrays=list(arrays))


def unpack_arrays(content: RecordDict) -> Arrays:
    """A model's arrays.

    Raises:
        SchemaMismatch: there are none, or they cannot be read.
    """
    record = content.get(ARRAYS)
    if not isinstance(record, ArrayRecord) or len(content.array_records) != 1:
        raise SchemaMismatch("the message does not carry the arrays of one model")
    if list(record) != list(array_record([np.empty(0)] * len(record))):
        raise SchemaMismatch("the message's arrays are not in their order")
    try:
        return [np.asarray(array) for array in record.to_numpy_ndarrays()]
    except (TypeError, ValueError, EOFError) as error:
        raise SchemaMismatch(f"the message's arrays cannot be read: {error}") from error


def pack_update(update: Update) -> RecordDict:
    """A trained model, as Flower's FedAvg wants it."""
    content = pack_arrays(update.trained, array_record(update.arrays))
    content[METRICS] = MetricRecord({EXAMPLES: update.examples, LOSS: update.trained.loss})
    return content


def unpack_update(content: RecordDict) -> Update | Refused:
    """A trained model, or the node's refusal.

    Raises:
        SchemaMismatch: it is neither.
    """
    trained = unpack_reply(content, Trained)
    if isinstance(trained, Refused):
        return trained
    metrics = content.get(METRICS)
    if not isinstance(metrics, MetricRecord) or len(content.metric_records) != 1 or set(metrics) != {EXAMPLES, LOSS}:
        raise SchemaMismatch(f"the reply does not carry {EXAMPLES} and {LOSS} alone")
    examples = metrics[EXAMPLES]
    if not isinstance(examples, int):
        raise SchemaMismatch(f"the reply's {EXAMPLES} is no whole number")
    return Update(trained, unpack_arrays(content), examples)


def pack_model(value: object, model: bytes) -> RecordDict:
    """A value with the bytes of a model file."""
    content = pack(value)
    content[_MODEL] = ConfigRecord({_MODEL: model})
    return content


def unpack_model(content: RecordDict) -> bytes:
    """The bytes of a model file.

    Raises:
        SchemaMismatch: there are none.
    """
    record = content.get(_MODEL)
    model = record.get(_MODEL) if isinstance(record, ConfigRecord) else None
    if not isinstance(model, bytes):
        raise SchemaMismatch("the message carries no model")
    return model
