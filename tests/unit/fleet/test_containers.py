from __future__ import annotations

import os
import pwd
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import ConfigError, Unavailable
from icosfl.fleet import engine
from icosfl.fleet.compose import Image
from icosfl.fleet.container_images import refuse_foreign_architecture, refuse_missing, unseen
from icosfl.fleet.container_limits import Machine, compose_limits, lifted, update_words
from icosfl.fleet.container_plan import machine_at
from icosfl.fleet.container_records import ContainerLayout, Record
from icosfl.fleet.containers import status_of
from icosfl.fleet.files import Ownership
from icosfl.fleet.handover import hand_over
from icosfl.fleet.host_state import bring
from icosfl.fleet.outcome import Outcome
from icosfl.fleet.service import Limits, Service

TWO = Machine(cpus=2)
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def described(**changes: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "command": ["/bin/true"],
        "health": {"kind": "process", "timeout_seconds": 5},
        "stop_seconds": 5,
        "priority": 1,
        **changes,
    }


def state(status: str, **changes: Any) -> dict[str, Any]:
    return {"Status": status, "Pid": 0, "ExitCode": 0, "Error": "", "StartedAt": "0001-01-01T00:00:00Z"} | changes


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (state("running", Pid=7, StartedAt="2026-01-02T11:59:59.123456789Z"), ("STARTING", 7, 1, "")),
        (state("running", Pid=7, StartedAt="2026-01-02T11:00:00.5Z"), ("RUNNING", 7, 3600, "")),
        (state("running", Pid=7, StartedAt="2026-01-02T12:00:00+00:00"), ("STARTING", 7, 0, "")),
        (state("restarting", ExitCode=3), ("BACKOFF", 0, 0, "exit status 3")),
        (state("restarting", ExitCode=143), ("BACKOFF", 0, 0, "signal 15")),
        (state("restarting", ExitCode=137), ("BACKOFF", 0, 0, "signal 9, perhaps for more memory than memory_max_mb")),
        (
            state("restarting", ExitCode=137, OOMKilled=True),
            ("BACKOFF", 0, 0, "it took more memory than memory_max_mb allows"),
        ),
        (state("exited", ExitCode=143), ("STOPPED", 0, 0, "")),
        (state("created"), ("FATAL", 0, 0, "")),
        (state("exited", Error="address already in use"), ("FATAL", 0, 0, "address already in use")),
        (state("paused"), ("UNKNOWN", 0, 0, "it is paused")),
    ],
)
def test_states_are_told_in_the_words_of_all_runtimes(
    told: dict[str, Any], expected: tuple[str, int, int, str]
) -> None:
    status = status_of("one", told, NOW)

    assert (status.state, status.pid, status.uptime_seconds, status.reason) == expected


@given(st.integers(0, 10**7))
def test_uptime_is_never_negative_and_settles_what_runs(seconds: int) -> None:
    started = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")

    status = status_of("one", state("running", Pid=1, StartedAt=started), NOW)

    assert status.up
    assert status.uptime_seconds == seconds
    assert (status.state == "RUNNING") == (seconds >= 3)


@pytest.mark.parametrize(
    ("limits", "keys"),
    [
        ({}, {}),
        ({"memory_max_mb": 1}, {"mem_limit": "6m", "memswap_limit": "6m"}),
        ({"cpu_quota_percent": 900}, {"cpus": 2.0}),
        ({"cpu_quota_percent": 1}, {"cpus": 0.01}),
        ({"cpu_weight": 100}, {"cpu_shares": 1024}),
        ({"cpu_weight": 10_000}, {"cpu_shares": 102_400}),
        ({"io_weight": 1}, {"blkio_config": {"weight": 10}}),
        ({"io_weight": 10_000}, {"blkio_config": {"weight": 1000}}),
        ({"tasks_max": 1}, {"pids_limit": 5}),
    ],
)
def test_limits_keep_within_what_docker_takes(limits: dict[str, int], keys: dict[str, Any]) -> None:
    assert compose_limits(Limits(**limits), TWO) == {"cpu_shares": 1024, **keys}


@pytest.mark.parametrize(("weight", "expected"), [(1, 10), (10, 11), (50, 15), (100, 20), (1000, 109), (10_000, 1000)])
def test_weight_of_input_and_output_survives_what_docker_makes_of_it(weight: int, expected: int) -> None:
    unified = replace(TWO, unified=True)

    assert compose_limits(Limits(io_weight=weight), unified)["blkio_config"] == {"weight": expected}
    assert abs(1 + (expected - 10) * 9999 // 990 - weight) <= 5  # runc's way back
    assert update_words(Limits(), Limits(io_weight=weight), unified) == ["--blkio-weight", str(expected)]


def test_weight_that_the_kernel_does_not_take_is_left_out() -> None:
    bare = Machine(cpus=2, unified=True, weighs_io=False)

    assert compose_limits(Limits(io_weight=100, cpu_weight=20), bare) == {"cpu_shares": 204}
    assert update_words(Limits(), Limits(io_weight=100), bare) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["blkio/tasks"], (False, True)),
        (["cgroup.controllers", "system.slice/cpu.weight"], (True, False)),
        (["cgroup.controllers", "system.slice/io.weight"], (True, True)),
        (["cgroup.controllers", "system.slice/io.bfq.weight"], (True, True)),
    ],
)
def test_control_groups_tell_what_they_can(files: list[str], expected: tuple[bool, bool], tmp_path: Path) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()

    found = machine_at(tmp_path)

    assert (found.unified, found.weighs_io) == expected


def test_only_changed_limits_are_given_to_a_container_that_runs() -> None:
    before = Limits(memory_max_mb=100, cpu_quota_percent=50, cpu_weight=100, io_weight=100, tasks_max=10)
    after = Limits(memory_max_mb=200, cpu_quota_percent=50, cpu_weight=50, io_weight=20, tasks_max=20)

    assert update_words(before, after, TWO) == [
        *("--memory", "200m", "--memory-swap", "200m", "--cpu-shares", "512", "--blkio-weight", "100"),
        *("--pids-limit", "24"),
    ]
    assert update_words(before, before, TWO) == []
    assert update_words(Limits(), Limits(cpu_quota_percent=50), TWO) == ["--cpus", "0.5"]


def test_a_limit_that_is_no_more_is_lifted_and_another_value_is_not() -> None:
    assert lifted(Limits(memory_max_mb=1), Limits(tasks_max=1))
    assert not lifted(Limits(memory_max_mb=1), Limits(memory_max_mb=2, tasks_max=1))


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    layout = ContainerLayout.at(str(tmp_path), "icosfl")
    layout.own.mkdir()
    service = Service.of(described(limits={"tasks_max": 9}, ports={"a": 1}, publish={"a": "127.0.0.1"}))
    record = Record(service, "d", {"image": "x", "healthcheck": {"disable": True}}, {"v": "/v"}, Limits(tasks_max=5))

    layout.record("one").write_text(record.text())

    assert layout.installed() == (record,)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"service": {}}'])
def test_damaged_record_is_told_with_its_file(text: str, tmp_path: Path) -> None:
    layout = ContainerLayout.at(str(tmp_path), "icosfl")
    layout.own.mkdir()
    layout.record("one").write_text(text)

    with pytest.raises(ConfigError, match=r"one\.json"):
        layout.installed()


def test_image_that_is_not_here_or_for_another_machine_is_refused_with_the_cure() -> None:
    services = [Service.of(described()), Service.of(described(name="redis", image="redis:7"))]
    images = unseen(services, "sha256:aa")
    there = {name: replace(image, id="sha256:bb", architecture="arm64") for name, image in images.items()}

    assert images == {"one": Image("sha256:aa", own=True), "redis": Image("redis:7", own=False)}
    with pytest.raises(ConfigError, match="service one: the release's image sha256:aa is not on this machine"):
        refuse_missing(images)
    refuse_missing({"redis": images["redis"]})  # it can be pulled
    refuse_foreign_architecture(there, "arm64")
    with pytest.raises(ConfigError, match=r"is for arm64, not for amd64"):
        refuse_foreign_architecture(there, "amd64")


def arguments(root: Path, **changes: Any) -> dict[str, Any]:
    return {
        "root": str(root),
        "runtime": "docker",
        "image": "",
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "unit_prefix": "icosfl",
        "limits": {},
        "state": "started",
        "directories": [],
        "files": [],
        "services": [described()],
        "restart_files": [],
        "prune": True,
        **changes,
    }


def test_bare_machine_without_docker_is_rehearsed_and_has_nothing_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PATH", str(tmp_path))
    root = tmp_path / "host"

    rehearsed = bring(arguments(root), check=True, hide=set)

    assert rehearsed.started == ("one",)
    assert str(root / "docker" / "compose.yml") in {each.path for each in rehearsed.rewritten}
    assert bring(arguments(root, state="absent", services=None), check=False, hide=set) == Outcome()
    assert bring(arguments(root, state="converged", services=None), check=False, hide=set) == Outcome()
    with pytest.raises(Unavailable, match="there is no docker command"):
        bring(arguments(root), check=False, hide=set)
    assert not root.exists()


def test_restart_files_do_not_count_where_the_image_is_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_PATH", str(tmp_path))
    release = tmp_path / "release.json"

    def composed() -> str:
        changed = bring(arguments(tmp_path / "host", restart_files=[str(release)]), check=True, hide=set)
        return next(each.after for each in changed.rewritten if each.path.endswith("compose.yml"))

    release.write_text("1")
    before = composed()
    release.write_text("2")

    assert composed() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_data_is_handed_over_to_the_user_of_the_services_without_following_links(tmp_path: Path) -> None:
    data, outside = tmp_path / "data", tmp_path / "outside"
    (data / "deep").mkdir(parents=True)
    (data / "deep" / "rows").write_text("rows")
    outside.write_text("root's")
    (data / "link").symlink_to(outside)
    (data / "twin").hardlink_to(outside)

    hand_over([str(data), str(tmp_path / "missing")], Ownership(65534, 65534, 0))

    assert (data / "deep" / "rows").stat().st_uid == (data / "deep").stat().st_uid == data.stat().st_uid == 65534
    assert (data / "link").lstat().st_uid == 65534
    assert outside.stat().st_uid == 0
