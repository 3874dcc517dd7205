"""A check of the model through Flower's real processes: whether it is still good on rows that came since."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from icosfl.config import NodeConfig, schema_of
from icosfl.schema import Rows
from icosfl.store import open_store
from support.dataclay_stack import DataclayStack
from support.flower_federation import PERIOD, Federation, running

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("check"), dataclay_stack) as federation:
        yield federation


def come(node: NodeConfig, count: int) -> None:
    """Let more rows come, from now on and faster than they would: the same wave, or for worker-2 another load."""
    steps = np.arange(count)
    random = np.random.default_rng(5)
    wave = 50 + 30 * np.sin(steps / 15) + random.normal(0, 2, count)
    cpu = wave if node.host != "worker-2" else 50 + np.cumsum(random.normal(0, 5, count))
    times = time.time_ns() + ((steps + 1) * int(PERIOD * 1e9)).astype(np.int64)
    with open_store(node.store, schema_of(node.series)) as store:
        store.append(Rows(times, np.column_stack([cpu, np.full(count, np.nan)])))


def test_a_check_tells_how_good_the_model_is_on_rows_that_came_since_and_trains_nothing(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    code, trained = federation.wait(capsys, federation.submit(capsys, nodes=3, num_server_rounds=1), "--finish")
    assert code == 0, trained

    early = federation.submit(capsys, nodes=3, purpose="check")
    code, answer = federation.wait(capsys, early, "--finish")
    assert code == 0, answer
    assert answer["skill"] is None
    assert "no verdict: 0 windows of rows after" in answer["line"]

    for host in ("worker-1", "worker-2"):
        come(federation.nodes[host], 120)
    later = federation.submit(capsys, nodes=3, purpose="check")
    code, answer = federation.wait(capsys, later, "--finish")

    assert code == 0, answer
    assert answer["digest"] == trained["digest"]
    assert answer["nodes"] == ["worker-1", "worker-2"]
    assert [absent["host"] for absent in answer["left_out"]] == ["worker-3"]
    result = federation.result(later)
    skills = {node["host"]: (node["skill"], node["skill_before"]) for node in result["nodes"]}
    assert skills["worker-1"][0] > 0.2
    assert skills["worker-2"][0] < skills["worker-2"][1] - 0.2  # another load than it was taught
    assert result["skill"] == pytest.approx((skills["worker-1"][0] + skills["worker-2"][0]) / 2)
    after = federation.model("worker-1")
    assert after is not None
    assert after.digest == trained["digest"]
