from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from icosfl.errors import ConfigError
from icosfl.fleet.service import Service, services_of

COMPLETE: dict[str, Any] = {
    "name": "otlp_bridge",
    "description": "Bridges metrics",
    "command": ["/usr/bin/python3", "-m", "icosfl.bridge"],
    "environment": {"LEVEL": "info", "THREADS": 2},
    "directory": "/srv/icosfl",
    "files": ["/srv/icosfl/etc/bridge.toml"],
    "health": {"kind": "grpc", "host": "127.0.0.1", "port": 4317, "timeout_seconds": 30},
    "ports": {"otlp": 4317, "bridge_metrics": 9464},
    "stop_seconds": 10,
    "priority": 30,
    "reads": ["/srv/icosfl/tls"],
    "writes": ["/srv/icosfl/data/bridge"],
    "needs": ["dataclay_proxy"],
    "sees_host": False,
    "limits": {"memory_max_mb": 512},
}


def described(**changes: Any) -> dict[str, Any]:
    description = copy.deepcopy(COMPLETE)
    for path, value in changes.items():
        *parents, key = path.split("__")
        table = description
        for parent in parents:
            table = table[parent]
        table[key] = value
    return description


def test_description_becomes_a_value_with_every_key() -> None:
    service = Service.of(COMPLETE)

    assert service.command == ("/usr/bin/python3", "-m", "icosfl.bridge")
    assert service.environment == {"LEVEL": "info", "THREADS": "2"}
    assert service.health.address == "127.0.0.1:4317"
    assert (service.stop_seconds, service.priority, service.limits.memory_max_mb) == (10, 30, 512)


def test_description_survives_a_trip_through_json() -> None:
    service = Service.of(COMPLETE)

    assert Service.of(json.loads(json.dumps(service.description_dict()))) == service


def test_numbers_that_templates_made_texts_are_numbers_again() -> None:
    service = Service.of(
        described(priority="30", ports__otlp="4317", health__port="4317", health__timeout_seconds="2.5")
    )

    assert (service.priority, service.ports["otlp"], service.health.port) == (30, 4317, 4317)
    assert service.health.timeout_seconds == 2.5


def test_process_check_needs_no_address() -> None:
    service = Service.of(described(health={"kind": "process", "timeout_seconds": 5}))

    assert service.health.kind == "process"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Bridge 1"}, ["'Bridge 1'", "lower-case"]),
        ({"command": "python -m icosfl.bridge"}, ["service otlp_bridge: command", "list of texts"]),
        ({"command": []}, ["service otlp_bridge: command is empty"]),
        ({"command": ["python", {"a": 1}]}, ["service otlp_bridge: command"]),
        ({"environment__DEBUG": True}, ["environment.DEBUG is a bool", "quote it"]),
        ({"environment__TOKEN": ["s3cret"]}, ["environment.TOKEN is a list"]),
        ({"environment": {"A B": "x"}}, ["environment.A B"]),
        ({"health__kind": "smtp"}, ["health: kind is 'smtp'", "http, grpc, tcp, redis, process"]),
        ({"health__port": 0}, ["health: port is 0", "1 to 65535"]),
        ({"health__port": None}, ["health: port is missing"]),
        ({"health__timeout_seconds": 0}, ["timeout_seconds is 0", "above 0"]),
        ({"health__retries": 3}, ["health: retries is unknown"]),
        ({"ports__otlp": 70000}, ["ports.otlp is 70000"]),
        ({"priority": -1}, ["priority is -1"]),
        ({"stop_seconds": None}, ["stop_seconds is missing"]),
        ({"restart": "always"}, ["restart is unknown", "known keys"]),
    ],
)
def test_wrong_description_is_refused_by_service_and_key(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Service.of(described(**changes))

    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_services_come_in_their_order_of_start() -> None:
    late = described(name="late", priority=9, ports={})
    early = described(name="early", priority=1, ports={})

    assert [service.name for service in services_of([late, early])] == ["early", "late"]


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="otlp_bridge: described twice"):
        services_of([COMPLETE, COMPLETE])


def test_two_services_on_one_port_are_refused_by_both_names() -> None:
    other = described(name="other", ports={"http": 9464})

    with pytest.raises(
        ConfigError, match=r"other: ports.http is 9464, which service otlp_bridge \(ports.bridge_metrics\)"
    ):
        services_of([COMPLETE, other])


def test_what_is_no_description_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a mapping, got str"):
        Service.of("redis")
    with pytest.raises(ConfigError, match="expected a list"):
        services_of({"name": "redis"})
