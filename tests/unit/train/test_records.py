from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from icosfl.errors import SchemaMismatch
from icosfl.train.messages import (
    Check,
    Checked,
    Handout,
    Level,
    Question,
    Received,
    Refused,
    Standing,
    Task,
    Trained,
    Update,
)
from icosfl.train.records import (
    ARRAYS,
    EXAMPLES,
    LONGEST_TEXT,
    METRICS,
    VALUE,
    pack,
    pack_model,
    pack_update,
    unpack,
    unpack_model,
    unpack_reply,
    unpack_update,
)
from icosfl.train.scores import Errors, Score, Scores
from support.made_up import QUESTION

ERRORS = {name: Errors(1.0, 1.5, 20.0, None) for name in ("global", "persistence")}
SCORE = Score(
    "cpu_usage", "%", 1, 3.0, "persistence", 9, 10, ERRORS, {"global": 1.0}, {"persistence": None}, -1.0, 1.0, 0.8, 2.0
)
SCORES = Scores(50, 19, (SCORE,))
LEVEL = Level("cpu_usage", 1, 9, 1.0, 1.5)
VALUES: list[Any] = [
    QUESTION,
    Standing("a", 5, 10, 7, 3, ("cpu_usage",), ""),
    Task("run/1", 1, QUESTION, 1_800_000_000_000_000_001, 1_800_000_000_000_000_007, 0.003, 0.1),
    Handout(None, None, 20),
    Handout(5, 7, 20),
    Received("a", "d", SCORES, "", (LEVEL,)),
    Received("a", "d", None, "no rows", ()),
    Check("d", 3600.0),
    Checked("a", "d", (LEVEL,), (), 96, 1_800_000_000_000_000_001, 2.5),
    Refused("a", "no rows", "wait"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_as_it_was_packed(value: Any) -> None:
    assert unpack(pack(value), type(value)) == value


def test_a_refusal_is_told_apart_from_the_answer_that_was_hoped_for() -> None:
    refused = Refused("a", "no rows", "wait")

    assert unpack_reply(pack(refused), Standing) == refused
    assert unpack_reply(pack(VALUES[1]), Standing) == VALUES[1]


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"config": ConfigRecord({"json": b"{}"})}),
        RecordDict({"config": ConfigRecord({"json": "no json"})}),
        RecordDict({"config": ConfigRecord({"json": '{"series": [], "period_seconds": "often"}'})}),
    ],
)
def test_content_that_is_no_question_is_refused_by_name(content: RecordDict) -> None:
    with pytest.raises(SchemaMismatch, match="Question"):
        unpack(content, Question)


@pytest.mark.parametrize("scores", [{"scores": [{"rmse": 1.5}]}, "good", {"train_windows": 1, "scores": []}])
def test_scores_that_are_none_are_refused_when_they_come(scores: object) -> None:
    content = RecordDict({VALUE: ConfigRecord({"json": json.dumps(asdict(VALUES[5]) | {"scores": scores})})})

    with pytest.raises(SchemaMismatch, match="no sound Received: scores"):
        unpack(content, Received)


def update() -> Update:
    return Update(
        Trained("a", "run/1", 0.5, 1.0, (LEVEL,)), [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3)], 12
    )


def test_an_update_comes_back_with_its_arrays_and_examples() -> None:
    back = unpack_update(pack_update(update()))

    assert isinstance(back, Update)
    assert (back.trained, back.examples) == (update().trained, 12)
    for array, original in zip(back.arrays, update().arrays, strict=True):
        np.testing.assert_array_equal(array, original)
        assert array.dtype == original.dtype


def test_an_update_whose_arrays_stand_in_another_order_is_refused() -> None:
    content = pack_update(update())
    record = content.array_records[ARRAYS]
    content[ARRAYS] = ArrayRecord({key: record[key] for key in reversed(list(record))})

    with pytest.raises(SchemaMismatch, match="order"):
        unpack_update(content)


def test_an_update_with_arrays_that_cannot_be_read_is_refused() -> None:
    content = pack_update(update())
    content.array_records[ARRAYS]["0"].data = b"\x93NUMPY broken"

    with pytest.raises(SchemaMismatch, match="cannot be read"):
        unpack_update(content)


def test_an_update_with_two_models_is_refused() -> None:
    content = pack_update(update())
    content["more"] = ArrayRecord([np.ones(3)])

    with pytest.raises(SchemaMismatch, match="one model"):
        unpack_update(content)


@pytest.mark.parametrize("metrics", [{}, {EXAMPLES: 12.5, "loss": 0.1}, {EXAMPLES: 12, "loss": 0.1, "more": 1}])
def test_an_update_whose_metrics_flower_could_not_average_is_refused(metrics: dict[str, Any]) -> None:
    content = pack_update(update())
    content[METRICS] = MetricRecord(metrics)

    with pytest.raises(SchemaMismatch, match=EXAMPLES):
        unpack_update(content)


def test_a_model_file_travels_beside_a_value() -> None:
    content = pack_model(Handout(5, None, 20), b"\x00model")

    assert unpack(content, Handout) == Handout(5, None, 20)
    assert unpack_model(content) == b"\x00model"


def test_a_hand_out_without_a_model_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="no model"):
        unpack_model(pack(Handout(5, None, 20)))


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "data",
    [
        header("(4000000000000,)"),
        header(f"({2**70},)"),
        header(f"(0, {2**70})"),
        header("(-1, -1)") + bytes(4),
        header("(2, 3)", "'|O'"),
        header("(2, 3)", "'<f4"),
        header("(2, 3"),
        header("(2, 3)") + bytes(25),
        header("(3, 2)") + bytes(24),
        header("(" * 400),
        b"PK\x03\x04 no archive",
        b"",
    ],
)
def test_an_array_that_lies_about_itself_is_refused_by_name_before_it_is_made(data: bytes) -> None:
    content = pack_update(update())
    content.array_records[ARRAYS]["0"].data = data

    with pytest.raises(SchemaMismatch, match="array 0 cannot be read"):
        unpack_update(content)


def test_a_text_without_end_is_refused_unread() -> None:
    content = RecordDict({VALUE: ConfigRecord({"json": " " * (LONGEST_TEXT + 1)})})

    with pytest.raises(SchemaMismatch, match="at most"):
        unpack(content, Standing)


def test_of_many_errors_the_first_are_told() -> None:
    wrong = {f"{number}\x1b" + "x" * 9999: 1 for number in range(50)}

    with pytest.raises(SchemaMismatch) as told:
        unpack(RecordDict({VALUE: ConfigRecord({"json": json.dumps(wrong)})}), Standing)

    assert len(str(told.value)) < 2000
    assert "\x1b" not in str(told.value)


def test_no_escape_sequence_of_a_node_reaches_a_terminal_and_its_reason_is_cut() -> None:
    refused = Refused("a\x1b[2J", "\x1b]0;" + "x" * 5000, "wait\nlong")

    assert refused.host == "a\\x1b[2J"
    assert "\x1b" not in refused.reason
    assert len(refused.reason) == 2000
    assert refused.cure == "wait long"


@pytest.mark.parametrize(
    ("value", "claim"),
    [
        (VALUES[1], {"rows": -1}),
        (VALUES[1], {"train_windows": 2**60}),
        (VALUES[1], {"newest": 2**63}),
        (VALUES[1], {"host": "a" * 301}),
        (update().trained, {"loss": 1e300}),
        (update().trained, {"seconds": -1}),
    ],
)
def test_a_claim_out_of_its_range_is_refused(value: Any, claim: dict[str, Any]) -> None:
    content = RecordDict({VALUE: ConfigRecord({"json": json.dumps(asdict(value) | claim)})})

    with pytest.raises(SchemaMismatch, match=next(iter(claim))):
        unpack(content, type(value))
