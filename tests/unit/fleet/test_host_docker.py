from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from icosfl.fleet.engine import version_of
from icosfl.fleet.host_docker import WantedDocker, docker_faults
from icosfl.fleet.host_facts import Asked, Place, Wanted, judge, program
from icosfl.fleet.probe import MARK

DOCKER = WantedDocker(
    install=True,
    distributions=("debian 12",),
    oldest="20.10",
    image_mb=3000,
    architecture="x86_64",
    plugin="/usr/local/lib/docker/cli-plugins/docker-compose",
    program="/opt/icosfl/current/venv/bin/docker-compose",
)
NONE: dict[str, Any] = {"dockerd": "", "command": "", "engine": "", "architecture": ""}
SILENT: dict[str, Any] = {"engine": "", "architecture": "", "error": "/run/docker.sock: Connection refused"}


def docker(**changes: Any) -> dict[str, Any]:
    """What a sound host says of its Docker."""
    return {
        "dockerd": "/usr/sbin/dockerd",
        "command": "/usr/bin/docker",
        "engine": "20.10.24+dfsg1",
        "architecture": "amd64",
        "error": "",
        "mark": "",
        "storage": "/var/lib/docker",
        "place": {
            "path": "/var/lib/docker",
            "above": "/var/lib",
            "trouble": "",
            "device": 1,
            "free_mb": 5000,
            "filled": False,
        },
        **changes,
    }


def faults(wanted: WantedDocker = DOCKER, uid: int = 0, release: str = "debian 12", **changes: Any) -> list[Any]:
    found = {"uid": uid, "release": release, "architecture": "x86_64", "docker": docker(**changes)}
    return list(docker_faults(found, wanted))


def test_a_sound_docker_has_no_fault() -> None:
    assert faults() == []


def test_a_host_without_docker_gets_it() -> None:
    assert faults(**NONE) == []


def test_what_we_installed_and_does_not_run_is_started() -> None:
    assert faults(mark="abc", **SILENT) == []


@pytest.mark.parametrize(
    ("changes", "key", "said", "cure"),
    [
        ({**NONE, "release": "fedora 41"}, "docker", "does not say how fedora 41 gets it", "icosfl_docker_packages"),
        ({**NONE, "wanted": replace(DOCKER, install=False)}, "docker", "install is false", "icosfl_docker_install"),
        (SILENT, "docker", "does not answer: .*Connection refused", "systemctl start docker"),
        ({"engine": "19.03.13"}, "docker", r"Engine 19\.03\.13, at least 20\.10 is needed", "upgrade"),
        ({"engine": "19.03.13", "mark": "abc"}, "docker", "at least", "upgrade"),
        ({"command": ""}, "docker", "no command docker", "docker-cli"),
        ({"architecture": "arm64"}, "image", "runs images for aarch64, ours is made here, for x86_64", "aarch64"),
        ({"uid": 1000, **SILENT}, "ansible_become", "not root", "ansible_become"),
    ],
)
def test_what_is_wrong_is_told_with_its_cure(changes: dict[str, Any], key: str, said: str, cure: str) -> None:
    (fault,) = faults(**changes)

    assert fault[0] == key
    assert re.search(said, fault[1])
    assert cure in fault[2]


def test_a_host_without_docker_is_judged_by_its_own_architecture() -> None:
    (fault,) = faults(replace(DOCKER, architecture="aarch64"), **NONE)

    assert "for x86_64, ours is made here, for aarch64" in fault[1]


class TestTheDiskOfImages:
    wanted = Wanted(
        runtime="docker",
        root="/srv/edge",
        unit_prefix="icosfl",
        user="",
        ports={},
        places=(Place("/srv/edge", "", 1000),),
        memory_mb=0,
        pythons=(),
        architectures=(),
        glibc="2.28",
        clock_tolerance_seconds=60,
        docker=DOCKER,
    )

    def problems(self, free_mb: int, *, device: int = 1, has_image: bool = False) -> list[str]:
        place = {"path": "/srv", "above": "/srv", "trouble": "", "device": device, "free_mb": free_mb, "filled": False}
        images = {**docker()["place"], "free_mb": free_mb, "filled": has_image}
        found = {
            "time": 0.0,
            "python": "3.11.2",
            "uid": 0,
            "release": "debian 12",
            "architecture": "x86_64",
            "glibc": "2.36",
            "systemd": True,
            "memory_mb": 1,
            "places": [place],
            "listeners": [],
            "user": None,
            "docker": docker(place=images),
        }
        return [str(problem) for problem in judge(found, Asked(0, "", "", 0, 1), self.wanted, "edge")]

    def test_it_counts_with_other_places_of_its_file_system(self) -> None:
        (problem,) = self.problems(3999)

        assert "has 3999 MB of free disk, 4000 MB are needed" in problem
        assert self.problems(4000) == []

    def test_another_file_system_is_counted_by_itself(self) -> None:
        assert self.problems(3000, device=2) == []

    def test_a_host_that_has_our_image_needs_little(self) -> None:
        assert self.problems(1064, has_image=True) == []

    def test_both_halves_of_the_program_run_from_their_text_alone(self) -> None:
        done = subprocess.run(
            [sys.executable, "-EsB", "-"], input=program(self.wanted), capture_output=True, text=True, check=True
        )

        said = json.loads(done.stdout.removeprefix(MARK))
        assert {"engine", "error", "place", "linked"} <= set(said["docker"])


@pytest.mark.parametrize(
    ("text", "version"), [("20.10.24+dfsg1", (20, 10, 24)), ("26.1.5-1ubuntu1", (26, 1, 5)), ("", ())]
)
def test_a_version_is_the_numbers_that_it_begins_with(text: str, version: tuple[int, ...]) -> None:
    assert version_of(text) == version
