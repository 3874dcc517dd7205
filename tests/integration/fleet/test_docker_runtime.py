from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import docker
import psutil
import pytest
import yaml

from icosfl.fleet import alive
from icosfl.fleet.engine import Engine
from icosfl.fleet.guard import guard_of, is_needed
from icosfl.fleet.place import place_of
from icosfl.fleet.probe import listeners
from icosfl.fleet.probe_docker import look_docker
from icosfl.fleet.status import look_at
from support.fleet import make_host
from support.hosts.fixtures import docker_engine
from support.hosts.machine import as_root

from .conftest import SERVER, eventually
from .docker_host import IDS, DockerHost, stand_in

__all__ = ["docker_engine"]  # pytest finds fixtures by name

pytestmark = pytest.mark.containers

MIB = 1024 * 1024

asks_inside = pytest.mark.skipif(
    Path(alive.__file__).is_relative_to("/tmp"),
    reason="a container's own /tmp hides the health check of a repository below /tmp: test from another directory",
)

# The same server, that keeps its rows, or cannot start.
KEEPER = """
import pathlib, sys
rows = pathlib.Path(sys.argv.pop(1))
rows.open("a").close() if rows.exists() else rows.write_text("rows")
exec(pathlib.Path(sys.argv[0]).with_name("server.py").read_text())
"""


@pytest.fixture(scope="module")
def image(docker_engine: docker.DockerClient) -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("what is installed for containers is root's to see")
    built = stand_in(docker_engine)
    yield built
    docker_engine.images.remove(built, force=True)


@pytest.fixture
def host(docker_engine: docker.DockerClient, image: str, tmp_path: Path) -> Iterator[DockerHost]:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    server = shared / "server.py"
    server.write_text(SERVER)
    host = DockerHost(tmp_path / "host", server, image, docker_engine)
    yield host
    host.stop(state="absent")
    assert host.left() == []


def test_start_brings_services_up_in_order_and_a_second_call_changes_nothing(host: DockerHost) -> None:
    services = [host.service("late_one", priority=20, needs=["early"]), host.service("early", priority=10)]

    rehearsed = host.start(*services, check=True)
    bare = host.left()
    first = host.start(*services)
    pids = host.pids()
    second = host.start(*services)

    assert not first.failed, first["msg"]
    assert bare == []
    assert rehearsed["started"] == first["started"] == ["early", "late_one"]
    assert rehearsed["diff"] == first["diff"]
    assert (host.says("early"), host.says("late_one")) == ("hello", "hello")
    created = {name: host.container(name).attrs["State"]["StartedAt"] for name in ("early", "late_one")}
    assert created["early"] < created["late_one"]
    assert (second["changed"], second["diff"]) == (False, [])
    assert host.pids() == pids
    assert {service["name"] for service in second["services"]} == {"early", "late_one"}


@asks_inside
def test_compose_itself_shows_the_host_by_readable_names(host: DockerHost) -> None:
    host.start(host.service("late_one", priority=20, needs=["early"]), host.service("early"))

    shown = Engine().compose("--project-name", host.prefix, "ps", "--format", "json")
    pids = host.pids()
    Engine().compose("--file", str(host.root / "docker" / "compose.yml"), "up", "--detach")

    assert host.pids() == pids  # whoever brings it up by hand changes nothing
    rows = {row["Name"]: row for row in map(json.loads, shown.splitlines())}
    assert {name: row["Service"] for name, row in rows.items()} == {
        f"{host.prefix}-early": "early",
        f"{host.prefix}-late-one": "late-one",
    }
    assert {row["State"] for row in rows.values()} == {"running"}
    assert f"127.0.0.1:{host.ports['early']}" in rows[f"{host.prefix}-early"]["Ports"]


def test_container_is_hardened(host: DockerHost) -> None:
    limits = {"memory_max_mb": 128, "cpu_quota_percent": 50, "cpu_weight": 200, "tasks_max": 60}
    data = host.root / "data" / "one"
    host.start(host.service("one", limits=limits, writes=[str(data)], image=""))

    seen = host.container("one").attrs
    config, how = seen["Config"], seen["HostConfig"]

    assert config["User"] == IDS
    assert how["Privileged"] is False
    assert how["ReadonlyRootfs"] is True
    assert how["CapDrop"] == ["ALL"]
    assert not how["CapAdd"]
    assert how["SecurityOpt"] == ["no-new-privileges:true"]
    assert how["Init"] is True
    assert set(how["Tmpfs"]) == {"/tmp"}
    assert {"noexec", "nosuid", "nodev"} <= set(how["Tmpfs"]["/tmp"].split(","))
    assert (how["Memory"], how["MemorySwap"]) == (128 * MIB, 128 * MIB)
    assert (how["NanoCpus"], how["CpuShares"], how["PidsLimit"]) == (500_000_000, 2048, 64)
    assert how["RestartPolicy"]["Name"] == "unless-stopped"
    assert how["LogConfig"] == {"Type": "local", "Config": {"max-size": "5m", "max-file": "3"}}
    assert how["NetworkMode"] == host.prefix
    assert (how["PidMode"], how["IpcMode"], how["UTSMode"]) == ("", "private", "")
    assert how["PortBindings"] == {
        f"{host.ports['one']}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(host.ports["one"])}]
    }
    assert {mount["Destination"]: (mount["Type"], mount["RW"]) for mount in seen["Mounts"]} == {
        str(host.server.parent): ("bind", False),
        str(data): ("volume", True),
    }
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Image"] == host.image
    assert (config["StopTimeout"], config["Hostname"]) == (5, "one")


def test_service_is_nobody_and_can_write_nothing_but_its_data_and_tmp(host: DockerHost) -> None:
    data = host.root / "data"
    host.start(host.service("one", writes=[str(data)]))

    assert host.does("one", "id", "-u")[1].strip() == IDS.partition(":")[0]
    for place in ("/", "/usr", str(host.server.parent)):
        code, said = host.does("one", "touch", f"{place}/x")
        assert code != 0
        assert "Read-only file system" in said or "Permission denied" in said
    assert "Read-only file system" in host.does("one", "touch", f"{host.server.parent}/x")[1]
    assert host.does("one", "touch", f"{data}/x", "/tmp/x") == (0, "")
    assert (data / "x").exists()
    assert host.does("one", "sh", "-c", "cp /bin/true /tmp/true && /tmp/true")[0] != 0
    capabilities = host.does("one", "grep", "CapBnd\\|CapEff\\|NoNewPrivs", "/proc/self/status")[1].split()
    assert capabilities == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"]


def test_services_find_one_another_by_name_and_the_machine_only_what_is_published(host: DockerHost) -> None:
    inner = host.service("in_ner", publish={})
    started = host.start(inner, host.service("outer"))

    ask = f"import urllib.request as u; print(u.urlopen('http://in-ner:{host.ports['in_ner']}').read().decode())"

    assert not started.failed, started["msg"]
    assert host.does("outer", "python3", "-c", ask) == (0, "hello\n")
    assert host.says("in_ner") == ""
    assert not host.start(inner)["changed"]


def test_a_port_that_nobody_listens_on_is_not_taken_for_a_working_service(host: DockerHost) -> None:
    deaf = host.service("one", command=["/usr/bin/python3", "-c", "import time; time.sleep(600)"])
    deaf["health"] |= {"kind": "tcp", "timeout_seconds": 2}

    failed = host.start(deaf)

    assert failed.failed
    assert "service one: it does not work after 2 s" in failed["msg"]


def test_changed_definition_restarts_only_that_service_and_only_when_converged(host: DockerHost) -> None:
    one, two = host.service("one"), host.service("two")
    host.start(one, two)
    before = host.pids()
    moin = host.service("two", environment={"GREETING": "moin"})

    changed = host.start(one, moin)
    between = host.pids()
    rehearsed, converged = host.converge(check=True), host.converge()

    assert (changed["outdated"], changed["started"], changed["restarted"]) == (["two"], [], [])
    assert between == before
    assert rehearsed["restarted"] == converged["restarted"] == ["two"]
    assert host.pids()["one"] == before["one"]
    assert host.says("two") == "moin"
    assert not host.converge()["changed"]
    assert not host.start(one, moin)["changed"]


def test_changed_file_contents_call_for_a_restart_until_it_is_done(host: DockerHost) -> None:
    config = host.root / "etc" / "one.toml"
    one = host.service("one", files=[str(config)])
    made = {"directories": [{"path": str(config.parent), "writable": False}]}

    def files(level: int) -> list[dict[str, str]]:
        return [{"path": str(config), "content": f"level = {level}\n"}]

    host.start(one, **made, files=files(1))
    changed, again = (host.start(one, **made, files=files(2)) for _ in range(2))
    converged = host.converge()

    assert changed["written"] == [str(config)]
    assert changed["outdated"] == again["outdated"] == ["one"]
    assert converged["restarted"] == ["one"]
    assert host.does("one", "cat", str(config)) == (0, "level = 2\n")
    assert not host.start(one, **made, files=files(2))["changed"]


def test_missing_path_is_left_out_until_it_is_there(host: DockerHost) -> None:
    key = host.server.parent.parent / "key"
    one = host.service("one")
    one["reads"].append(str(key))

    first = host.start(one)
    made = key.exists()
    key.write_text("k")
    key.chmod(0o644)
    second = host.start(one)
    host.converge()

    assert not first.failed, first["msg"]
    assert not made
    assert second["outdated"] == ["one"]
    assert host.does("one", "cat", str(key)) == (0, "k")


def test_limits_change_while_the_service_runs(host: DockerHost) -> None:
    one = host.service("one", limits={"memory_max_mb": 128})
    host.start(one)
    pids = host.pids()

    limited = host.start(one, limits={"one": {"memory_max_mb": 200, "tasks_max": 50, "cpu_weight": 50}})
    how = host.container("one").attrs["HostConfig"]
    again = host.start(one, limits={"one": {"memory_max_mb": 200, "tasks_max": 50, "cpu_weight": 50}})

    assert (limited["outdated"], limited["changed"], again["changed"]) == ([], True, False)
    assert (how["Memory"], how["MemorySwap"], how["PidsLimit"], how["CpuShares"]) == (200 * MIB, 200 * MIB, 54, 512)
    assert host.pids() == pids
    assert not host.converge()["changed"]


def test_a_lifted_limit_calls_for_a_restart(host: DockerHost) -> None:
    one = host.service("one", limits={"memory_max_mb": 128})
    host.start(one)

    lifted = host.start(host.service("one"))
    converged = host.converge()

    assert lifted["outdated"] == converged["restarted"] == ["one"]
    assert host.container("one").attrs["HostConfig"]["Memory"] == 0
    assert not host.start(host.service("one"))["changed"]


def test_a_limit_that_the_service_exceeds_calls_for_a_restart(host: DockerHost) -> None:
    hungry = ["/usr/bin/python3", "-c", "import sys; kept = b'x' * 60_000_000; exec(open(sys.argv[1]).read())"]
    one = host.service("one", limits={"memory_max_mb": 128})
    one["command"] = [*hungry, str(host.server.with_name("sleeper.py"))]
    one["health"] = {"kind": "process", "timeout_seconds": 20}
    host.server.with_name("sleeper.py").write_text("import time; time.sleep(600)")
    host.start(one)

    exceeded = host.start(one | {"limits": {"memory_max_mb": 8}})

    limit = host.container("one").attrs["HostConfig"]["Memory"]
    # Where control groups are of version 2 the kernel takes it, and ends what is too large.
    assert (exceeded["outdated"], limit) in ((["one"], 128 * MIB), ([], 8 * MIB))
    assert host.start(one | {"limits": {"memory_max_mb": 8}})["outdated"] == exceeded["outdated"]
    host.stop(state="absent")


def test_killed_service_comes_back_by_itself(host: DockerHost) -> None:
    host.start(host.service("one"))
    pid = host.pids()["one"]

    signal_to(pid, "KILL")

    assert eventually(lambda: host.pids().get("one", pid) != pid and host.says("one") == "hello")


@asks_inside
def test_hung_service_is_restarted_by_its_own_health_check(host: DockerHost) -> None:
    host.start(host.service("one"))
    file = host.root / "docker" / "compose.yml"
    hurried = yaml.safe_load(as_root_read(file))
    hurried["services"]["one"]["healthcheck"]["interval"] = "1s"
    subprocess.run([*as_root(), "tee", file], input=yaml.safe_dump(hurried), text=True, check=True, capture_output=True)
    Engine().compose("--file", str(file), "up", "--detach")
    assert eventually(lambda: host.container("one").attrs["State"]["Health"]["Status"] == "healthy")
    pid = host.pids()["one"]
    (service,) = psutil.Process(pid).children()

    signal_to(service.pid, "STOP")

    assert eventually(lambda: host.pids().get("one", pid) != pid and host.says("one") == "hello", 80)


def test_foreign_port_is_refused_by_name_and_nothing_is_left_behind(host: DockerHost) -> None:
    services = [host.service("one", priority=1), host.service("two", priority=2)]
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", host.ports["two"]))
        foreign.listen()

        refused = host.start(*services)

    assert refused.failed
    assert f"edge-01: port {host.ports['two']} (two) is already used by pid" in refused["msg"]
    assert not host.root.exists()
    assert host.left() == []


def test_a_port_that_is_free_here_and_not_for_docker_leaves_no_container_behind(host: DockerHost) -> None:
    refused = host.start(host.service("one", publish={"one": "192.0.2.7"}))

    assert refused.failed
    assert "service one: Docker cannot start it" in refused["msg"]
    assert "192.0.2.7" in refused["msg"]
    assert host.pids() == {}
    assert host.engine.containers.list(all=True, filters={"label": f"io.icosfl.root={host.root}"}) == []


@pytest.mark.parametrize(
    ("changes", "others", "words", "cure"),
    [
        ({}, {"image": "sha256:" + "0" * 64}, "the release's image sha256:000", "container_image"),
        ({}, {"image": ""}, "(none is named) is not on this machine", "container_image"),
        ({"image": "icosfl.invalid/redis:7"}, {}, "its image icosfl.invalid/redis:7 is not on", "docker load"),
        ({"writes": ["/nowhere/data"]}, {}, "writes: /nowhere/data does not exist", "make it"),
        ({"files": ["/nowhere/one.toml"]}, {}, "files names /nowhere/one.toml", "render"),
        ({"environment": {"DB_PASSWORD": "hunter22"}}, {}, "environment.DB_PASSWORD seems to be a secret", "file"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_made(
    changes: dict[str, object], others: dict[str, str], words: str, cure: str, host: DockerHost
) -> None:
    refused = host.start(host.service("one", **changes), **others)

    assert refused.failed
    assert words in refused["msg"]
    assert cure in refused["msg"].partition(" Cure: ")[2]
    assert "hunter22" not in str(refused.values)
    assert not host.root.exists()
    assert host.left() == []


def test_another_image_calls_for_a_restart_of_those_that_run_it(host: DockerHost) -> None:
    other, _ = host.engine.images.build(fileobj=recipe(f"FROM {host.image}\nLABEL another=yes\n"), rm=True)
    own, named = host.service("own"), host.service("named", image=host.image)
    host.start(own, named)
    pids, old = host.pids(), host.image
    try:
        host.image = str(other.id)
        upgraded = host.start(own, named)
        converged = host.converge()
        host.image = old
        host.start(own, named)
        host.converge()
    finally:
        host.engine.images.remove(other.id)

    assert upgraded["outdated"] == converged["restarted"] == ["own"]
    assert host.pids()["named"] == pids["named"]


def test_what_an_image_keeps_for_itself_goes_with_its_container(host: DockerHost) -> None:
    other, _ = host.engine.images.build(fileobj=recipe(f"FROM {host.image}\nVOLUME /data\n"), rm=True)
    try:
        host.start(host.service("one", image=other.id))
        host.start(host.service("one", image=other.id, environment={"GREETING": "moin"}))
        between = own_volumes(host, "one")
        converged = host.converge()
        after = own_volumes(host, "one")
        kept = known_volumes(host) & (between | after)
        host.stop(state="absent")
    finally:
        host.engine.images.remove(other.id)

    assert converged["restarted"] == ["one"]
    assert len(between) == len(after) == len(kept) == 1
    assert not known_volumes(host) & (between | after)


def test_another_prefix_moves_the_containers_to_their_new_names(host: DockerHost) -> None:
    one = host.service("one", writes=[str(host.root / "data")])
    host.start(one)
    old, host.prefix = host.prefix, f"{host.prefix}-x"

    renamed, converged = host.start(one), host.converge()

    assert renamed["outdated"] == converged["restarted"] == ["one"]
    assert host.says("one") == "hello"
    assert not host.start(one)["changed"]
    assert converged["removed"] == [f"volume {old}-data", f"network {old}"]
    assert sorted(host.left()) == sorted([host.prefix, f"{host.prefix}-data", f"{host.prefix}-one"])
    rules = subprocess.run([*as_root(), "iptables", "-S"], check=True, capture_output=True, text=True).stdout
    assert guard_of(old, []).chain not in rules


def test_volume_that_no_service_writes_any_more_is_forgotten_and_its_rows_are_not(host: DockerHost) -> None:
    data = [str(host.root / name) for name in ("data", "more")]
    host.start(host.service("one", writes=data))

    fewer, converged = host.start(host.service("one", writes=data[:1])), host.converge()

    assert fewer["removed"] == []
    assert converged["removed"] == [f"volume {host.prefix}-more"]
    assert Path(data[1]).is_dir()
    assert not host.start(host.service("one", writes=data[:1]))["changed"]


def test_status_knows_containers_their_ports_and_where_they_write(host: DockerHost) -> None:
    host.start(host.service("late", priority=20), host.service("ear_ly"))
    place = replace(
        place_of(make_host("edge-01", host.root, paths={"root": host.root}, ports=dict(host.ports) | {"forecast": 1})),
        runtime="docker",
        unit_prefix=host.prefix,
    )
    assert eventually(lambda: look_at(place).green)

    green = look_at(place)
    host.server.with_name("ill").touch()
    ill = look_at(place)
    host.stop()
    stopped = look_at(place)

    assert [(service.name, service.ports) for service in green.services] == [
        ("ear_ly", {"ear_ly": host.ports["ear_ly"]}),
        ("late", {"late": host.ports["late"]}),
    ]
    assert green.services[0].log == f"docker logs {host.prefix}-ear-ly"
    assert "no rows yet" in ill.reason
    assert (stopped.condition, stopped.reason) == ("down", "its services are stopped: icosfl up")


def test_stopped_host_has_no_process_keeps_its_logs_and_starts_again(host: DockerHost) -> None:
    one = host.service("one")
    host.start(one)

    stopped, again = host.stop(), host.stop()
    pids = host.pids()
    started = host.start(one)

    assert (stopped["stopped"], again["changed"]) == (["one"], False)
    assert pids == {}
    assert started["started"] == ["one"]
    assert host.container("one").logs().decode().count("greeting is hello") == 2


def test_absent_services_leave_nothing_and_their_neighbours_in_peace(host: DockerHost) -> None:
    data = {name: str(host.root / "data" / name) for name in ("one", "two")}
    host.start(*(host.service(name, writes=[path]) for name, path in data.items()))
    two = host.pids()["two"]

    first = host.stop("one", state="absent")
    left, pids = host.left(), host.pids()
    last = host.stop(state="absent")

    assert first["stopped"] == ["one"]
    assert first["removed"] == ["one", f"volume {host.prefix}-data-one"]
    assert sorted(left) == sorted([f"{host.prefix}-two", f"{host.prefix}-data-two", host.prefix])
    assert pids == {"two": two}
    assert last["stopped"] == ["two"]
    assert last["removed"] == ["two", f"volume {host.prefix}-data-two", f"network {host.prefix}"]
    assert host.left() == []
    assert [path.name for path in host.root.iterdir()] == ["data"]
    assert all(Path(path).is_dir() for path in data.values())
    assert not host.stop(state="absent")["changed"]


def test_service_that_ends_at_start_is_reported_with_its_last_words(host: DockerHost) -> None:
    (host.server.parent / "fail").touch()

    failed = host.start(host.service("one"))

    # Docker has forgotten the exit status where it has started the container again by then
    ended = r"edge-01: service one: it ended \((exit status 21|and was started again)\) while it was to start"
    assert re.search(ended, failed["msg"])
    assert "the disk of the moon is full" in failed["msg"]
    assert f"docker logs {host.prefix}-one" in failed["msg"].partition(" Cure: ")[2]


def test_running_service_that_does_not_work_is_restarted(host: DockerHost) -> None:
    one = host.service("one")
    one["health"]["timeout_seconds"] = 1
    host.start(one)
    ill, pid = host.server.parent / "ill", host.pids()["one"]
    ill.touch()

    still_ill = host.start(one)
    ill.unlink()

    assert still_ill.failed
    assert host.pids()["one"] != pid
    # A second may be too short for its process to begin, which is then started once more.
    assert eventually(lambda: not host.start(one).failed)


def test_service_that_measures_the_machine_sees_it_read_only_and_on_its_own_network(host: DockerHost) -> None:
    one = host.service("one", sees_host=True, environment={"LISTEN": "127.0.0.1"})

    started = host.start(one)
    seen = host.container("one").attrs

    assert not started.failed, started["msg"]
    assert seen["HostConfig"]["NetworkMode"] == "host"
    assert seen["HostConfig"]["Privileged"] is False
    assert all(not mount["RW"] for mount in seen["Mounts"])
    assert {"/host/sys/class", "/host/sys/devices"} <= {mount["Destination"] for mount in seen["Mounts"]}
    assert not any(place.startswith("/host/proc") for place in (mount["Destination"] for mount in seen["Mounts"]))
    assert host.says("one") == "hello"
    assert is_own(host, host.ports["one"])
    assert host.start(one | {"description": "another"})["outdated"] == ["one"]  # its port is its own


def test_host_that_changes_its_runtime_keeps_its_data_and_stops_what_ran(host: DockerHost) -> None:
    data = host.root / "data"
    keeper = host.server.with_name("keeper.py")
    keeper.write_text(KEEPER)
    command = ["/usr/bin/python3", str(keeper), str(data / "rows")]
    one = host.service("one", writes=[str(data)])
    one["command"] = [*command, str(host.ports["one"])]
    embedded = one | {"environment": {}}
    host.start(embedded, runtime="supervisor")
    rows = (data / "rows").read_text()

    rehearsed = host.start(one, check=True)
    still = host.says("one")
    moved = host.start(one)
    back = host.start(embedded, runtime="supervisor")

    assert (rows, still) == ("rows", "hello")
    assert not moved.failed, moved["msg"]
    assert rehearsed["stopped"] == moved["stopped"] == ["one", "supervisord"]
    assert rehearsed["removed"] == moved["removed"] == ["one", "supervisord"]
    assert moved["started"] == ["one"]
    assert not back.failed, back["msg"]
    assert back["stopped"] == ["one"]
    assert (data / "rows").read_text() == "rows"
    assert host.left() == []
    assert not host.stop(state="absent", runtime="docker")["changed"] or host.says("one") == ""


def test_a_taken_port_leaves_what_another_runtime_runs_alone(host: DockerHost) -> None:
    host.start(host.service("one", environment={"LISTEN": "127.0.0.1"}), runtime="supervisor")
    two = host.service("two")
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", host.ports["two"]))
        foreign.listen()
        refused = host.start(host.service("one"), two)

    assert refused.failed
    assert "(two) is already used by" in refused["msg"]
    assert host.says("one") == "hello"
    assert host.left() == []


def test_two_hosts_share_a_machine_and_leave_each_other_alone(host: DockerHost, tmp_path: Path) -> None:
    other = DockerHost(tmp_path / "other", host.server, host.image, host.engine)
    host.start(host.service("one"))
    other.start(other.service("one"))
    thief = DockerHost(tmp_path / "thief", host.server, host.image, host.engine, prefix=host.prefix)

    refused = thief.start(thief.service("one"))
    owns = is_own(host, other.ports["one"]), is_own(other, other.ports["one"])
    other.stop(state="absent")

    assert f"container {host.prefix}-one belongs to {host.root}" in refused["msg"]
    assert "icosfl_slot" in refused["msg"]
    assert owns == (False, True)
    assert (host.says("one"), other.says("one")) == ("hello", "")
    assert other.left() == []


class Neighbour:
    """A machine of its own network stack, that routes all by way of this one."""

    def __init__(self, name: str) -> None:
        self.name, self.router = name, "198.18.77.1"

    def reaches(self, address: str, port: int) -> bool:
        ask = f"import socket; socket.create_connection(({address!r}, {port}), 2).close()"
        inside = [*as_root(), "ip", "netns", "exec", self.name, "/usr/bin/python3", "-c", ask]
        return subprocess.run(inside, check=False, capture_output=True, timeout=20).returncode == 0


@pytest.fixture
def neighbour() -> Iterator[Neighbour]:
    there = Neighbour(f"ic-{os.urandom(4).hex()}")
    here = f"{there.name}h"
    for words in (
        f"netns add {there.name}",
        f"link add {here} type veth peer name eth0 netns {there.name}",
        f"address add {there.router}/30 dev {here}",
        f"link set {here} up",
        f"-n {there.name} address add 198.18.77.2/30 dev eth0",
        f"-n {there.name} link set eth0 up",
        f"-n {there.name} route add default via {there.router}",
    ):
        subprocess.run([*as_root(), "ip", *words.split()], check=True, capture_output=True)
    yield there
    subprocess.run([*as_root(), "ip", "netns", "delete", there.name], check=True)


def test_neighbour_that_routes_by_this_machine_reaches_only_what_is_offered(
    host: DockerHost, neighbour: Neighbour
) -> None:
    services = [host.service("redis"), host.service("link", publish={"link": neighbour.router})]
    services[1]["health"]["host"] = neighbour.router
    if not is_needed(Engine().server().speaks):
        pytest.skip("this engine guards its networks itself")
    guard = guard_of(host.prefix, [])

    rehearsed = host.start(*services, check=True)
    started = host.start(*services)
    own = {name: address_of(host, name) for name in ("redis", "link")}
    reached = {name: neighbour.reaches(own[name], host.ports[name]) for name in own}
    offered = neighbour.reaches(neighbour.router, host.ports["link"])
    subprocess.run([*as_root(), "iptables", "--wait", "-D", *guard.jump], check=True)
    bare = neighbour.reaches(own["redis"], host.ports["redis"])
    relaid = host.start(*services)
    again = neighbour.reaches(own["redis"], host.ports["redis"])
    third = host.start(*services)
    host.stop(state="absent")

    assert not started.failed, started["msg"]
    assert rehearsed["diff"] == started["diff"]
    assert str(host.root / "docker" / "guard.rules") in {each["after_header"] for each in started["diff"]}
    assert reached == {"redis": False, "link": True}
    assert offered
    assert bare  # or nothing was proved
    assert relaid["changed"]
    assert relaid["started"] == relaid["outdated"] == relaid["written"] == []
    assert not again
    assert not third["changed"]
    rules = subprocess.run([*as_root(), "iptables", "-S"], check=True, capture_output=True, text=True).stdout
    assert guard.chain not in rules


def address_of(host: DockerHost, name: str) -> str:
    networks = host.container(name).attrs["NetworkSettings"]["Networks"]
    return str(networks[host.prefix]["IPAddress"])


def is_own(host: DockerHost, port: int) -> bool:
    """Whether the preflight takes who listens on a port for one of the host's services."""
    docker = look_docker({"root": str(host.root), "docker": None})
    (found,) = listeners({"one": port}, str(host.root), host.prefix, None, docker)
    return bool(found["own"])


def own_volumes(host: DockerHost, name: str) -> set[str]:
    """The volumes of a service's container. Others on this engine come and go meanwhile."""
    return {mount["Name"] for mount in host.container(name).attrs["Mounts"] if mount["Type"] == "volume"}


def known_volumes(host: DockerHost) -> set[str]:
    """All volumes of the engine."""
    return {str(volume.name) for volume in host.engine.volumes.list()}


def recipe(text: str) -> io.BytesIO:
    return io.BytesIO(text.encode())


def signal_to(pid: int, name: str) -> None:
    subprocess.run([*as_root(), "kill", f"-{name}", str(pid)], check=True)


def as_root_read(path: Path) -> str:
    return subprocess.run([*as_root(), "cat", path], capture_output=True, text=True, check=True).stdout
