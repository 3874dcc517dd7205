"""Ansible's door to runs, as Ansible calls it, and the play that goes through it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from icosfl.aggregate.progress import Finished, Stopped
from support.made_up_flower import PROJECT, record, round_done

MODULE = PROJECT / "plugins/modules/federated_run.py"
FINISHED = Finished("now", 2, ("a",), (), "digest", 9.0, round=2, skill=0.25)


def call(tmp_path: Path, **given: Any) -> dict[str, Any]:
    """What the module answers."""
    where = {"flwr_home": str(tmp_path), "connection": "fleet", "runs_dir": str(tmp_path / "runs")}
    file = tmp_path / "arguments.json"
    arguments = {**where, "timeout_seconds": 1, "app_dir": str(PROJECT), **given}
    file.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
    done = subprocess.run([sys.executable, MODULE, file], capture_output=True, text=True, timeout=60, check=False)
    return dict(json.loads(done.stdout))


def test_a_step_is_told_to_people_and_the_last_one_to_programs_too(tmp_path: Path) -> None:
    record(tmp_path / "runs", "7", round_done(1), round_done(2), FINISHED)

    first = call(tmp_path, step="round", round=1, run_id="7")
    last = call(tmp_path, step="finish", run_id="7")

    assert (first["changed"], first["line"]) == (False, "round 1/3: 1 node (a), loss 0.5, 3 s")
    assert "report" not in first
    assert last["report"] == {
        "run": "7",
        "round": 2,
        "rounds": 2,
        "digest": "digest",
        "skill": 0.25,
        "epsilon": None,
        "page": "",
    }


def test_a_round_that_an_early_end_saved_is_no_failure(tmp_path: Path) -> None:
    record(tmp_path / "runs", "7", round_done(1), Stopped("now", 1, 9, "no better for 3 rounds"), FINISHED)

    assert call(tmp_path, step="round", round=2, run_id="7")["line"].startswith("stopped after round 1 of 9")
    assert call(tmp_path, step="round", round=8, run_id="7")["line"] == "round 8: not needed"


def test_what_cannot_go_on_fails_with_its_reason_and_cure(tmp_path: Path) -> None:
    answer = call(tmp_path, step="submit", nodes=2, run_config={"quorum": 2.5})

    assert answer["failed"]
    assert "quorum" in answer["msg"]
    assert "Cure: " in answer["msg"]


def test_an_option_that_a_step_needs_is_asked_for(tmp_path: Path) -> None:
    assert "run_id" in call(tmp_path, step="ready")["msg"]
    assert "round" in call(tmp_path, step="round", run_id="7")["msg"]
    assert "nodes" in call(tmp_path, step="submit")["msg"]


def test_a_check_of_the_play_is_clean_and_asks_nobody(tmp_path: Path) -> None:
    hosts = {"controller": {"hosts": {"control": {"icosfl_slot": 0}}}}
    hosts["workers"] = {"hosts": {"worker-1": {"icosfl_slot": 1}}}
    venv, home = Path(sys.executable).parents[1], tmp_path / "home"
    here = {"ansible_connection": "local", "icosfl_venv": str(venv), "icosfl_user": "", "icosfl_home": str(home)}
    inventory = tmp_path / "lab" / "hosts.json"
    (inventory.parent / "group_vars").mkdir(parents=True)
    (inventory.parent / "group_vars/lab.json").write_text(json.dumps(here), encoding="utf-8")
    inventory.write_text(json.dumps({"lab": {"children": {"nodes": {"children": hosts}}}}), encoding="utf-8")
    command = ["ansible-playbook", "playbooks/train.yml", "-i", str(inventory), "--check", "--diff"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed=0" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr
    assert not home.exists()
