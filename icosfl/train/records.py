"""Between Flower's records and the values of `icosfl.train.messages`: the only place that knows how they are packed."""

from __future__ import annotations

import math
import tokenize
from collections.abc import Sequence
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from icosfl.errors import SchemaMismatch
from icosfl.train.messages import Arrays, Refused, Trained, Update, printable

ARRAYS = "arrays"
METRICS = "metrics"
VALUE = "config"
EXAMPLES = "num-examples"
LOSS = "loss"

# Characters of a message's JSON. The longest, scores of a thousand series and horizons, have about 1.5 million.
LONGEST_TEXT = 8_000_000

# Numbers in one array, and its largest dimension: far above any model of ours.
LARGEST_ARRAY = 2**28

_JSON = "json"
_MODEL = "model"
_ERRORS_TOLD = 3
_ERROR_LENGTH = 200
_HEADER_LENGTH = 1000

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
    if len(text) > LONGEST_TEXT:
        raise SchemaMismatch(
            f"the message's {kind.__name__} has {len(text)} characters, at most {LONGEST_TEXT} are read"
        )
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        told = error.errors(include_url=False, include_context=False, include_input=False)[:_ERRORS_TOLD]
        wrong = "; ".join(printable(f"{'.'.join(map(str, e['loc']))}: {e['msg']}"[:_ERROR_LENGTH]) for e in told)
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
    return [_load(name, array) for name, array in record.items()]


def _load(name: str, array: Array) -> NDArray[Any]:
    """An array whose header, fields and length agree; nothing is allocated before they do."""
    file = BytesIO(array.data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise SchemaMismatch(f"array {name} cannot be read: it is not of NumPy's format 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=_HEADER_LENGTH)
    except (TypeError, ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError) as error:
        raise SchemaMismatch(f"array {name} cannot be read: {printable(str(error)[:_ERROR_LENGTH])}") from error
    except (MemoryError, RecursionError) as error:
        raise SchemaMismatch(f"array {name} cannot be read: its header is nested too deeply") from error
    if dtype not in {np.dtype(np.float32), np.dtype(np.float64)}:
        raise SchemaMismatch(f"array {name} cannot be read: it is neither of float32 nor of float64")
    if any(not 0 <= size <= LARGEST_ARRAY for size in shape) or math.prod(shape) > LARGEST_ARRAY:
        raise SchemaMismatch(f"array {name} cannot be read: its shape is out of range")
    if (array.dtype, tuple(array.shape)) != (str(dtype), shape):
        raise SchemaMismatch(f"array {name} cannot be read: its header says another type or shape than its record")
    if len(array.data) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise SchemaMismatch(f"array {name} cannot be read: its length does not fit its shape")
    try:
        return np.asarray(np.load(BytesIO(array.data), allow_pickle=False))
    except ValueError as error:
        raise SchemaMismatch(f"array {name} cannot be read: {printable(str(error)[:_ERROR_LENGTH])}") from error


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
