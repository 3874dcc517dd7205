from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icosfl.errors import ConfigError
from icosfl.fleet.alive import PATIENCE
from icosfl.fleet.process_status import NOT_DEFINED
from icosfl.fleet.service import HealthCheck, Limits, Service
from icosfl.fleet.systemctl import status_of
from icosfl.fleet.systemd_units import Record, UnitLayout, host_texts, marked, refuse_stranger, service_text
from icosfl.fleet.watchdog import Illness, judge

ROOT = "/opt/icosfl/nodes/edge-01"
LAYOUT = UnitLayout.at(ROOT, "icosfl", "icosfl")
CHECK = HealthCheck("http", "127.0.0.1", 8080, "/", "", 10.0)
HIGHEST_EXPOSURE = 3.0


def service(**changes: Any) -> Service:
    return Service(
        **{"name": "demo", "command": ("/bin/true",), "health": CHECK, "stop_seconds": 7, "priority": 5} | changes
    )


def settings(text: str) -> dict[str, list[str]]:
    """All settings of a unit, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def unit(described: Service, version: int = 252) -> dict[str, list[str]]:
    return settings(service_text(described, LAYOUT, version, "d1"))


def test_a_service_comes_back_for_ever_and_stops_with_all_its_processes_in_its_time() -> None:
    found = unit(service())

    assert found["Restart"] == ["always"]
    assert found["StartLimitIntervalSec"] == ["0"]
    assert found["KillMode"] == ["control-group"]
    assert found["TimeoutStopSec"] == ["7"]
    assert (found["User"], found["Group"]) == (["icosfl"], ["icosfl"])


def test_where_systemd_can_it_waits_longer_after_each_failure() -> None:
    assert "RestartSteps" not in unit(service(), version=252)
    assert unit(service(), version=254)["RestartMaxDelaySec"] == ["60"]


def test_services_start_after_what_they_need_and_all_stop_with_the_target() -> None:
    found = unit(service(needs=("redis", "superlink")))

    assert found["After"] == ["network.target icosfl-redis.service icosfl-superlink.service"]
    assert found["Wants"] == ["icosfl-redis.service icosfl-superlink.service"]
    assert found["PartOf"] == found["WantedBy"] == ["icosfl.target"]
    assert settings(host_texts(LAYOUT, "/p")["icosfl.target"])["WantedBy"] == ["multi-user.target"]


def test_hosts_that_share_a_machine_share_no_unit() -> None:
    other = UnitLayout.at("/opt/icosfl/nodes/edge-02", "icosfl-1", "icosfl")

    assert set(host_texts(LAYOUT, "/p")).isdisjoint(host_texts(other, "/p"))
    assert other.unit("redis") == "icosfl-1-redis.service"


def test_a_service_sees_of_its_host_only_what_it_names() -> None:
    found = unit(service(files=(f"{ROOT}/etc/a",), reads=(f"{ROOT}/tls",), writes=(f"{ROOT}/data/demo",)))

    assert found["TemporaryFileSystem"] == [f"{ROOT}:ro,mode=0755"]
    assert found["BindReadOnlyPaths"] == [f"-{ROOT}/etc/a", f"-{ROOT}/tls"]
    assert found["BindPaths"] == found["ReadWritePaths"] == [f"-{ROOT}/data/demo"]
    assert found["ProtectSystem"] == ["strict"]


def test_only_who_measures_the_machine_sees_it() -> None:
    blind, seeing = unit(service()), unit(service(sees_host=True))

    assert blind["ProtectProc"] == ["invisible"]
    assert blind["CapabilityBoundingSet"] == blind["AmbientCapabilities"] == [""]
    assert "ProtectProc" not in seeing
    assert "/etc/shadow" in seeing["InaccessiblePaths"][0]


def test_training_computes_with_all_that_the_processor_has() -> None:
    assert not {"ProcSubset", "MemoryDenyWriteExecute"} & set(unit(service()))


def test_limits_become_settings_and_no_limit_becomes_none() -> None:
    limits = Limits(memory_max_mb=512, cpu_quota_percent=150, cpu_weight=20, io_weight=30, tasks_max=64)

    found = unit(service(limits=limits))

    assert [found[key] for key in ("MemoryMax", "CPUQuota", "CPUWeight", "IOWeight", "TasksMax")] == [
        ["512M"],
        ["150%"],
        ["20"],
        ["30"],
        ["64"],
    ]
    assert not {"MemoryMax", "CPUQuota", "CPUWeight", "IOWeight", "TasksMax"} & set(unit(service()))


@pytest.mark.parametrize("word", ["two words", "$HOME", "100%", 'say "hi"', "back\\slash", ";", "it's", "#no", ""])
def test_words_of_the_command_reach_the_program_as_they_are(word: str) -> None:
    (line,) = unit(service(command=("/bin/echo", word)))["ExecStart"]

    assert as_systemd_splits(line) == ["/bin/echo", word]


def as_systemd_splits(line: str) -> list[str]:
    """What systemd.service(5) says of quotes, escapes, $$ and %%."""
    words, word, quoted, begun, index = [], "", False, False, 0
    while index < len(line):
        sign = line[index]
        if sign == "\\":
            index += 1
            word += line[index]
        elif sign == '"':
            quoted, begun = not quoted, True
        elif sign == " " and not quoted:
            words.append(word)
            word, begun = "", False
        else:
            word, begun = word + sign, True
        index += 1
    words += [word] if begun or word else []
    return [each.replace("$$", "$").replace("%%", "%") for each in words]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": {"DB_PASSWORD": "hunter2"}}, "environment.DB_PASSWORD seems to be a secret"),
        ({"environment": {"A": "x\ny"}}, "environment.A has a line end"),
        ({"command": ("/bin/echo", "a\nb")}, "command has a line end"),
        ({"command": ("python", "x")}, "no plain absolute path"),
        ({"description": "x\nExecStartPre=/bin/sh"}, "description is"),
        ({"directory": "/a b"}, "directory has"),
        ({"writes": ("/a:/etc",)}, "writes has"),
        ({"files": ("/a\n[Service]",)}, "files has"),
    ],
)
def test_what_cannot_stand_in_a_unit_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        service_text(service(**changes), LAYOUT, 252, "d")


@pytest.mark.parametrize(
    ("root", "prefix", "user"),
    [("/a b", "icosfl", "icosfl"), ("/a/../b", "icosfl", "icosfl"), ("/a", "Icos FL", "icosfl"), ("/a", "icosfl", "")],
)
def test_names_that_cannot_stand_in_a_unit_are_refused(root: str, prefix: str, user: str) -> None:
    with pytest.raises(ConfigError):
        UnitLayout.at(root, prefix, user)


def test_units_of_others_are_refused_and_ours_are_known() -> None:
    ours = service_text(service(), LAYOUT, 252, "d")
    other = ours.replace("edge-01", "edge-02")

    refuse_stranger("x", "", LAYOUT)
    refuse_stranger("x", ours, LAYOUT)
    assert (marked(ours, LAYOUT), marked(other, LAYOUT)) == (True, False)
    for text in (other, "[Unit]\nDescription=somebody's\n"):
        with pytest.raises(ConfigError, match="belongs to"):
            refuse_stranger("icosfl-demo.service", text, LAYOUT)


def test_a_process_from_before_the_definition_is_outdated_but_not_one_from_before_the_boot() -> None:
    record = Record(service(), "d", "boot-2", since=1000)

    assert record.outdates("boot-2", started=900)
    assert not record.outdates("boot-2", started=1100)
    assert not record.outdates("boot-3", started=900)


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = Record(service(limits=Limits(tasks_max=5)), "d", "boot", since=1000)
    layout = replace(LAYOUT, root=tmp_path)
    layout.own.mkdir()
    layout.record("demo").write_text(record.text())

    assert layout.installed() == (record,)
    layout.record("demo").write_text("{")
    with pytest.raises(ConfigError, match=r"demo\.json"):
        layout.installed()


def shown(**changes: str) -> Mapping[str, str]:
    return {
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "MainPID": "7",
        "Result": "success",
        "ExecMainCode": "0",
        "ExecMainStatus": "0",
        "ExecMainStartTimestampMonotonic": "1000000",
    } | changes


@pytest.mark.parametrize(
    ("changes", "state", "reason"),
    [
        ({}, "RUNNING", ""),
        ({"ExecMainStartTimestampMonotonic": "99000000"}, "STARTING", ""),
        (
            {"ActiveState": "activating", "SubState": "auto-restart", "Result": "exit-code"}
            | {"ExecMainCode": "1", "ExecMainStatus": "3"},
            "BACKOFF",
            "exit status 3",
        ),
        (
            {"ActiveState": "failed", "Result": "signal", "ExecMainCode": "2", "ExecMainStatus": "9"},
            "FATAL",
            "signal 9, perhaps for more memory than memory_max_mb",
        ),
        ({"ActiveState": "failed", "Result": "oom-kill"}, "FATAL", "it took more memory than memory_max_mb allows"),
        ({"ActiveState": "inactive", "SubState": "dead"}, "STOPPED", ""),
        ({"ActiveState": "deactivating"}, "STOPPING", ""),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, NOT_DEFINED, ""),
    ],
)
def test_what_systemd_says_becomes_the_words_of_every_process_manager(
    changes: dict[str, str], state: str, reason: str
) -> None:
    status = status_of("demo", shown(**changes), 100_000_000)

    assert (status.state, status.reason) == (state, reason)
    assert status.up == (state in {"RUNNING", "STARTING"})
    assert status.pid == (7 if status.up else 0)


def looks(*pids: int, uptime: int = 60, answer: str = "503") -> list[int]:
    """How often in a row each look counted, when the process was this one."""
    ill: dict[str, Illness] = {}
    found = []
    for pid in pids:
        status = status_of("demo", shown(MainPID=str(pid)), 1_000_000 + uptime * 1_000_000)
        ill = judge([service()], {"demo": status}, {"demo": answer}, ill)
        found.append(ill["demo"].looks if ill else 0)
    return found


def test_the_watchdog_counts_looks_in_a_row_at_one_process() -> None:
    assert looks(7, 7, 7) == [1, 2, PATIENCE]
    assert looks(7, 7, 8) == [1, 2, 1]  # systemd has restarted it


def test_the_watchdog_leaves_alone_who_works_and_who_is_still_starting() -> None:
    assert looks(7, 7, answer="") == [0, 0]
    assert looks(7, 7, uptime=5) == [0, 0]  # its start may take 10 s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units_and_little_that_is_exposed(tmp_path: Path) -> None:
    texts = {
        **host_texts(LAYOUT, "/usr/bin/python3"),
        "icosfl-demo.service": service_text(service(limits=Limits(memory_max_mb=64)), LAYOUT, 252, "d"),
        "icosfl-seeing.service": service_text(service(sees_host=True), LAYOUT, 252, "d"),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    paths = [str(tmp_path / name) for name in texts]

    verified = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    for path in (each for each in paths if each.endswith(".service")):
        rated = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", f"--threshold={HIGHEST_EXPOSURE * 10:.0f}", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert rated.returncode == 0, rated.stdout[-300:]

    assert [line for line in verified.stderr.splitlines() if "icosfl" in line] == []
