"""One of five nodes of a deployed federation lies: it sends NaN, then huge numbers, then its update turned round."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icosfl.aggregate.guards import unfit
from icosfl.train.artifact import Artifact, load
from support import poisoned_app
from support.dataclay_stack import DataclayStack
from support.flower_federation import Federation, running
from support.poisoned_app import FLIPPED_SCALED, HONEST, HUGE, NAN, POISON, POISONED_HOST

pytestmark = [pytest.mark.timeout(600)]

HONEST_HOSTS = ("worker-1", "worker-2", "worker-3", "worker-4")
LIAR = "worker-5"
ROWS = dict.fromkeys(("controller", *HONEST_HOSTS, LIAR), 300)
WAYS = (NAN, HUGE, FLIPPED_SCALED)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("poisoned"), dataclay_stack, ROWS) as federation:
        poison(federation.directory / "app")
        yield federation


def poison(app: Path) -> None:
    """Let a copy of the app ask the liar."""
    shutil.copy(str(poisoned_app.__file__), app / "icosfl/train/poisoned_app.py")
    file = app / "pyproject.toml"
    sound = file.read_text(encoding="utf-8")
    asked = sound.replace("icosfl.train.client_app:app", "icosfl.train.poisoned_app:app")
    asked = asked.replace("[tool.flwr.app.config]\n", f'[tool.flwr.app.config]\n{POISON} = ""\n{POISONED_HOST} = ""\n')
    assert len(asked) > len(sound) + len(POISON)
    file.write_text(asked, encoding="utf-8")


def trained(
    federation: Federation, capsys: pytest.CaptureFixture[str], ways: tuple[str, ...], **changes: object
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Artifact]]:
    """A run of as many rounds as the liar has ways: its result, and what each round told and made."""
    changes |= {POISON: ",".join(ways), POISONED_HOST: LIAR, "num-server-rounds": len(ways), "min-nodes": 3}
    changes |= {"warm-start": False, "local-epochs": 6, "learning-rate": 0.01}
    run = federation.submit(capsys, nodes=5, **changes)
    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    numbers = range(1, len(ways) + 1)
    told = [federation.wait(capsys, run, "--round", str(number))[1] for number in numbers]
    directory = federation.nodes["controller"].models_dir
    return federation.result(run), told, [load(directory / f"{run}-round-{number:04d}.npz") for number in numbers]


def skill(result: dict[str, Any]) -> float:
    """Of the model that was handed out, the mean over the honest nodes, series and horizons."""
    shares = [
        1 - score["errors"]["global"]["rmse"] / score["errors"]["persistence"]["rmse"]
        for node in result["nodes"]
        if node["host"] in HONEST_HOSTS
        for score in node["scores"]["scores"]
        if score["count"] > 0
    ]
    assert len(shares) == 2 * len(HONEST_HOSTS)
    return float(np.mean(shares))


def reasons(round_told: dict[str, Any]) -> dict[str, str]:
    return {absent["host"]: absent["reason"] for absent in round_told["left_out"]}


def test_one_liar_of_five_neither_gets_wild_numbers_into_a_model_nor_costs_a_tenth_of_its_skill(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    clean, _, clean_models = trained(federation, capsys, (HONEST,) * len(WAYS), strategy="fedmedian")
    attacked, told, models = trained(federation, capsys, WAYS, strategy="fedmedian")
    fooled, _, fooled_models = trained(federation, capsys, (FLIPPED_SCALED,), strategy="fedavg", norm_factor=0.0)

    assert [sorted(each["nodes"]) for each in told[:2]] == [list(HONEST_HOSTS)] * 2
    assert "not finite" in reasons(told[0])[LIAR]
    assert "no weight is larger" in reasons(told[1])[LIAR]
    assert sorted(told[2]["nodes"]) == [*HONEST_HOSTS, LIAR]  # nothing is wrong with that update but its direction
    for model in (*clean_models, *models, *fooled_models):
        assert unfit(model.shape, list(model.arrays)) is None
    without, with_liar = skill(clean), skill(attacked)
    with capsys.disabled():
        print(f"\nskill: fedmedian {without:.4f}, with the liar {with_liar:.4f}; fedavg with it {skill(fooled):.4f}")  # noqa: T201
    assert without > 0
    assert with_liar >= 0.9 * without
    # What the same lie does to a mean: all runs began with the same weights.
    assert away(fooled_models[0], clean_models[0]) > 3 * away(models[0], clean_models[0])


def away(one: Artifact, other: Artifact) -> float:
    """How far a model's network is from another's."""
    pairs = zip(one.arrays[1:], other.arrays[1:], strict=True)
    return float(np.sqrt(sum(np.square(a - b).sum() for a, b in pairs)))
