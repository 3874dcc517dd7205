"""Whole runs in one process with one lying node of five, under every strategy; deployed: tests/federation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict

from icosfl.aggregate import run as runs
from icosfl.aggregate.guards import unfit
from icosfl.aggregate.progress import Finished, RoundDone
from icosfl.aggregate.settings import FEDMEDIAN, FEDTRIMMEDAVG, KRUM, STRATEGIES
from icosfl.errors import ConfigError, RunFailed
from icosfl.schema import Rows
from icosfl.train.artifact import Artifact, load
from icosfl.train.records import ARRAYS, array_record, unpack_arrays
from support import made_up
from support.fake_grid import FakeGrid
from support.one_process import Controller, Worker
from support.poisoned_app import FLIPPED, FLIPPED_SCALED, HONEST, HUGE, NAN, SCALED, poisoned

ROWS = 300
LIAR = "worker-5"
WELL: dict[str, Any] = {"num_server_rounds": 3, "local_epochs": 4, "min_nodes": 3, "warm_start": False}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "report", lambda *_: "")  # drawing takes seconds


def rows(seed: int) -> Rows:
    values = made_up.swings(ROWS, seed)
    times = made_up.START + np.arange(ROWS) * int(made_up.PERIOD * 1e9)
    return Rows(times, np.column_stack([values, np.full(ROWS, np.nan)]))


def five(directory: Path, way: str) -> Controller:
    """A controller and five nodes, the last of which lies in this way in each round."""

    def lie(message: Message, content: RecordDict) -> RecordDict:
        if message.metadata.message_type == "train":
            before, after = unpack_arrays(message.content), unpack_arrays(content)
            content[ARRAYS] = array_record(poisoned(way, before, after))
        return content

    workers = {10 + number: Worker(directory, f"worker-{number}", rows(number)) for number in range(1, 6)}
    workers[15].change = lie
    return Controller(directory, workers, FakeGrid(workers))


def skill(result: Mapping[str, Any]) -> float:
    """Of the model that was handed out: the mean over the honest nodes and horizons."""
    shares = [
        1 - score["errors"]["global"]["rmse"] / score["errors"]["persistence"]["rmse"]
        for node in result["nodes"]
        if node["host"] != LIAR
        for score in node["scores"]["scores"]
        if score["count"] > 0
    ]
    assert len(shares) == 8
    return float(np.mean(shares))


def trained(directory: Path, way: str, **changes: Any) -> tuple[float, list[RoundDone], list[Artifact]]:
    """The skill that a run came to, what its rounds told, and all models that it made."""
    controller = five(directory, way)
    controller.run("1", **(WELL | changes))
    *_, finished = events = controller.events("1")
    assert isinstance(finished, Finished)
    models = [load(file) for file in sorted((directory / "controller" / "models").glob("1-round-*.npz"))]
    return skill(controller.result("1")), [event for event in events if isinstance(event, RoundDone)], models


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("way", [NAN, HUGE])
def test_numbers_that_no_training_gives_enter_no_model_and_their_sender_is_named(
    tmp_path: Path, strategy: str, way: str
) -> None:
    _, rounds, models = trained(tmp_path, way, strategy=strategy, num_server_rounds=2, local_epochs=1)

    for told in rounds:
        assert LIAR not in told.nodes
        assert LIAR in {absent.host for absent in told.left_out}
    assert len(models) == 2
    assert all(unfit(model.shape, list(model.arrays)) is None for model in models)


@pytest.mark.parametrize("strategy", [FEDMEDIAN, FEDTRIMMEDAVG, KRUM])
def test_one_liar_of_five_costs_a_robust_run_no_tenth_of_its_skill(tmp_path: Path, strategy: str) -> None:
    without, *_ = trained(tmp_path / HONEST, HONEST, strategy=strategy)

    with_liar = {way: trained(tmp_path / way, way, strategy=strategy)[0] for way in (FLIPPED, SCALED, FLIPPED_SCALED)}

    assert without > 0
    assert {way for way, reached in with_liar.items() if reached < 0.9 * without} == set(), with_liar


def test_the_same_liar_costs_a_mean_without_a_bound_more(tmp_path: Path) -> None:
    without, *_ = trained(tmp_path / HONEST, HONEST, norm_factor=0.0)
    with_liar, *_ = trained(tmp_path / FLIPPED_SCALED, FLIPPED_SCALED, norm_factor=0.0)

    assert with_liar < 0.9 * without


def test_a_node_whose_update_is_clipped_is_named(tmp_path: Path) -> None:
    _, rounds, _ = trained(tmp_path, SCALED, norm_factor=2.0, num_server_rounds=1, local_epochs=1)

    (absent,) = rounds[0].left_out
    assert absent.host == LIAR
    assert absent.reason.startswith("clipped: ")
    assert LIAR in rounds[0].nodes


def test_too_few_nodes_for_a_vote_fail_the_run_and_it_says_so(tmp_path: Path) -> None:
    controller = five(tmp_path, HONEST)
    for node in (13, 14, 15):
        del controller.grid.nodes[node]

    with pytest.raises(RunFailed, match="2 of at least 3 nodes are ready"):
        controller.run("1", **(WELL | {"strategy": FEDMEDIAN, "min_nodes": 1}))


def test_a_robust_strategy_with_noise_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    controller = five(tmp_path, HONEST)

    with pytest.raises(ConfigError, match="noise-multiplier: krum is no mean"):
        controller.run("1", **WELL, strategy=KRUM, noise_multiplier=1.0)

    assert controller.grid.sent == []


def test_a_run_with_noise_tells_what_its_rounds_cost(tmp_path: Path) -> None:
    _, rounds, _ = trained(tmp_path, HONEST, noise_multiplier=1.0, clipping_norm=0.01, num_server_rounds=2)

    assert [told.epsilon for told in rounds] == [pytest.approx(4.377, rel=1e-3), pytest.approx(6.573, rel=1e-2)]
