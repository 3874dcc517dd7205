"""A federation of real Flower processes and real object stores, on rows that were made up."""

from __future__ import annotations

import json
import shutil
import ssl
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from icosfl.config import NodeConfig, SeriesConfig, StoreConfig, load, schema_of
from icosfl.errors import RunFailed
from icosfl.fleet.rounds import main
from icosfl.schema import Rows
from icosfl.store import open_store
from icosfl.train.artifact import Artifact, load_latest
from support.dataclay_stack import DataclayStack
from support.flower_stack import CONNECTION, FlowerStack

pytestmark = [pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SERIES = (SeriesConfig(name="cpu_usage", unit="%"), SeriesConfig(name="power", unit="W"))
PERIOD = 3.0
ROWS = {"controller": 300, "worker-1": 300, "worker-2": 300, "worker-3": 20}
RUN_CONFIG = {
    "series": "cpu_usage,power",
    "window": "30s",
    "horizons": "next,30s",
    "min-windows": 32,
    "hidden-size": 8,
    "local-epochs": 1,
    "query-timeout-seconds": 40,
    "round-timeout-seconds": 90,
}


@dataclass
class Federation:
    """What the tests hold of the federation."""

    directory: Path
    flower: FlowerStack
    nodes: dict[str, NodeConfig]

    def rounds(self, capsys: pytest.CaptureFixture[str], verb: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Call `icosfl.fleet.rounds`; returns its exit code and its answer."""
        code = main([verb, "--connection", CONNECTION, "--flwr-home", str(self.flower.home), *arguments])
        return code, json.loads(capsys.readouterr().out)

    def submit(self, capsys: pytest.CaptureFixture[str], nodes: int, **changes: object) -> str:
        """Submit a run; returns its id."""
        overrides = self.directory / "overrides.toml"
        values = RUN_CONFIG | {key.replace("_", "-"): value for key, value in changes.items()}
        overrides.write_text(tomli_w.dumps(values), encoding="utf-8")
        options = ["--app", str(self.directory / "app"), "--expect-nodes", str(nodes), "--config-file", str(overrides)]
        code, answer = self.rounds(capsys, "submit", *options)
        assert code == 0, answer
        return str(answer["run_id"])

    def wait(self, capsys: pytest.CaptureFixture[str], run: str, *step: str) -> tuple[int, dict[str, Any]]:
        """Wait for a step of a run."""
        runs = str(self.nodes["controller"].runs_dir)
        return self.rounds(capsys, "await", "--run-id", run, "--runs-dir", runs, "--timeout", "120", *step)

    def result(self, run: str) -> dict[str, Any]:
        """The result that a run left."""
        text = (self.nodes["controller"].runs_dir / run / "result.json").read_text(encoding="utf-8")
        return dict(json.loads(text))

    def model(self, host: str) -> Artifact | None:
        """The newest model of a host."""
        return load_latest(self.nodes[host].models_dir)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    directory = tmp_path_factory.mktemp("federation")
    (directory / "app").mkdir()
    shutil.copy(ROOT / "pyproject.toml", directory / "app")
    shutil.copytree(ROOT / "icosfl", directory / "app" / "icosfl", ignore=shutil.ignore_patterns("__pycache__"))
    files = {host: write_config(directory, host, dataclay_stack) for host in ROWS}
    nodes = {host: load(file, NodeConfig) for host, file in files.items()}
    for number, (host, count) in enumerate(ROWS.items()):
        fill(nodes[host].store, count, seed=number)
    controller = files.pop("controller")
    flower = FlowerStack(directory, controller, files)
    try:
        flower.start()
        yield Federation(directory, flower, nodes)
    finally:
        flower.stop()


def write_config(directory: Path, host: str, stack: DataclayStack) -> Path:
    store = stack.store_config(f"flower-{host}")
    data = {
        "host": host,
        "period_seconds": PERIOD,
        "max_gap_seconds": 9.0,
        "stale_after_seconds": 1e9,  # made-up rows are of no particular time
        "models_dir": str(directory / host / "models"),
        "runs_dir": str(directory / host / "runs"),
        "store": asdict(store),
        "series": [asdict(one) for one in SERIES],
    }
    file = directory / f"{host}.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    return file


def fill(config: StoreConfig, count: int, seed: int) -> None:
    """A slow wave with noise for the CPU; no host has a power meter."""
    steps = np.arange(count)
    noise = np.random.default_rng(seed).normal(0, 2, count)
    cpu = 50 + 30 * np.sin(steps / 15) + noise
    values = np.column_stack([cpu, np.full(count, np.nan)])
    times = time.time_ns() - (steps[::-1] * int(PERIOD * 1e9)).astype(np.int64)
    with open_store(config, schema_of(SERIES)) as store:
        store.append(Rows(times, values))


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
    assert after is not None
    assert (after.run, after.round, after.parent) == (run, 1, before.digest)
