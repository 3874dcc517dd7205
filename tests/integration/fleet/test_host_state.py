from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
from pathlib import Path

import psutil
import pytest

from icosfl.fleet.probe import listeners

from .conftest import Host, alive, eventually, free_port, redis_service


def test_start_brings_services_up_in_order_and_a_second_call_changes_nothing(host: Host) -> None:
    services = [host.service("late", priority=20), host.service("early", priority=10)]

    first = host.start(*services)
    pids = host.pids()
    second = host.start(*services)

    assert not first.failed, first["msg"]
    assert first["changed"]
    assert first["started"] == ["early", "late"]
    assert (host.says("early"), host.says("late")) == ("hello", "hello")
    log = (host.root / "log" / "supervisord.log").read_text()
    assert log.index("spawned: 'early'") < log.index("spawned: 'late'")
    assert not second["changed"]
    assert host.pids() == pids
    assert {service["name"] for service in second["services"]} == {"early", "late"}


def test_daemon_is_private_and_outlives_the_call_with_a_clean_environment(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD", "hunter22")
    host.start(host.service("one"))

    daemon = psutil.Process(host.supervisor_pid())

    assert "hunter22" not in " ".join(daemon.environ().values())
    assert os.getsid(daemon.pid) == daemon.pid
    assert {Path(f"/proc/{daemon.pid}/fd/{number}").readlink() for number in (0, 1, 2)} == {Path("/dev/null")}
    assert not [connection for connection in daemon.net_connections("inet") if connection.status == psutil.CONN_LISTEN]
    modes = {path.name: path.stat().st_mode & 0o777 for path in (host.root / "supervisor").iterdir()}
    assert all(mode & 0o077 == 0 for mode in modes.values()), modes
    assert (host.root / "supervisor").stat().st_mode & 0o777 == 0o700
    assert (host.root / "log" / "one.log").stat().st_mode & 0o077 == 0


def test_changed_definition_restarts_only_that_service_and_only_when_converged(host: Host) -> None:
    one, two = host.service("one"), host.service("two")
    host.start(one, two)
    before = host.pids()

    changed = host.start(one, {**two, "environment": {"GREETING": "moin"}})
    between = host.pids()
    rehearsed = host.converge(check=True)
    converged = host.converge()

    assert changed["changed"]
    assert (changed["outdated"], changed["started"], changed["restarted"]) == (["two"], [], [])
    assert between == before
    assert rehearsed["restarted"] == converged["restarted"] == ["two"]
    assert host.pids()["one"] == before["one"]
    assert host.says("two") == "moin"
    assert not host.converge()["changed"]
    assert not host.start(one, {**two, "environment": {"GREETING": "moin"}})["changed"]


def test_changed_file_contents_call_for_a_restart_until_it_is_done(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "one.toml"
    config.write_text("level = 1")
    one = host.service("one", files=[str(config)])
    host.start(one)
    config.write_text("level = 2")

    first, again = host.start(one), host.start(one)  # as if the play broke off before its handlers

    assert first["outdated"] == again["outdated"] == ["one"]
    assert host.converge()["restarted"] == ["one"]
    assert host.start(one)["outdated"] == []


def test_directories_files_and_services_are_one_call_and_a_second_changes_nothing(host: Host) -> None:
    config = host.root / "etc" / "one.toml"
    one = host.service("one", files=[str(config)], directory=str(host.root / "data"))
    made = {"directories": [{"path": str(path)} for path in (host.root / "etc", host.root / "data")]}

    def files(level: int) -> list[dict[str, str]]:
        return [{"path": str(config), "content": f"level = {level}\n"}]

    rehearsed = host.start(one, **made, files=files(1), check=True)
    bare = not host.root.exists()
    first = host.start(one, **made, files=files(1))
    second = host.start(one, **made, files=files(1))
    rehearsed_change = host.start(one, **made, files=files(2), check=True)
    changed = host.start(one, **made, files=files(2))

    assert bare
    assert not first.failed, first["msg"]
    assert rehearsed["written"] == first["written"] == [str(host.root / "data"), str(host.root / "etc"), str(config)]
    assert rehearsed["diff"] == first["diff"]
    assert first["started"] == ["one"]
    assert (second["changed"], second["diff"]) == (False, [])
    assert rehearsed_change["outdated"] == changed["outdated"] == ["one"]
    assert changed["written"] == [str(config)]
    assert config.read_text() == "level = 2\n"
    assert host.converge()["restarted"] == ["one"]


def test_a_refused_port_leaves_files_alone(host: Host) -> None:
    one = host.service("one")
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", host.ports["one"]))
        foreign.listen()

        refused = host.start(one, directories=[{"path": str(host.root / "etc")}])

    assert refused.failed
    assert not host.root.exists()


def test_limits_outweigh_those_of_the_description_and_call_for_no_restart(host: Host) -> None:
    one = host.service("one", limits={"memory_max_mb": 100})
    host.start(one)

    limited = host.start(one, limits={"one": {"memory_max_mb": 200}, "absent": {"tasks_max": 5}})
    wrong = host.start(one, limits={"one": {"memory": 200}})

    assert (limited.failed, limited["outdated"]) == (False, [])
    assert "limits: one: memory is unknown" in wrong["msg"]


def test_killed_service_comes_back_by_itself(host: Host) -> None:
    host.start(host.service("one"))
    pid = host.pids()["one"]

    os.kill(pid, signal.SIGKILL)

    assert eventually(lambda: host.pids().get("one", pid) != pid and host.says("one") == "hello")


def test_service_comes_back_when_what_it_needs_was_away(host: Host, tmp_path: Path) -> None:
    host.start(host.service("one"))
    needed = tmp_path / "fail"
    needed.touch()
    os.kill(host.pids()["one"], signal.SIGKILL)
    log = host.root / "log" / "one.log"
    assert eventually(lambda: log.read_text().count("disk of the moon") >= 2)

    needed.unlink()

    assert eventually(lambda: host.says("one") == "hello")


def test_foreign_port_is_refused_by_name_and_nothing_is_started(host: Host) -> None:
    services = [host.service("one", priority=1), host.service("two", priority=2)]
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", host.ports["two"]))
        foreign.listen()

        refused = host.start(*services)

    assert refused.failed
    assert f"edge-01: port {host.ports['two']} (two) is already used by pid {os.getpid()} (" in refused["msg"]
    assert "icosfl_slot" in refused["msg"]
    assert not host.root.exists()
    assert host.says("one") == ""


def test_check_mode_on_an_empty_machine_says_what_would_be_and_touches_nothing(host: Host) -> None:
    one = host.service("one", files=["/nowhere/one.toml"], directory="/nowhere", command=["/nowhere/python"])

    started, converged = host.start(one, check=True), host.converge(check=True)
    stopped, absent = host.stop(check=True), host.stop(state="absent", check=True)

    assert not started.failed
    assert started["changed"]
    assert started["started"] == ["one"]
    assert [diff["before"] for diff in started["diff"]] == [""]
    assert "[program:one]" in started["diff"][0]["after"]
    assert not any(result.failed or result["changed"] for result in (converged, stopped, absent))
    assert not host.root.exists()


def test_check_mode_on_a_running_host_touches_nothing(host: Host) -> None:
    one = host.service("one")
    host.start(one)
    pids = host.pids()
    files = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file() and path.suffix != ".log"}

    same = host.start(one, check=True)
    other = host.start(one | {"priority": 11}, host.service("new"), check=True)
    absent = host.stop(state="absent", check=True)

    assert not same["changed"]
    assert (other["started"], other["outdated"]) == (["new"], ["one"])
    diff = next(diff for diff in other["diff"] if diff["before_header"].endswith("one.ini"))
    assert ("priority=10" in diff["before"], "priority=11" in diff["after"]) == (True, True)
    assert absent["removed"] == ["one", "supervisord"]
    assert host.pids() == pids
    assert {path: path.read_bytes() for path in files} == files


def test_stopped_host_has_no_process_keeps_its_logs_and_starts_again(host: Host) -> None:
    one = host.service("one")
    host.start(one)

    stopped, again = host.stop(), host.stop()

    assert stopped["stopped"] == ["one", "supervisord"]
    assert not again["changed"]
    assert host.processes() == []
    assert "greeting is hello" in (host.root / "log" / "one.log").read_text()
    assert host.start(one)["started"] == ["one"]


def test_absent_services_leave_nothing_and_their_neighbours_in_peace(host: Host) -> None:
    host.start(host.service("one"), host.service("two"))
    two = host.pids()["two"]

    first = host.stop("one", state="absent")
    left = sorted(path.name for path in host.root.rglob("*one*"))
    pids = host.pids()
    last = host.stop("two", state="absent")

    assert (first["stopped"], first["removed"]) == (["one"], ["one"])
    assert left == []
    assert pids == {"two": two}
    assert last["removed"] == ["two", "supervisord"]
    assert not host.root.exists()
    assert host.processes() == []
    assert not host.stop(state="absent")["changed"]


def test_absent_leaves_what_others_keep_below_the_root(host: Host) -> None:
    host.start(host.service("one"))
    (host.root / "data").mkdir()

    host.stop(state="absent")

    assert [path.name for path in host.root.iterdir()] == ["data"]


def test_service_that_ends_at_start_is_reported_with_its_last_words(host: Host, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()

    failed = host.start(host.service("one"))

    assert failed.failed
    assert "edge-01: service one: it ended (exit status 21) while it was to start" in failed["msg"]
    assert "the disk of the moon is full" in failed["msg"]
    assert f"{host.root}/log/one.log" in failed["msg"].partition(" Cure: ")[2]


def test_service_that_was_failing_is_started_at_once_when_its_cause_is_cured(host: Host, tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    host.start(host.service("one"))
    (tmp_path / "fail").unlink()

    cured = host.start(host.service("one"))

    assert not cured.failed, cured["msg"]
    assert host.says("one") == "hello"


def test_service_that_does_not_answer_well_is_reported_with_its_answer(host: Host, tmp_path: Path) -> None:
    (tmp_path / "ill").touch()
    one = host.service("one")
    one["health"]["timeout_seconds"] = 5  # long enough for its process to begin to answer

    failed = host.start(one)

    assert failed.failed
    assert "service one: it does not work after 5 s" in failed["msg"]
    assert "answers 503: no rows yet" in failed["msg"]


def test_running_service_that_does_not_work_is_restarted(host: Host, tmp_path: Path) -> None:
    one = host.service("one")
    one["health"]["timeout_seconds"] = 1
    host.start(one)
    (tmp_path / "ill").touch()
    pid = host.pids()["one"]

    still_ill = host.start(one)
    (tmp_path / "ill").unlink()

    assert still_ill.failed
    assert host.pids()["one"] != pid
    # A second may be too short for its process to begin, which is then started once more.
    assert eventually(lambda: not host.start(one).failed)


def test_services_of_a_killed_supervisord_are_taken_over(host: Host) -> None:
    one, two = host.service("one"), host.service("two")
    host.start(one, two)
    orphans = host.pids()
    host.kill_supervisor()

    found = listeners(host.ports, str(host.root), "icosfl")
    again = host.start(one)

    assert {(by["port"], by["own"]) for by in found} == {(port, True) for port in host.ports.values()}
    assert not again.failed, again["msg"]
    assert again["started"] == ["one"]
    assert set(host.pids()) == {"one", "two"}  # all that is meant to run, not only what was asked for
    assert set(host.pids().values()).isdisjoint(orphans.values())
    assert eventually(lambda: host.says("two") == "hello")


def test_redis_of_a_killed_supervisord_is_taken_over_though_it_overwrites_its_environment(host: Host) -> None:
    redis = redis_service(host)
    host.start(redis)
    orphan = psutil.Process(host.pids()["redis"])
    host.kill_supervisor()

    again = host.start(redis)

    assert not again.failed, again["msg"]
    assert not alive(orphan)
    assert host.pids()["redis"] != orphan.pid


def test_supervisord_whose_directory_was_deleted_is_replaced(host: Host) -> None:
    one = host.service("one")
    host.start(one)
    old = host.supervisor_pid()
    for path in sorted((host.root / "supervisor").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()

    again = host.start(one)

    assert not again.failed, again["msg"]
    assert host.supervisor_pid() != old
    assert host.says("one") == "hello"


def test_host_whose_root_was_deleted_while_it_ran_can_be_removed(host: Host) -> None:
    host.start(host.service("one"))
    shutil.rmtree(host.root)

    rehearsed = host.stop(state="absent", check=True)
    absent = host.stop(state="absent")

    assert rehearsed["stopped"] == absent["stopped"] == ["supervisord"]
    assert host.processes() == []
    assert not host.root.exists()


def test_pending_restart_is_seen_by_whoever_deploys_next(host: Host) -> None:
    one = host.service("one")
    host.start(one)
    host.start(one | {"environment": {"GREETING": "moin"}})

    other = host.start(host.service("two"))

    assert other["outdated"] == ["one"]


def test_port_that_a_dead_service_s_child_holds_is_taken_back(host: Host) -> None:
    one = host.service("one", environment={"CHILD": "yes"})
    host.start(one)
    child = psutil.Process(host.pids()["one"]).children()[0]
    parent = host.pids()["one"]
    os.kill(parent, signal.SIGKILL)
    assert eventually(lambda: child.ppid() != parent)

    host.stop("one")  # its group goes, its orphan need not
    again = host.start(one)

    assert not again.failed, again["msg"]
    assert not alive(child)


def test_two_hosts_share_a_machine_and_leave_each_other_alone(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other", host.server)
    host.start(host.service("one"))
    other.start(other.service("one"))

    (theirs,) = listeners({"one": other.ports["one"]}, str(host.root), "icosfl")
    (own,) = listeners({"one": other.ports["one"]}, str(other.root), "icosfl")
    other.stop(state="absent")

    assert theirs["pid"] == own["pid"] != 0
    assert (theirs["own"], own["own"]) == (False, True)
    assert host.says("one") == "hello"
    assert other.says("one") == ""


def test_the_preflight_tells_a_hosts_services_from_foreign_listeners(host: Host) -> None:
    host.start(host.service("one"))
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        ports = {**host.ports, "a": foreign.getsockname()[1], "free": free_port()}

        found = {by["service"]: by for by in listeners(ports, str(host.root), "icosfl")}

    assert set(found) == {"one", "a"}
    assert (found["one"]["own"], found["a"]["own"], found["a"]["pid"]) == (True, False, os.getpid())


def test_secrets_stay_out_of_every_answer(host: Host) -> None:
    one = host.service("one", environment={"DB_PASSWORD": "hunter22", "GREETING": "hunter22"})

    started = host.start(one)
    failed = host.start(one | {"command": ["/nowhere/python"]})

    assert failed.failed
    assert "hunter22" not in str(started.values) + str(failed.values)
    assert host.says("one") == "hunter22"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"command": ["/nowhere/python"]}, "service one: command: /nowhere/python is not an executable file"),
        ({"directory": "/nowhere"}, "service one: directory: /nowhere does not exist"),
        ({"files": ["/nowhere/one.toml"]}, "service one: files names /nowhere/one.toml"),
        ({"health": {"kind": "smtp"}}, "service one: health: kind is 'smtp'"),
    ],
)
def test_unusable_description_is_refused_before_anything_is_made(
    changes: dict[str, object], words: str, host: Host
) -> None:
    refused = host.start(host.service("one") | changes)

    assert refused.failed
    assert words in refused["msg"]
    assert " Cure: " in refused["msg"]
    assert not host.root.exists()


def test_root_too_long_for_a_socket_is_refused_with_the_cure(host: Host) -> None:
    host.root = host.root / ("long" * 25)

    refused = host.start(host.service("one"))

    assert "bytes too long" in refused["msg"]
    assert "icosfl_home" in refused["msg"]
    host.root = host.root.parent


def test_second_deployment_at_the_same_time_is_refused(host: Host) -> None:
    one = host.service("one")
    host.start(one)
    lock = os.open(host.root / "supervisor", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = host.start(one, host.service("two"))
    finally:
        os.close(lock)

    assert refused.failed
    assert "another deployment is at work" in refused["msg"]
    assert host.says("two") == ""


def test_what_nobody_declares_any_more_is_removed_only_where_that_is_asked_for(host: Host) -> None:
    one, two = host.service("one"), host.service("two")
    host.start(one, two)

    part = host.start(one)
    rehearsed = host.start(one, prune=True, check=True)
    whole = host.start(one, prune=True)
    again = host.start(one, prune=True)

    assert not part["changed"]
    assert (rehearsed["removed"], whole["removed"], whole["stopped"]) == (["two"], ["two"], ["two"])
    assert [path.stem for path in (host.root / "supervisor/services").iterdir()] == ["one"]
    assert not again["changed"]


def test_a_changed_file_of_the_whole_host_makes_every_service_outdated(host: Host) -> None:
    release = host.root.parent / "release.json"
    release.write_text("1")
    services = [host.service("one"), host.service("two")]
    host.start(*services, restart_files=[str(release)])
    before = host.pids()

    release.write_text("2")
    changed = host.start(*services, restart_files=[str(release)])
    host.converge()

    assert changed["outdated"] == ["one", "two"]
    assert not set(host.pids().values()) & set(before.values())
    assert not host.start(*services, restart_files=[str(release)])["changed"]
