"""What is made of Flower's answers: of a stand-in for `flwr` that prints what it was seen to, and of an API of ours."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from icosfl.errors import RunFailed, Unavailable, UserError
from icosfl.fleet import flower
from icosfl.fleet.flower import Flower, RunStatus
from support.control_api import MadeUpControl, served


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(flower, "search_path", lambda: f"{tmp_path}{os.pathsep}{os.defpath}")
    return tmp_path


def answer(home: Path, output: str, error: str = "", seconds: int = 0) -> None:
    """Let `flwr` print this; it notes its arguments and the overrides that it gets."""
    script = f"""#!/bin/sh
echo "$@" > {home}/arguments
for last; do case "$last" in *.toml) cat "$last" > {home}/overrides.toml;; esac; done
test {seconds} = 0 || exec sleep {seconds}
cat {home}/output
cat {home}/error >&2
"""
    (home / "output").write_text(output, encoding="utf-8")
    (home / "error").write_text(error, encoding="utf-8")
    (home / "flwr").write_text(script, encoding="utf-8")
    (home / "flwr").chmod(0o755)


def test_a_run_is_submitted_with_its_overrides_as_toml(home: Path) -> None:
    answer(home, '{\n  "success": true,\n  "run-id": "12820"\n}\n')

    run = Flower(home, "fleet").submit(Path("/app"), {"min-nodes": 2, "window": '2m "quoted"', "learning-rate": 0.5})

    assert run == "12820"
    assert tomllib.loads((home / "overrides.toml").read_text()) == {
        "min-nodes": 2,
        "window": '2m "quoted"',
        "learning-rate": 0.5,
    }


@pytest.fixture
def control(tmp_path: Path) -> Iterator[MadeUpControl]:
    """A Control API that `Flower(tmp_path, "fleet")` finds."""
    made = MadeUpControl()
    with served(made, tmp_path, "fleet"):
        yield made


def test_only_nodes_that_are_online_are_counted(control: MadeUpControl, tmp_path: Path) -> None:
    control.nodes = {1: "online", 2: "offline", 3: "registered", 4: "unregistered", 5: "online"}

    assert Flower(tmp_path, "fleet").online_nodes() == 2
    assert [node.node_id for node in Flower(tmp_path, "fleet").nodes()] == [1, 2, 3, 5]


def test_a_runs_status_and_details_are_read(control: MadeUpControl, tmp_path: Path) -> None:
    control.runs = {7: ("finished", "failed", "no heartbeat"), 8: ("running", "", "")}

    failed, running = (Flower(tmp_path, "fleet").run_status(run) for run in ("7", "8"))

    assert failed == RunStatus("finished:failed", "no heartbeat")
    assert (failed.over, running.over) == (True, False)


def test_runs_that_are_not_over_are_listed_with_their_ids(control: MadeUpControl, tmp_path: Path) -> None:
    control.runs = {
        2**63 + 4: ("pending", "", ""),
        3: ("starting", "", ""),
        2: ("running", "", ""),
        1: ("finished", "completed", ""),
        5: ("finished", "stopped", ""),
    }

    states = {str(2**63 + 4): "pending", "3": "starting", "2": "running"}
    assert Flower(tmp_path, "fleet").open_runs() == {run: RunStatus(status, "") for run, status in states.items()}


def test_a_run_is_stopped_and_one_that_is_over_stays_as_it_is(control: MadeUpControl, tmp_path: Path) -> None:
    control.runs = {7: ("running", "", ""), 8: ("finished", "failed", "boom")}

    Flower(tmp_path, "fleet").stop("7")
    Flower(tmp_path, "fleet").stop("8")

    assert control.runs == {7: ("finished", "stopped", ""), 8: ("finished", "failed", "boom")}


@pytest.mark.parametrize("run", ["9", "latest"])
def test_a_run_that_nobody_knows_is_told(control: MadeUpControl, tmp_path: Path, run: str) -> None:
    for ask in (Flower(tmp_path, "fleet").run_status, Flower(tmp_path, "fleet").stop):
        with pytest.raises(UserError, match=r"Run ID not found|'latest' is no number of a run"):
            ask(run)


def test_an_api_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with served(MadeUpControl(), tmp_path, "fleet"):
        pass

    with pytest.raises(Unavailable, match="SuperLink of connection fleet does not answer"):
        Flower(tmp_path, "fleet").open_runs()


def test_a_superlink_that_cannot_be_reached_is_unavailable(home: Path) -> None:
    message = " Listing all nodes...\\n\\nConnection to the SuperLink is unavailable. Please check your connection."
    answer(home, f'{{"success": false, "error-message": "{message}"}}')

    with pytest.raises(Unavailable, match="SuperLink of connection fleet does not answer"):
        Flower(home, "fleet").submit(Path("/app"), {})


def test_a_refusal_repeats_flowers_last_line(home: Path) -> None:
    answer(home, '{"success": false, "error-message": "\\nBuilding\\n[code: 15] Invalid run configuration."}')

    with pytest.raises(UserError, match=r"Flower refuses: \[code: 15\] Invalid run configuration\."):
        Flower(home, "fleet").submit(Path("/app"), {"no-such-key": 1})


@pytest.mark.parametrize("output", ["", "Traceback\nKeyError: 'x'\n", "{broken", "[1]"])
def test_an_answer_that_is_no_json_object_is_told(home: Path, output: str) -> None:
    answer(home, output, error="ImportError: no module\n")

    with pytest.raises(RunFailed, match="ImportError: no module"):
        Flower(home, "fleet").submit(Path("/app"), {})


@pytest.mark.parametrize("output", ['{"success": true}', '{"success": true, "run-id": 7}'])
def test_an_answer_without_what_was_asked_is_told(home: Path, output: str) -> None:
    answer(home, output)

    with pytest.raises(RunFailed, match="answers otherwise than expected"):
        Flower(home, "fleet").submit(Path("/app"), {})


def test_a_command_that_hangs_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "COMMAND_SECONDS", 0.2)
    answer(home, "{}", seconds=20)

    with pytest.raises(Unavailable, match="took longer than"):
        Flower(home, "fleet").submit(Path("/app"), {})


def test_a_missing_command_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "search_path", lambda: str(tmp_path))

    with pytest.raises(UserError, match="the program flwr is missing"):
        Flower(tmp_path, "fleet").submit(Path("/app"), {})
