from __future__ import annotations

from pathlib import Path

import pytest
from supervisor.xmlrpc import Faults

from icosfl.fleet import supervisor
from icosfl.fleet.definition import Layout
from icosfl.fleet.process_status import Status
from icosfl.fleet.supervisor import Supervisor, connect, running_pid

UP = {"name": "demo", "statename": "RUNNING", "pid": 41, "start": 100, "now": 160, "spawnerr": "", "exitstatus": 0}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.logs.mkdir()
    return layout


@pytest.mark.parametrize(
    "name", ["BAD_NAME", "NO_FILE", "NOT_EXECUTABLE", "SPAWN_ERROR", "ALREADY_STARTED", "NOT_RUNNING", "ALREADY_ADDED"]
)
def test_fault_codes_are_those_of_supervisord(name: str) -> None:
    assert getattr(supervisor, name) == getattr(Faults, name)


def test_status_tells_how_long_a_service_is_up() -> None:
    assert Status.of(UP) == Status("demo", "RUNNING", 41, 60)


def test_status_tells_why_a_service_is_not_up() -> None:
    status = Status.of(UP | {"statename": "BACKOFF", "pid": 0, "spawnerr": "Exited too quickly"})

    assert status == Status("demo", "BACKOFF", 0, 0, "Exited too quickly")
    assert not status.up
    assert not status.down  # it will be started again


def test_uptime_is_never_negative_when_the_clock_was_set_back() -> None:
    assert Status.of(UP | {"now": 50}).uptime_seconds == 0


def test_last_exit_is_read_for_the_service_alone(layout: Layout) -> None:
    layout.daemon_log.write_text(
        "2026-01-01 00:00:00,000 WARN exited: demo (exit status 3; not expected)\n"
        "2026-01-01 00:00:01,000 WARN exited: demo (terminated by SIGKILL; not expected)\n"
        "2026-01-01 00:00:02,000 INFO exited: demo_two (exit status 0; expected)\n"
    )

    assert Supervisor(layout).last_exit("demo") == "terminated by SIGKILL"
    assert Supervisor(layout).last_exit("demo_two") == "exit status 0"
    assert Supervisor(layout).last_exit("other") == ""


def test_last_lines_leave_out_what_is_empty(layout: Layout) -> None:
    layout.log("demo").write_text("one\n\ntwo\nthree\n")

    assert Supervisor(layout).last_lines("demo", 2) == ["two", "three"]
    assert Supervisor(layout).last_lines("silent", 2) == []


def test_no_supervisord_is_none(layout: Layout) -> None:
    assert connect(layout) is None
    assert running_pid(layout) == 0
