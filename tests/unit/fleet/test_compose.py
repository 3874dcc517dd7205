from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import ConfigError
from icosfl.fleet.compose import (
    Image,
    Surroundings,
    definition_of,
    digest_of,
    document,
    refuse_twins,
    seen_paths,
    text,
    volumes_of,
)
from icosfl.fleet.container_limits import Machine
from icosfl.fleet.container_records import ContainerLayout, Record
from icosfl.fleet.service import Service

LAYOUT = ContainerLayout.at("/srv/icosfl/edge-01", "icosfl-1")
OWN = Image("sha256:" + "a" * 64, own=True, id="sha256:" + "a" * 64)
REDIS = Image("redis:7", own=False, id="sha256:" + "b" * 64)
FOUR = Machine(cpus=4)
THERE = Surroundings("990:991", (1, 41), ("/opt/python", "-I", "-S", "/opt/alive.py"))


def service(**changes: Any) -> Service:
    return Service.of(
        {
            "name": "data_clay",
            "command": ["/opt/python", "-m", "dataclay"],
            "ports": {"data": 6867, "more": 6868},
            "publish": {"data": "127.0.0.1"},
            "health": {"kind": "grpc", "host": "127.0.0.1", "port": 6867, "timeout_seconds": 20},
            "stop_seconds": 40,
            "priority": 20,
            **changes,
        }
    )


def defined(
    image: Image = OWN, missing: tuple[str, ...] = (), there: Surroundings = THERE, **changes: Any
) -> dict[str, Any]:
    return definition_of(service(**changes), LAYOUT, image, there, missing)


def record(**changes: Any) -> Record:
    described = service(**changes)
    definition = definition_of(described, LAYOUT, OWN, THERE, ())
    return Record(described, "d" * 32, definition, volumes_of(described, LAYOUT), described.limits)


def composed(*records: Record, machine: Machine = FOUR) -> dict[str, Any]:
    loaded = yaml.safe_load(text(document(LAYOUT, records, machine)))
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image", OWN.reference),
        ("pull_policy", "never"),
        ("container_name", "icosfl-1-data-clay"),
        ("hostname", "data-clay"),
        ("entrypoint", ["/opt/python"]),
        ("command", ["-m", "dataclay"]),
        ("working_dir", "/srv/icosfl/edge-01"),
        ("user", "990:991"),
        ("init", True),
        ("read_only", True),
        ("cap_drop", ["ALL"]),
        ("security_opt", ["no-new-privileges:true"]),
        ("tmpfs", ["/tmp:size=256m,mode=1777,noexec,nosuid,nodev"]),
        ("ulimits", {"core": 0}),
        ("restart", "unless-stopped"),
        ("stop_grace_period", "40s"),
        ("logging", {"driver": "local", "options": {"max-size": "5m", "max-file": "3"}}),
        ("ports", ["127.0.0.1:6867:6867"]),
        ("networks", {"private": {"aliases": ["data-clay"]}}),
        ("environment", {"HOME": "/srv/icosfl/edge-01", "LANG": "C.UTF-8"}),
        ("volumes", []),
    ],
)
def test_definition_is_hardened_key_by_key(key: str, value: object) -> None:
    assert defined()[key] == value


@pytest.mark.parametrize("key", ["privileged", "cap_add", "devices", "pid", "ipc", "userns_mode", "network_mode"])
def test_no_service_is_given_what_would_weaken_it(key: str) -> None:
    assert key not in defined()
    assert key == "network_mode" or key not in defined(sees_host=True)


def test_service_that_sees_the_host_is_on_its_network_and_mounts_its_kernel_read_only() -> None:
    definition = defined(sees_host=True, missing=("/sys/bus",))

    assert definition["network_mode"] == "host"
    assert not {"networks", "ports", "hostname"} & definition.keys()
    mounts = {mount["target"]: mount for mount in definition["volumes"]}
    assert set(mounts) == {"/host/sys/block", "/host/sys/class", "/host/sys/devices"}
    assert all(mount["read_only"] and not mount["bind"]["create_host_path"] for mount in mounts.values())


def test_health_check_asks_at_the_services_own_name() -> None:
    assert defined()["healthcheck"] == {
        "test": [*("CMD", *THERE.check), "grpc", "data-clay", "6867", "/", "", "20.0", "2"],
        "interval": "30s",
        "timeout": "10s",
        "retries": 3,
        "start_period": "20s",
    }
    assert defined(sees_host=True)["healthcheck"]["test"][6] == "127.0.0.1"


def test_engines_that_can_look_more_often_at_the_start_do() -> None:
    newer = replace(THERE, api=(1, 44))

    assert defined(there=newer)["healthcheck"]["start_interval"] == "1s"
    assert digest_of(defined(there=newer), OWN, "") == digest_of(defined(), OWN, "")


def test_process_and_foreign_images_are_not_asked_but_a_redis_is_in_its_own_way() -> None:
    assert defined(health={"kind": "process", "timeout_seconds": 5})["healthcheck"] == {"disable": True}
    assert defined(REDIS)["healthcheck"] == {"disable": True}
    redis = {"kind": "redis", "host": "127.0.0.1", "port": 6379, "timeout_seconds": 5}
    assert defined(REDIS, health=redis)["healthcheck"]["test"] == [
        *("CMD", "redis-cli", "-h", "data-clay", "-p", "6379", "ping")
    ]


def test_image_by_name_is_pulled_where_it_is_missing_and_one_by_id_never() -> None:
    assert defined(REDIS)["pull_policy"] == "missing"
    assert defined(Image("sha256:" + "c" * 64, own=False))["pull_policy"] == "never"


def test_what_is_read_is_mounted_at_its_place_and_left_out_where_it_is_missing() -> None:
    volumes = defined(files=["/srv/a.toml"], reads=["/srv/key", "/srv/a.toml"], missing=("/srv/key",))["volumes"]

    assert volumes == [
        {
            "type": "bind",
            "source": "/srv/a.toml",
            "target": "/srv/a.toml",
            "read_only": True,
            "bind": {"create_host_path": False},
        }
    ]


def test_what_is_written_is_a_named_volume_bound_to_the_hosts_directory() -> None:
    path = "/srv/icosfl/edge-01/data/redis"
    whole = composed(record(writes=[path], reads=[path]))

    assert whole["services"]["data-clay"]["volumes"] == [
        {"type": "volume", "source": "icosfl-1-data-redis", "target": path, "volume": {"nocopy": True}}
    ]
    assert whole["services"]["data-clay"]["environment"]["HOME"] == path
    assert whole["volumes"]["icosfl-1-data-redis"] == {
        "name": "icosfl-1-data-redis",
        "driver": "local",
        "driver_opts": {"type": "none", "o": "bind", "device": path},
        "labels": {"io.icosfl.root": "/srv/icosfl/edge-01"},
    }


_PATHS = st.lists(
    st.from_regex(r"[a-c._-]{1,4}", fullmatch=True).filter(lambda part: part not in {".", ".."}), min_size=1
)


@given(st.lists(_PATHS.map(lambda parts: "/".join(["", *parts])), min_size=2, max_size=6, unique=True), st.booleans())
def test_no_two_directories_share_a_volume(paths: list[str], below: bool) -> None:
    written = [f"{LAYOUT.root}{path}" if below else path for path in paths]

    volumes = volumes_of(service(writes=written), LAYOUT)

    assert set(volumes.values()) == set(written)
    assert all(re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", name) for name in volumes)


def test_document_has_one_network_and_says_whose_everything_is() -> None:
    whole = composed(record(), record(name="other", ports={}, publish={}))
    label = {"io.icosfl.root": "/srv/icosfl/edge-01"}

    assert whole["name"] == "icosfl-1"
    assert whole["networks"] == {
        "private": {
            "name": "icosfl-1",
            "driver": "bridge",
            "driver_opts": {"com.docker.network.bridge.name": "br-icosfl-1"},
            "labels": label,
        }
    }
    assert whole["services"]["data-clay"]["labels"] == {
        **label,
        "io.icosfl.service": "data_clay",
        "io.icosfl.bridge": "br-icosfl-1",
        "io.icosfl.digest": "d" * 32,
    }


def test_services_wait_for_what_they_need_as_far_as_it_is_there_and_can_be_asked() -> None:
    process = {"kind": "process", "timeout_seconds": 5}
    whole = composed(
        record(needs=["redis_1", "executor", "absent"]),
        record(name="redis_1", ports={}, publish={}),
        record(name="executor", ports={}, publish={}, health=process),
    )

    assert whole["services"]["data-clay"]["depends_on"] == {
        "redis-1": {"condition": "service_healthy"},
        "executor": {"condition": "service_started"},
    }


def test_text_says_who_wrote_it_and_lets_compose_put_no_variable_in() -> None:
    greedy = record(command=["/bin/sh", "-c", "echo $HOME ${PATH} $$"], environment={"GREETING": "cost: $5"})

    written = text(document(LAYOUT, [greedy], FOUR))

    assert written.startswith("# Written by Ansible: changes are lost.\n")
    loaded = yaml.safe_load(written)["services"]["data-clay"]
    assert loaded["command"] == ["-c", "echo $$HOME $${PATH} $$$$"]
    assert loaded["environment"]["GREETING"] == "cost: $$5"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40))
def test_any_word_survives_yaml(word: str) -> None:
    whole = composed(record(command=["/bin/echo", word]))

    assert whole["services"]["data-clay"]["command"] == [word.replace("$", "$$")]


def test_limits_count_and_call_for_no_restart() -> None:
    limited = record(limits={"memory_max_mb": 100, "cpu_quota_percent": 150, "io_weight": 50, "tasks_max": 60})
    service_ = composed(limited)["services"]["data-clay"]

    assert service_["mem_limit"] == service_["memswap_limit"] == "100m"
    assert (service_["cpus"], service_["pids_limit"]) == (1.5, 64)
    assert service_["blkio_config"] == {"weight": 250}
    assert digest_of(limited.definition, OWN, "") == digest_of(record().definition, OWN, "")


def test_digest_follows_the_image_itself_and_not_how_it_came() -> None:
    pulled = Image("registry/icosfl@sha256:" + "d" * 64, own=True, id=OWN.id)
    other = Image("sha256:" + "e" * 64, own=True, id="sha256:" + "e" * 64)

    assert digest_of(defined(pulled), pulled, "") == digest_of(defined(), OWN, "")
    assert digest_of(defined(other), other, "") != digest_of(defined(), OWN, "")


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ["/opt/python", "-m", "other"]},
        {"environment": {"A": "b"}},
        {"publish": {}},
        {"writes": ["/srv/icosfl/edge-01/data"]},
        {"sees_host": True},
        {"stop_seconds": 41},
    ],
)
def test_what_changes_the_container_changes_its_digest(changes: dict[str, Any]) -> None:
    assert digest_of(defined(**changes), OWN, "") != digest_of(defined(), OWN, "")
    assert digest_of(defined(), OWN, "new contents") != digest_of(defined(), OWN, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"environment": {"DB_PASSWORD": "hunter2"}}, "environment.DB_PASSWORD seems to be a secret"),
        ({"environment": {"A": "b\nc"}}, "environment.A has a line end"),
        ({"command": ["/bin/echo", "a\nb"]}, "command has a line end"),
        ({"reads": ["/srv/a\x00b"]}, "files has a line end"),
    ],
)
def test_what_must_not_stand_there_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match="service data_clay: ") as refused:
        defined(**changes)

    assert words in str(refused.value)
    assert refused.value.cure


def test_path_to_a_secret_is_none() -> None:
    assert defined(environment={"KEY_FILE": "/srv/key"})["environment"]["KEY_FILE"] == "/srv/key"


def test_services_with_one_name_on_the_network_are_refused() -> None:
    with pytest.raises(ConfigError, match="services a_b and a-b would both be a-b"):
        refuse_twins([service(name="a_b"), service(name="a-b")])


def test_paths_that_a_service_writes_are_not_among_those_that_it_reads() -> None:
    assert seen_paths(service(files=["/a"], reads=["/b", "/a"], writes=["/b"])) == ("/a",)


def test_ipv6_addresses_are_published_in_brackets() -> None:
    assert defined(publish={"data": "::1"})["ports"] == ["[::1]:6867:6867"]


@pytest.mark.parametrize("root", ["srv", "/srv/../etc", "/srv/a b", "/srv/a,b", "/srv/$a"])
def test_root_that_docker_cannot_take_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="cannot hold"):
        ContainerLayout.at(root, "icosfl")


@pytest.mark.parametrize("prefix", ["", "Icosfl", "1a", "a_b", "a b"])
def test_prefix_that_is_no_name_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigError, match="unit_prefix"):
        ContainerLayout.at("/srv", prefix)
