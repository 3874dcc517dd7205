from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.fleet.host_facts import (
    Asked,
    Place,
    Wanted,
    clock_error,
    command,
    judge,
    program,
    read_answer,
    unreachable,
)
from icosfl.fleet.probe import MARK
from icosfl.fleet.topology import Problem

WANTED = Wanted(
    runtime="systemd",
    root="/opt/icosfl/nodes/edge",
    unit_prefix="icosfl",
    user="icosfl",
    ports={"redis": 20379},
    places=(Place("/opt/icosfl", "current", 3000), Place("/opt/icosfl/nodes/edge", "", 1000)),
    memory_mb=1024,
    pythons=("3.11", "3.13"),
    architectures=("x86_64",),
    glibc="2.28",
    clock_tolerance_seconds=60.0,
)
NOW = 1_700_000_000.0
ASKED = Asked(0, "", "", NOW, NOW + 2)


def there(**changes: Any) -> dict[str, Any]:
    """A free disk with room for both places."""
    return {"path": "/opt", "above": "/opt", "trouble": "", "device": 1, "free_mb": 4000, "filled": False, **changes}


def found(**changes: Any) -> dict[str, Any]:
    """What a sound host says."""
    return {
        "time": NOW + 1,
        "python": "3.11.2",
        "uid": 0,
        "release": "debian 12",
        "architecture": "x86_64",
        "glibc": "2.36",
        "systemd": True,
        "memory_mb": 4000,
        "places": [there(), there()],
        "listeners": [],
        "user": None,
        **changes,
    }


def listener(**changes: Any) -> dict[str, Any]:
    return {"service": "redis", "port": 20379, "pid": 7, "command": "redis-server", "own": False, **changes}


def problems(wanted: Wanted = WANTED, **changes: Any) -> list[Problem]:
    return judge(found(**changes), ASKED, wanted, "edge")


def test_a_sound_host_has_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"systemd": False}, "icosfl_runtime", "not run by systemd"),
        ({"uid": 1000}, "ansible_become", "not root"),
        ({"python": "3.12.1"}, "python", r"3\.12\.1 \(debian 12\)"),
        ({"architecture": "armv7l"}, "architecture", "armv7l"),
        ({"glibc": "2.9"}, "glibc", r"glibc 2\.9, glibc 2\.28 is needed"),
        ({"glibc": ""}, "glibc", "not glibc"),
        ({"memory_mb": 1023}, "memory", "1023 MB"),
        ({"time": NOW - 61}, "clock", "61 s behind"),
        ({"time": NOW + 63}, "clock", "61 s ahead"),
        ({"places": [there(), there(device=2, free_mb=999)]}, "disk", "999 MB of free disk, 1000 MB are needed"),
        ({"places": [there(free_mb=3999)] * 2}, "disk", "3999 MB of free disk, 4000 MB are needed"),
        ({"places": [there(), there(trouble="not a directory")]}, "disk", "/opt is not a directory"),
        ({"listeners": [listener()]}, "ports", r"port 20379 \(redis\) is already used by pid 7 \(redis-server\)"),
        ({"listeners": [listener(pid=0)]}, "ports", "a process of another user"),
    ],
)
def test_what_a_host_lacks_is_told_with_its_cure(changes: dict[str, Any], key: str, said: str) -> None:
    (problem,) = problems(**changes)

    assert (problem.host, problem.key) == ("edge", key)
    assert problem.cure
    with pytest.raises(ValueError, match=said):
        raise ValueError(problem.message)


def test_all_problems_are_told_at_once() -> None:
    told = problems(python="3.9.1", time=NOW - 3600, memory_mb=1, listeners=[listener()])

    assert [problem.key for problem in told] == ["python", "clock", "memory", "ports"]


def test_a_host_that_runs_already_needs_little_more_disk_and_may_hold_its_own_ports() -> None:
    full = there(free_mb=130, filled=True)

    assert problems(places=[full, full], listeners=[listener(own=True)]) == []


def test_a_host_of_this_machine_needs_neither_root_nor_systemd() -> None:
    local = replace(WANTED, runtime="supervisor", user="", pythons=(), architectures=())

    assert problems(local, uid=1000, systemd=False, python="3.12.0", architecture="riscv64") == []


@given(st.floats(-59, 59), st.floats(0, 600), st.floats(0, 1))
def test_a_slow_call_is_no_clock_error(error: float, seconds: float, share: float) -> None:
    assert abs(clock_error(NOW + seconds * share + error, NOW, NOW + seconds)) <= abs(error) + 1e-6


@given(st.floats(0, 600), st.floats(0, 1))
def test_a_true_clock_has_no_error_whenever_it_is_read(seconds: float, share: float) -> None:
    assert abs(clock_error(NOW + seconds * share, NOW, NOW + seconds)) < 1e-6


class TestTheProgram:
    def ask(self, *arguments: str, text: str | None = None) -> Asked:
        """Run what the action runs, without the connection."""
        text = program(WANTED) if text is None else text
        done = subprocess.run(arguments, input=text, capture_output=True, text=True, check=False)
        return Asked(done.returncode, done.stdout, done.stderr, NOW, NOW)

    def test_it_runs_from_its_text_alone(self) -> None:
        answer = read_answer(self.ask("/bin/sh", "-c", command(sys.executable)), "edge", "python")

        assert isinstance(answer, dict)
        assert answer["python"] == ".".join(map(str, sys.version_info[:3]))
        assert [place["path"] for place in answer["places"]] == ["/opt/icosfl", "/opt/icosfl/nodes/edge"]
        assert answer["user"] is None

    def test_what_a_login_says_first_does_not_matter(self) -> None:
        asked = replace(ASKED, output=f'Welcome!\n{MARK}{{"python": "3.11.2"}}\n')

        assert read_answer(asked, "edge", "python") == {"python": "3.11.2"}

    def test_a_python_that_is_not_there_is_told(self) -> None:
        problem = read_answer(self.ask("/bin/sh", "-c", command("/no/such/python3")), "edge", "/no/such/python3")

        assert isinstance(problem, Problem)
        assert (problem.host, problem.key) == ("edge", "python")
        assert problem.message == "there is no /no/such/python3"

    def test_a_python_that_is_too_old_is_told_before_it_reads_what_it_cannot(self) -> None:
        old = command(sys.executable).replace("(3, 9)", "(9, 9)")
        problem = read_answer(self.ask("/bin/sh", "-c", old, text="match this: is not Python"), "edge", "/bin/python")

        assert isinstance(problem, Problem)
        assert problem.message.startswith(f"/bin/python is Python 3.{sys.version_info[1]}, at least 3.9")

    @pytest.mark.parametrize(
        ("asked", "key", "said"),
        [
            (replace(ASKED, code=1, errors="sudo: a password is required"), "sudo", "password"),
            (replace(ASKED, code=1, errors="x\nSegmentation fault"), "python", "Segmentation fault"),
            (replace(ASKED, code=1), "python", "it said nothing"),
            (replace(ASKED, output=f"{MARK}{{"), "python", "cut short"),
        ],
    )
    def test_any_other_end_is_told(self, asked: Asked, key: str, said: str) -> None:
        problem = read_answer(asked, "edge", "/usr/bin/python3")

        assert isinstance(problem, Problem)
        assert problem.key == key
        assert said in problem.message

    def test_names_with_quotes_reach_it_whole(self) -> None:
        asked = self.ask(
            sys.executable, "-c", "import sys; exec(sys.stdin.read())", text=program(replace(WANTED, root="/a'b\"c"))
        )

        assert json.loads(asked.output.removeprefix(MARK))["listeners"] == []


@pytest.mark.parametrize(
    ("message", "connected", "key", "said"),
    [
        ("Failed to connect to the host via ssh: ssh: connect to host x port 22: No route to host", False, "ssh", ""),
        ("deploy@x: Permission denied (publickey).", False, "ssh", "key"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @", False, "ssh", "host key"),
        ("Missing sudo password", True, "sudo", "password"),
        ("Timeout (12s) waiting for privilege escalation prompt: ", False, "sudo", "sudo does not answer"),
        ("Something new", False, "ssh", "Something new"),
        ("", False, "ssh", "does not answer"),
    ],
)
def test_a_host_that_cannot_be_asked_is_told_with_its_cure(message: str, connected: bool, key: str, said: str) -> None:
    problem = unreachable(message, "edge", "192.0.2.1", connected=connected)

    assert (problem.host, problem.key) == ("edge", key)
    assert said in problem.message
    assert problem.cure


def test_what_ansible_says_around_an_error_is_left_out() -> None:
    noise = 'Data could not be sent to remote host "x". Make sure this host can be reached over ssh: '

    problem = unreachable(f"{noise}ssh: connect to host x port 22: Connection refused", "edge", "x", connected=False)

    assert "Data could not be sent" not in problem.message
