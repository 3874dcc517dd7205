"""A federation of real Flower processes and real object stores, on rows that were made up."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from icosfl.errors import RunFailed
from support.dataclay_stack import DataclayStack
from support.flower_federation import ROWS, Federation, running

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("federation"), dataclay_stack) as federation:
        yield federation


def test_a_run_trains_says_what_it_does_and_hands_the_model_out(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    run = federation.submit(capsys, nodes=3, num_server_rounds=2)

    code, ready = federation.wait(capsys, run, "--ready")
    assert code == 0, ready
    assert [node["host"] for node in ready["nodes"]] == ["worker-1", "worker-2"]
    assert [absent["host"] for absent in ready["left_out"]] == ["worker-3"]
    assert "there are 20 rows" in ready["left_out"][0]["reason"]
    assert ready["warm_start"] is None

    told = [federation.wait(capsys, run, "--round", str(number)) for number in (1, 2)]
    assert [code for code, _ in told] == [0, 0], told
    assert told[1][1]["line"].startswith("round 2/2: 2 nodes (worker-1, worker-2), loss ")
    scores = told[1][1]["evaluation"]["scores"]["scores"]
    cpu = next(score for score in scores if score["series"] == "cpu_usage" and score["horizon_steps"] == 10)
    power = next(score for score in scores if score["series"] == "power")
    assert cpu["count"] > 30
    assert set(cpu["errors"]) == {"global", "persistence", "moving_average", "ar", "nlinear"}  # no season in 15 min
    assert cpu["chosen"] in cpu["errors"]
    assert power["count"] == 0

    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    assert finish["nodes"] == ["worker-1", "worker-2", "worker-3"]
    models = {host: federation.model(host) for host in ROWS}
    assert {model.digest for model in models.values() if model} == {finish["digest"]}
    assert models["worker-3"] is not None
    assert models["worker-3"].nodes == ("worker-1", "worker-2")
    result = federation.result(run)
    assert [node["host"] for node in result["nodes"] if node["scores"]] == ["worker-1", "worker-2"]
    assert "20 rows" in result["nodes"][2]["reason"]
    assert {(each["series"], each["nodes"]) for each in result["summary"]} == {("cpu_usage", 2)}


def test_a_run_with_too_few_ready_nodes_fails_and_says_who_lacks_what(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    before = federation.model("controller")
    run = federation.submit(capsys, nodes=3, min_nodes=3)

    code, answer = federation.wait(capsys, run, "--round", "1")

    assert code == RunFailed.exit_code
    assert answer["error"].startswith("2 of at least 3 nodes are ready: worker-3: ")
    after = federation.model("controller")
    assert (after and after.digest) == (before and before.digest)


def test_a_superlink_that_gets_a_new_certificate_in_the_middle_of_a_run_loses_no_round(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    run = federation.submit(capsys, nodes=3, num_server_rounds=3)
    code, first = federation.wait(capsys, run, "--round", "1")
    assert code == 0, first

    old = federation.flower.identities.certificate.read_text(encoding="utf-8")
    federation.flower.identities.renew()
    federation.flower.restart("superlink")

    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    told = [federation.wait(capsys, run, "--round", str(number))[1] for number in (1, 2, 3)]
    assert [sorted(each["nodes"]) for each in told] == [["worker-1", "worker-2"]] * 3, told
    assert finish["nodes"] == ["worker-1", "worker-2", "worker-3"]
    control = federation.flower.control
    shown = ssl.get_server_certificate((control.host, control.port), ca_certs=str(federation.flower.identities.ca))
    assert old.strip() != shown.strip() == federation.flower.identities.certificate.read_text(encoding="utf-8").strip()


def test_the_next_run_goes_on_from_the_model_and_a_killed_node_that_is_still_listed_is_named_and_left_out(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    before = federation.model("controller")
    federation.flower.kill("worker-2")

    run = federation.submit(capsys, nodes=3, min_nodes=1, num_server_rounds=1, query_timeout_seconds=15)
    code, finish = federation.wait(capsys, run, "--finish")

    assert code == 0, finish
    assert finish["nodes"] == ["worker-1", "worker-3"]
    _, ready = federation.wait(capsys, run, "--ready")
    assert [node["host"] for node in ready["nodes"]] == ["worker-1"]
    assert any("no reply within 15 s" in absent["reason"] for absent in ready["left_out"])
    after = federation.model("worker-1")
    assert before is not None
    assert ready["warm_start"] == before.digest
    assert after is not None
    assert after.digest == finish["digest"]
    # A round that made nothing better leaves the model as it was.
    assert (after.run, after.round) == ((run, 1) if finish["round"] else (before.run, before.round))
