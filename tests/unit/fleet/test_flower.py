"""What is made of the `flwr` command's answers; a stand-in for it prints what the real one was seen to print."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from icosfl.errors import RunFailed, Unavailable, UserError
from icosfl.fleet import flower
from icosfl.fleet.flower import Flower, RunStatus


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


def test_only_nodes_that_are_online_are_counted(home: Path) -> None:
    nodes = [{"status": status} for status in ("online", "offline", "online", "unregistered")]
    answer(home, json.dumps({"success": True, "nodes": nodes}))

    assert Flower(home, "fleet").online_nodes() == 2
    assert (home / "arguments").read_text().split() == ["supernode", "list", "fleet", "--format", "json"]


def test_a_run_is_submitted_with_its_overrides_as_toml(home: Path) -> None:
    answer(home, '{\n  "success": true,\n  "run-id": "12820"\n}\n')

    run = Flower(home, "fleet").submit(Path("/app"), {"min-nodes": 2, "window": '2m "quoted"', "learning-rate": 0.5})

    assert run == "12820"
    assert tomllib.loads((home / "overrides.toml").read_text()) == {
        "min-nodes": 2,
        "window": '2m "quoted"',
        "learning-rate": 0.5,
    }


def test_a_runs_status_and_details_are_read(home: Path) -> None:
    answer(home, '{"success": true, "runs": [{"status": "finished:failed", "status-details": "no heartbeat"}]}')

    status = Flower(home, "fleet").run_status("7")

    assert status == RunStatus("finished:failed", "no heartbeat")
    assert status.over


def test_a_running_run_is_not_over(home: Path) -> None:
    answer(home, '{"success": true, "runs": [{"status": "running", "status-details": "N/A"}]}')

    assert not Flower(home, "fleet").run_status("7").over


def test_runs_that_are_not_over_are_listed_with_their_ids(home: Path) -> None:
    states = {"4": "pending", "3": "starting", "2": "running", "1": "finished:completed", "0": "finished:failed"}
    runs = [{"run-id": run, "status": status, "status-details": "N/A"} for run, status in states.items()]
    answer(home, json.dumps({"success": True, "runs": runs}))

    assert Flower(home, "fleet").open_runs() == {run: RunStatus(states[run], "") for run in ("4", "3", "2")}
    assert (home / "arguments").read_text().split() == ["ls", "fleet", "--format", "json"]


def test_a_superlink_that_cannot_be_reached_is_unavailable(home: Path) -> None:
    message = " Listing all nodes...\\n\\nConnection to the SuperLink is unavailable. Please check your connection."
    answer(home, f'{{"success": false, "error-message": "{message}"}}')

    with pytest.raises(Unavailable, match="SuperLink of connection fleet does not answer"):
        Flower(home, "fleet").online_nodes()


def test_a_refusal_repeats_flowers_last_line(home: Path) -> None:
    answer(home, '{"success": false, "error-message": "\\nBuilding\\n[code: 15] Invalid run configuration."}')

    with pytest.raises(UserError, match=r"Flower refuses: \[code: 15\] Invalid run configuration\."):
        Flower(home, "fleet").submit(Path("/app"), {"no-such-key": 1})


@pytest.mark.parametrize("output", ["", "Traceback\nKeyError: 'x'\n", "{broken", "[1]"])
def test_an_answer_that_is_no_json_object_is_told(home: Path, output: str) -> None:
    answer(home, output, error="ImportError: no module\n")

    with pytest.raises(RunFailed, match="ImportError: no module"):
        Flower(home, "fleet").online_nodes()


@pytest.mark.parametrize("output", ['{"success": true}', '{"success": true, "nodes": [{"status": 1}]}'])
def test_an_answer_without_what_was_asked_is_told(home: Path, output: str) -> None:
    answer(home, output)

    with pytest.raises(RunFailed, match="answers otherwise than expected"):
        Flower(home, "fleet").online_nodes()


def test_a_command_that_hangs_is_ended(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "COMMAND_SECONDS", 0.2)
    answer(home, "{}", seconds=20)

    with pytest.raises(Unavailable, match="took longer than"):
        Flower(home, "fleet").online_nodes()


def test_a_missing_command_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower, "search_path", lambda: str(tmp_path))

    with pytest.raises(UserError, match="the program flwr is missing"):
        Flower(tmp_path, "fleet").online_nodes()
