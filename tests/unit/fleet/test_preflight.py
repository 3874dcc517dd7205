from __future__ import annotations

import os
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from icosfl.errors import ConfigError
from icosfl.fleet.machine import gather
from icosfl.fleet.preflight import BusyPort, Check, Disk, Facts, examine, passed
from support.fleet import make_fleet, make_host

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SOUND = Facts(
    python="3.11.7",
    python_wanted=">=3.11,<3.13",
    packages_wrong={},
    now=NOON,
    written=NOON,
    clock_synchronised=True,
    memory_mb=4000,
    memory_needed_mb=3000,
    disks=(Disk(Path("/srv"), 5000, 3000),),
    ports_checked=42,
    ports_busy=(),
    redis={Path("/srv/valkey-server"): True},
    homes_wrong={},
)


def failures(**changes: Any) -> list[Check]:
    return [check for check in examine(replace(SOUND, **changes)) if check.level == "failed"]


def test_a_sound_machine_passes_every_check() -> None:
    checks = examine(SOUND)

    assert passed(checks)
    assert {check.level for check in checks} == {"ok"}
    assert len(checks) >= 9


@pytest.mark.parametrize(
    ("changes", "name", "part"),
    [
        ({"python": "3.10.2"}, "python", "3.10.2"),
        ({"python": "3.13.0"}, "python", ">=3.11,<3.13"),
        ({"packages_wrong": {"torch": (None, "2.13.0")}}, "environment", "torch 2.13.0 is missing"),
        ({"packages_wrong": {"numpy": ("1.0", "2.2")}}, "environment", "numpy 2.2 is 1.0"),
        ({"redis": {Path("/srv/valkey-server"): False}}, "redis", "/srv/valkey-server"),
        ({"now": datetime(1970, 1, 1, tzinfo=UTC)}, "clock", "1970"),
        ({"disks": (Disk(Path("/srv"), 100, 3000),)}, "disk", "100 MB free"),
        ({"memory_mb": 100}, "memory", "100 MB"),
        ({"homes_wrong": {"control": ("root is 9 bytes too long", "shorter")}}, "directories", "9 bytes"),
    ],
)
def test_what_is_wrong_fails_with_its_cure(changes: dict[str, Any], name: str, part: str) -> None:
    [check] = failures(**changes)

    assert check.name == name
    assert part in check.found
    assert check.cure


def test_a_busy_port_names_host_service_and_holder() -> None:
    busy = (BusyPort("control", "redis", 6400, "pid 7 (redis-server)"), BusyPort("control", "otlp", 4400, "pid 8 (x)"))

    first, second = failures(ports_busy=busy)

    assert first.found == "control: 6400 (redis): pid 7 (redis-server) listens there"
    assert "icosfl_slot" in first.cure
    assert "4400 (otlp)" in second.found


def test_ports_of_one_holder_are_one_failure() -> None:
    busy = tuple(BusyPort("control", name, port, "pid 7 (x)") for name, port in (("redis", 6400), ("otlp", 4400)))

    [check] = failures(ports_busy=busy)

    assert "6400 (redis), 4400 (otlp)" in check.found


def test_many_wrong_packages_are_counted() -> None:
    [check] = failures(packages_wrong={f"p{number}": (None, "1") for number in range(5)})

    assert check.found.endswith("and 2 more")


def test_what_may_be_harmless_is_a_warning_that_passes() -> None:
    checks = examine(replace(SOUND, clock_synchronised=False))

    assert passed(checks)
    assert [check.level for check in checks].count("warning") == 1


def test_a_clock_of_which_nothing_is_known_is_no_failure() -> None:
    assert failures(clock_synchronised=None) == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text(
        "# made by uv\nnumpy==0.1 \\\n    --hash=sha256:00\n    # via icosfl\n"
        "no-such-package==1.0 \\\n    --hash=sha256:00\n"
        "pytest==1.0 ; python_version < '3' \\\n    --hash=sha256:00\n",
        encoding="utf-8",
    )
    return tmp_path


def test_the_environment_is_compared_with_the_lock(project: Path) -> None:
    facts = gather(make_fleet(project, make_host("control", project)))

    assert facts.packages_wrong.keys() == {"numpy", "no-such-package"}
    assert facts.packages_wrong["no-such-package"] == (None, "1.0")
    assert facts.packages_wrong["numpy"][1] == "0.1"


def test_what_another_program_listens_on_is_busy(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        facts = gather(make_fleet(project, make_host("control", project, ports={"forecast": port})))

    [busy] = facts.ports_busy
    assert (busy.host, busy.service, busy.port) == ("control", "forecast", port)
    assert str(os.getpid()) in busy.holder


def test_facts_of_this_machine_are_plausible(project: Path) -> None:
    fleet = make_fleet(
        project,
        make_host("control", project, required_disk_mb=5, required_memory_mb=7),
        make_host("worker-1", project, required_disk_mb=6, required_memory_mb=8),
        make_host("edge-01", project, connection="ssh"),
    )

    facts = gather(fleet)

    assert (facts.memory_needed_mb, [disk.needed_mb for disk in facts.disks]) == (15, [11])
    assert facts.memory_mb > 0
    assert facts.disks[0].free_mb > 0
    assert facts.redis == {Path("/bin/true"): True}
    assert facts.now.tzinfo is not None


def test_a_path_that_is_too_long_for_sockets_is_told(project: Path) -> None:
    facts = gather(make_fleet(project, make_host("control", project / ("x" * 100))))

    message, cure = facts.homes_wrong["control"]
    assert "too long" in message
    assert cure


def test_a_missing_lock_is_an_error_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"requirements\.lock"):
        gather(make_fleet(tmp_path, make_host("control", tmp_path)))
