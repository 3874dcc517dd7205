"""What the nodes say of a model that was handed out, judged without a grid."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from flwr.app import ConfigRecord, RecordDict

from icosfl.aggregate.handout import Delivery, receipts
from icosfl.schema import Schema, Series
from icosfl.train.artifact import Artifact
from icosfl.train.messages import Received, Refused
from icosfl.train.model import build, to_arrays
from icosfl.train.records import VALUE, pack
from icosfl.train.scores import Errors, Score, Scores, summary
from icosfl.train.shape import ModelShape

SHAPE = ModelShape(network="lstm", series=1, horizons=2, window=5, hidden=4, layers=1)
ARTIFACT = Artifact(
    schema=Schema((Series("cpu_usage", "%"),)),
    period_seconds=3.0,
    horizons=(1, 5),
    season=20,
    train_fraction=0.75,
    shape=SHAPE,
    taught=("cpu_usage",),
    run="1",
    round=2,
    nodes=("worker-1",),
    created="2026-03-01T12:00:00+00:00",
    parent=None,
    arrays=tuple(to_arrays(build(SHAPE, seed=1))),
)


def score(steps: int = 1, **changes: Any) -> Score:
    sound = Score(
        series="cpu_usage",
        unit="%",
        horizon_steps=steps,
        horizon_seconds=3.0 * steps,
        chosen="global",
        validation_count=10,
        count=10,
        errors={"global": Errors(1.0, 2.0, 3.0, None)},
        validation_rmse={"global": 2.0},
        skill={},
        lower=-1.0,
        upper=1.0,
        coverage=0.8,
        width=2.0,
    )
    return replace(sound, **changes)


def receipt(*scores: Score, host: str = "worker-1") -> RecordDict:
    return pack(Received(host, ARTIFACT.digest, Scores(50, 20, scores), "", ()))


def judged(*answers: RecordDict) -> Delivery:
    return receipts(dict(enumerate(answers, start=11)), ARTIFACT, {11: "worker-1", 12: "worker-2"}, [])


def test_scores_of_the_models_series_and_horizons_are_taken() -> None:
    delivery = judged(receipt(score(1), score(5)))

    assert [each.host for each in delivery.received] == ["worker-1"]
    assert delivery.received[0].scores == Scores(50, 20, (score(1), score(5)))
    assert (delivery.received[0].reason, delivery.missing) == ("", ())


@pytest.mark.parametrize(
    ("foreign", "reason"),
    [
        (score(series="gpu_usage"), "scores of 'gpu_usage' in '%' 1 steps ahead, 3 s, which the model does not"),
        (score(unit="W"), "scores of 'cpu_usage' in 'W' 1 steps"),
        (score(steps=2), "2 steps ahead, 6 s, which"),
        (score(horizon_seconds=4.0), "1 steps ahead, 4 s, which"),
        (score(horizon_steps=2**53), f"{2**53} steps ahead"),
        (score(steps=5), "two scores of 'cpu_usage' in '%' 5 steps ahead"),
        (score(series="x" * 1000), f"scores of '{'x' * 60}' in"),
    ],
)
def test_scores_that_the_model_cannot_have_are_dropped_and_named_and_the_receipt_counts(
    foreign: Score, reason: str
) -> None:
    delivery = judged(receipt(score(5), foreign), receipt(score(5), host="worker-2"))

    one, two = delivery.received
    assert (one.host, one.scores) == ("worker-1", None)
    assert reason in one.reason
    assert two.scores is not None
    assert delivery.missing == ()


def test_a_node_that_says_another_name_than_its_own_takes_nobodys_place() -> None:
    refusal = pack(Refused("worker-2", "it is tired", ""))

    for lie in (receipt(score(), host="worker-2"), refusal):
        delivery = judged(lie, receipt(score(5), host="worker-2"))

        assert [(each.host, each.scores) for each in delivery.received] == [("worker-2", Scores(50, 20, (score(5),)))]
        assert [str(absent) for absent in delivery.missing] == ["worker-1: says that it is worker-2"]


def test_a_part_of_a_host_is_known_by_the_name_of_the_part() -> None:
    names = {11: "worker-1", 12: "worker-1/2"}  # the first may not have said yet which part it is
    parts = {11: receipt(score(), host="worker-1/1"), 12: receipt(score(), host="worker-1/2")}

    delivery = receipts(parts, ARTIFACT, names, [])

    assert [each.host for each in delivery.received] == ["worker-1/1", "worker-1/2"]
    assert delivery.missing == ()


def test_numbers_that_would_overflow_in_the_fleets_mean_do_not_end_a_run() -> None:
    def boast(host: str) -> RecordDict:
        record = receipt(score(), host=host)[VALUE]
        assert isinstance(record, ConfigRecord)
        told = json.loads(str(record["json"]))
        told["scores"]["scores"][0]["errors"]["global"]["rmse"] = 1.7e308
        return RecordDict({VALUE: ConfigRecord({"json": json.dumps(told)})})

    delivery = judged(boast("worker-1"), boast("worker-2"), receipt(score(), host="worker-3"))

    assert [each.host for each in delivery.received] == ["worker-3"]
    assert [absent.host for absent in delivery.missing] == ["worker-1", "worker-2"]
    assert all("rmse: Input should be less than or equal to" in absent.reason for absent in delivery.missing)
    (mean,) = summary({each.host: each.scores for each in delivery.received if each.scores})
    assert mean.means["global"].rmse == 2
