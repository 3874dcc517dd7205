from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible.parsing.vault import VaultLib, VaultSecret
from click.testing import Result
from typer.testing import CliRunner

from icosfl import cli
from icosfl.errors import ConfigError, IcosflError, InventoryError, NotReady, RunFailed, UserError
from icosfl.fleet.authority import open_authority
from icosfl.fleet.image_manifest import ImageManifest, dump
from icosfl.fleet.inventory import Host
from icosfl.fleet.outlook import Outlook
from icosfl.fleet.vault import PASSWORD_FILE

PROJECT = Path(__file__).parents[2]
HOSTS = """
lab:
  children:
    controller:
      hosts: { control: { icosfl_slot: 3 } }
    workers:
      hosts: { worker-1: { icosfl_slot: 4 } }
"""
VARIABLES = """
ansible_connection: local
ansible_python_interpreter: "{{ ansible_playbook_python }}"
icosfl_address: 127.0.0.1
icosfl_home: "{{ inventory_dir | dirname | dirname }}/state/{{ inventory_hostname }}"
"""
PLAYBOOK = """
- name: Deploy
  hosts: all
  gather_facts: false
  tasks:
    - name: service | Start
      ansible.builtin.assert:
        that: not (fail | default(false))
        fail_msg: "{{ inventory_hostname }}: redis: no room. Cure: make some"
    - name: service | Told
      ansible.builtin.debug:
        msg: "{{ icosfl_training | default({}) }} {{ icosfl_reset_confirmed | default(false) }}"
      run_once: true
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with this one's facts and a playbook of its own for every verb, and one inventory, `lab`."""
    for name in ("group_vars", "plugins"):
        shutil.copytree(PROJECT / name, tmp_path / name)
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    (tmp_path / "requirements.lock").write_text("", encoding="utf-8")
    (tmp_path / "ansible.cfg").write_text("[defaults]\nfilter_plugins = plugins/filter\n", encoding="utf-8")
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "playbooks" / "group_vars").symlink_to("../group_vars")
    for verb in ("site", "down", "verify", "reset", "train", "image"):
        (tmp_path / "playbooks" / f"{verb}.yml").write_text(PLAYBOOK, encoding="utf-8")
    variables = tmp_path / "inventories" / "lab" / "group_vars" / "lab.yml"
    variables.parent.mkdir(parents=True)
    variables.write_text(VARIABLES, encoding="utf-8")
    (tmp_path / "inventories" / "lab" / "hosts.yml").write_text(HOSTS, encoding="utf-8")
    monkeypatch.setenv(PASSWORD_FILE, "")  # so that what a command sets is gone after the test
    monkeypatch.delenv(PASSWORD_FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, [*arguments])


def fail_with(project: Path, text: str) -> None:
    with (project / "inventories" / "lab" / "group_vars" / "lab.yml").open("a", encoding="utf-8") as file:
        file.write(text)


def test_help_names_every_verb() -> None:
    shown = call("--help").output

    verbs = "up down status watch train forecast doctor replay verify reset image certificate"
    for verb in verbs.split():
        assert f" {verb} " in shown


def test_help_needs_none_of_the_heavy_parts() -> None:
    heavy = "{'torch', 'flwr', 'dataclay', 'ansible', 'ansible_runner', 'grpc', 'pydantic'}"
    code = f"import sys, icosfl.cli; print(sorted({heavy} & set(sys.modules)))"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout.strip() == "[]"


def test_up_shows_plays_and_counts_and_no_raw_output(project: Path) -> None:
    result = call("-i", "lab", "up")

    assert result.exit_code == 0, result.output
    assert "✓ Deploy" in result.output
    assert "site: ok  changed=0" in result.output
    assert "next: icosfl status" in result.output
    assert "TASK [" not in result.output


def test_up_as_json_is_json_and_nothing_else(project: Path) -> None:
    found = json.loads(call("up", "-i", "lab", "--json").output)

    assert (found["playbook"], found["status"], found["changed"]) == ("site", "ok", 0)
    assert [host["host"] for host in found["hosts"]] == ["control", "worker-1"]


def test_limit_leaves_other_hosts_alone(project: Path) -> None:
    found = json.loads(call("-i", "lab", "--json", "up", "--limit", "worker-1").output)

    assert [host["host"] for host in found["hosts"]] == ["worker-1"]


def test_a_failed_deployment_shows_host_task_message_cure_and_its_exit_code(project: Path) -> None:
    fail_with(project, "fail: true\n")

    result = call("-i", "lab", "up")

    assert result.exit_code == RunFailed.exit_code
    for part in ("control failed", "service | Start", "control: redis: no room", "make some", "site: failed", ".log"):
        assert part in result.output
    assert "Traceback" not in result.output
    assert "next:" not in result.output


def test_reset_asks_first_and_does_nothing_without_consent(project: Path) -> None:
    result = CliRunner().invoke(cli.app, ["-i", "lab", "reset"], input="n\n")

    assert result.exit_code == 1
    assert not (project / ".state").exists()


def test_reset_confirms_to_the_playbook_and_leaves_no_log(project: Path) -> None:
    call("-i", "lab", "up")
    result = call("-i", "lab", "reset", "--yes")

    assert result.exit_code == 0
    assert "{} True" in result.output
    assert not (project / ".state").exists()


@pytest.mark.parametrize("verb", ["down", "verify"])
def test_a_playbook_verb_runs_its_playbook(project: Path, verb: str) -> None:
    assert f"{verb}: ok" in call("-i", "lab", verb).output


def test_train_overrides_single_values_and_shows_every_node(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(project, "icosfl_training: { window: 20s }\n")
    silent = lambda place: Outlook(place.name, None, None, "no model yet")  # noqa: E731
    monkeypatch.setattr("icosfl.fleet.everywhere.ask", silent)

    result = call("-i", "lab", "train", "-c", "num-server-rounds=2")

    assert result.exit_code == 0, result.output
    assert "{'window': '20s', 'num-server-rounds': 2}" in result.output
    assert "worker-1\n  no forecast: no model yet" in result.output
    assert "no node has measured its forecasts yet" in result.output


def test_train_as_json_has_every_node_and_their_summary(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = lambda place: Outlook(place.name, None, None, "no model yet")  # noqa: E731
    monkeypatch.setattr("icosfl.fleet.everywhere.ask", silent)

    found = json.loads(call("-i", "lab", "train", "--json").output)

    assert found["status"] == "ok"
    assert [each["problem"] for each in found["nodes"]] == ["no model yet", "no model yet"]
    assert found["summary"] == []


@pytest.mark.parametrize(
    ("options", "variables"),
    [((), "auto False"), (("--resume",), "newest False"), (("--fresh",), "auto True")],
)
def test_train_says_how_the_run_begins(
    project: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], variables: str
) -> None:
    silent = lambda place: Outlook(place.name, None, None, "no model yet")  # noqa: E731
    monkeypatch.setattr("icosfl.fleet.everywhere.ask", silent)
    playbook = PLAYBOOK.replace("icosfl_training | default({})", "icosfl_train_resume ~ ' ' ~ icosfl_train_fresh")
    (project / "playbooks/train.yml").write_text(playbook, encoding="utf-8")

    found = json.loads(call("-i", "lab", "--json", "train", *options).output)

    assert found["lines"] == [f"{variables} False"]
    assert found["reports"] == {}


@pytest.mark.parametrize("others", [("--fresh",), ("-c", "num-server-rounds=2")])
def test_a_run_that_is_gone_on_with_is_as_it_was(project: Path, others: tuple[str, ...]) -> None:
    result = call("-i", "lab", "train", "--resume", *others)

    assert isinstance(result.exception, UserError)
    assert result.exception.cure


def test_a_failed_run_ends_with_its_exit_code_and_no_summary(project: Path) -> None:
    fail_with(project, "fail: true\n")

    result = call("-i", "lab", "train")

    assert result.exit_code == RunFailed.exit_code
    assert "measured" not in result.output


def test_status_of_an_empty_machine_is_not_green(project: Path) -> None:
    result = call("status", "-i", "lab")

    assert result.exit_code == 1
    assert "control  not deployed" in result.output
    assert "lab: not green: control, worker-1" in result.output


def test_status_as_json_has_every_host(project: Path) -> None:
    found = json.loads(call("status", "-i", "lab", "--json").output)

    assert found["green"] is False
    assert {host["host"]: host["condition"] for host in found["hosts"]} == {
        "control": "not deployed",
        "worker-1": "not deployed",
    }


def test_forecast_without_service_says_why_and_is_not_ready(project: Path) -> None:
    result = call("-i", "lab", "forecast", "--host", "worker-1")

    assert result.exit_code == NotReady.exit_code
    assert "worker-1\n  no forecast: " in result.output
    assert "control" not in result.output.partition("where to look next")[0]
    assert "/v1/forecast" in result.output


def test_a_certificate_is_made_with_an_encrypted_ca_key_and_the_bridges_are_named(project: Path) -> None:
    fail_with(project, "icosfl_otlp_listen: \"{{ '127.0.0.2' if inventory_hostname == 'worker-1' else '' }}\"\n")
    pki = project / ".state/pki/lab"
    open_authority(pki, "lab", datetime.now(UTC))
    (project / "password").write_text("open sesame\n", encoding="utf-8")
    secret = VaultSecret(b"open sesame")
    (pki / "ca.key").write_bytes(VaultLib([]).encrypt((pki / "ca.key").read_text(), secret))
    wanted = ("certificate", "gateway", "--output", "out", "--days", "3", "-i", "lab", "--json")

    locked = call(*wanted)
    made = json.loads(call("--vault-password-file", "password", *wanted).output)

    assert isinstance(locked.exception, ConfigError)
    assert "--vault-password-file" in locked.exception.cure
    assert made["bridges"] == {"worker-1": "127.0.0.2:4716"}
    assert sorted(each.name for each in Path("out").iterdir()) == ["ca.crt", "gateway.crt", "gateway.key"]
    assert (pki / "ca.key").read_text().startswith("$ANSIBLE_VAULT")


def test_a_host_that_is_not_in_the_inventory_is_refused(project: Path) -> None:
    result = call("-i", "lab", "forecast", "--host", "worker-9")

    assert isinstance(result.exception, UserError)
    assert result.exception.cure == "use one of control, worker-1"


def test_doctor_reports_every_check_as_json(project: Path) -> None:
    result = call("-i", "lab", "doctor", "--json")
    found = json.loads(result.output)

    assert {"python", "environment", "disk", "memory", "ports"} <= {check["name"] for check in found["checks"]}
    assert found["passed"] is (result.exit_code == 0)
    assert all(check["cure"] for check in found["checks"] if check["level"] == "failed")


def test_waiting_until_ready_gives_up_with_who_lacks_what(project: Path) -> None:
    fail_with(project, "icosfl_store: { kind: memory, alias: a, capacity_rows: 9, deadline_seconds: 1.0,"
              " metadata: { host: 127.0.0.1, port: 1 }, dataset: d, username: u, password: p }\n")  # fmt: skip

    result = call("-i", "lab", "watch", "--until-ready", "--timeout", "0")

    assert isinstance(result.exception, NotReady)
    assert "control: there is no row yet; worker-1: there is no row yet" in result.exception.message
    assert "rows: control 0/" in result.output


def test_watch_as_json_is_a_line_a_look(project: Path) -> None:
    fail_with(project, "icosfl_store: { kind: memory, alias: a, capacity_rows: 9, deadline_seconds: 1.0,"
              " metadata: { host: 127.0.0.1, port: 1 }, dataset: d, username: u, password: p }\n")  # fmt: skip

    result = call("-i", "lab", "watch", "--until-ready", "--timeout", "0", "--json")

    [line] = result.output.splitlines()
    assert [reading["host"] for reading in json.loads(line)] == ["control", "worker-1"]


def test_replay_sends_to_the_nodes_own_bridge(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from icosfl.collect import replay

    calls: list[tuple[object, ...]] = []

    def fake(path: Path, endpoint: object, **options: object) -> replay.Replayed:
        calls.append((path, str(endpoint), options["host"], options["speed"], options["columns"], options["rebase"]))
        return replay.Replayed(rows=2, total=2, points=4, stored=1, rejected=1, reason="NaN", first_ns=0, last_ns=1)

    monkeypatch.setattr(replay, "replay", fake)

    result = call("-i", "lab", "replay", "t.csv", "--to", "worker-1", "--speed", "0", "--column", "node{a=b}=cpu_usage")

    assert calls == [(Path("t.csv"), "127.0.0.1:4717", "worker-1", 0.0, {"node{a=b}": "cpu_usage"}, True)]
    assert "2 of 2 rows acknowledged by worker-1, 1 of 4 values stored" in result.output
    assert "1 values were not taken: NaN" in result.output
    assert "2 values were left out: no rule asks for their columns" in result.output


def test_replay_to_a_host_on_another_machine_is_refused_with_the_cure(project: Path) -> None:
    (project / "inventories/lab/host_vars").mkdir()
    (project / "inventories/lab/host_vars/worker-1.yml").write_text("ansible_connection: ssh\n", encoding="utf-8")

    result = call("-i", "lab", "replay", "t.csv", "--to", "worker-1")

    assert isinstance(result.exception, UserError)
    assert "another machine" in str(result.exception)


@pytest.mark.parametrize("arguments", [("nonsense",), ("up", "--nonsense"), ("watch", "--every", "0")])
def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    assert call(*arguments).exit_code == 2


def test_image_shows_what_the_images_take(project: Path) -> None:
    folder = project / ".state" / "images"
    folder.mkdir(parents=True)
    assert "no image is built" in call("-i", "lab", "image").output
    (folder / "1-abc-ffffffff.tar.gz").write_bytes(b"1234")
    about = ImageManifest(
        *("sha256:1234567890abcdef", "1-abc", "1", "f" * 64, "debian:12", "sha256:ba5e", "amd64", 1_050_000_000),
        *(26_000_000, ("sha256:a",), "1-abc-ffffffff.tar.gz", 4, "0" * 64, 122.0),
    )
    (folder / "1-abc-ffffffff.json").write_text(dump(about), encoding="utf-8")

    shown = call("-i", "lab", "image").output
    found = json.loads(call("-i", "lab", "--json", "image").output)

    for part in ("icosfl:1-abc", "debian:12", "26 MB", "1.02 GB", "1.05 GB", "2 min 2 s"):
        assert part in shown
    assert found["images"][0]["manifest"]["image"] == "sha256:1234567890abcdef"


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["icosfl", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def test_an_error_is_a_message_a_cure_and_an_exit_code(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_main(monkeypatch, "-i", "nowhere", "status")

    assert code == InventoryError.exit_code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "icosfl: there is no inventory nowhere",
        "cure: name a file, a directory or one of lab",
    ]


def test_an_error_of_any_kind_ends_without_a_stack_trace(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def break_down(hosts: Host) -> None:
        raise IcosflError("it broke")

    monkeypatch.setattr("icosfl.fleet.everywhere.look", break_down)

    assert run_main(monkeypatch, "-i", "lab", "status") == 1
    assert capsys.readouterr().err == "icosfl: it broke\n"
