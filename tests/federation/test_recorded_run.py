"""A ServerApp that Flower starts records its rounds, beside the report that it draws."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.dataclay_stack import DataclayStack
from support.flower_federation import Federation, running
from support.recorded import READERS

# tensorboard and mlflow use what their own dependencies deprecate
pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::sqlalchemy.exc.SADeprecationWarning"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    rows = {"controller": 300, "worker-1": 300}
    with running(tmp_path_factory.mktemp("recorded"), dataclay_stack, rows) as federation:
        yield federation


@pytest.mark.parametrize("records", READERS)
def test_a_deployed_run_is_recorded_and_reported(
    federation: Federation, capsys: pytest.CaptureFixture[str], records: str
) -> None:
    run = federation.submit(capsys, nodes=1, min_nodes=1, num_server_rounds=2, experiment_records=records)

    code, finish = federation.wait(capsys, run, "--finish")

    assert code == 0, finish
    assert federation.result(run)["troubles"] == {"report": "", "records": ""}
    told = [federation.wait(capsys, run, "--round", str(number))[1] for number in (1, 2)]
    found = READERS[records](federation.runs_dir, run)
    assert found["loss"] == [(number, round(each["loss"], 6)) for number, each in zip((1, 2), told, strict=True)]
    assert [step for step, _ in found["skill_by_node/worker-1"]] == [0, 1]
    assert found["handed_out/skill"] == [(2, round(finish["skill"], 6))]
    assert (federation.runs_dir / run / "report.html").stat().st_size > 10_000
