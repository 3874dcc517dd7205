"""Docker Engine comes from a host's own packages where there is none; one that is there, and its settings, stay."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.hosts import HostFleet
from support.hosts.apt_proxy import apt_proxy
from support.hosts.fixtures import MakeFleet
from support.hosts.playbook import Ran, run

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]  # the first test may install Docker and build images

BARE, EQUIPPED = "control", "worker-1"
CONFIG = "/etc/docker/daemon.json"
CA = "/etc/docker/certs.d/reg.example.com:5000/ca.crt"
THEIRS = '{"log-driver": "local", "labels": ["rack=7"]}\n'
PLAYBOOK, CLEANUP = (f"molecule/docker_engine/{name}.yml" for name in ("converge", "cleanup"))


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Iterator[HostFleet]:
    """A Debian 12 without Docker that reads its archive, and a Debian 13 whose Docker somebody has set up."""
    made = make_fleet("engine", ["bookworm"], docker=[BARE], engine=False)
    made.add_host(EQUIPPED, "trixie", docker=True)
    made.write(EQUIPPED, CONFIG, THEIRS)
    made.run(EQUIPPED, ["systemctl", "restart", "docker"])
    with apt_proxy(f"{made[BARE].address.rpartition('.')[0]}.1") as archive:
        made.write(BARE, "/etc/apt/sources.list", f"deb [check-valid-until=no] {archive} bookworm main\n")
        yield made


@pytest.fixture(scope="module")
def before(fleet: HostFleet) -> dict[str, str]:
    """What was in the bare host's directories before any playbook."""
    subprocess.run(fleet.ssh(BARE, "sudo -n true"), check=True, stdin=subprocess.DEVNULL)  # writes a little of its own
    return fleet.files(BARE, "/etc", "/usr/local")


@pytest.fixture(scope="module")
def refused(fleet: HostFleet, before: dict[str, str]) -> Ran:
    """The preflight of hosts that may not be used as they are."""
    fleet.run(EQUIPPED, ["systemctl", "stop", "docker.socket", "docker.service"])
    try:
        return run("playbooks/preflight.yml", fleet.inventory, "-e", "icosfl_docker_install=false")
    finally:
        fleet.run(EQUIPPED, ["systemctl", "start", "docker.service"])


@pytest.fixture(scope="module")
def rehearsed(fleet: HostFleet, before: dict[str, str]) -> Ran:
    return run(PLAYBOOK, fleet.inventory, "--check", "--diff")


@pytest.fixture(scope="module")
def installed(fleet: HostFleet, rehearsed: Ran) -> Ran:
    return run(PLAYBOOK, fleet.inventory)


def test_hosts_without_docker_that_may_not_get_it_and_with_a_silent_one_are_refused(refused: Ran) -> None:
    assert f"{BARE}: docker: it has no Docker Engine, and icosfl_docker_install is false. Cure: " in refused.said(BARE)
    assert f"{EQUIPPED}: docker: its Docker Engine does not answer: " in refused.said(EQUIPPED)
    assert "Cure: start it (systemctl start docker)" in refused.said(EQUIPPED)


def test_an_engine_that_is_too_old_and_a_disk_that_is_too_small_are_refused(fleet: HostFleet) -> None:
    wanted = ["-e", "icosfl_required_docker=99.1", "-e", "icosfl_required_image_mb=99999999"]

    said = run("playbooks/preflight.yml", fleet.inventory, "--limit", EQUIPPED, *wanted).said(EQUIPPED)

    assert "it has Docker Engine 26.1.5+dfsg1, at least 99.1 is needed. Cure: upgrade it there" in said
    assert re.search(r"disk: /var/lib/docker has \d+ MB of free disk, 99999999 MB are needed", said)


def test_a_rehearsal_says_what_would_be_and_changes_nothing(
    fleet: HostFleet, before: dict[str, str], rehearsed: Ran
) -> None:
    assert rehearsed.code == 0, rehearsed.output
    assert "docker.io, apparmor, configured as" in " ".join(rehearsed.output.split())
    assert rehearsed.counts(BARE)["changed"] > 0
    assert fleet.files(BARE, "/etc", "/usr/local") == before


def test_a_bare_host_gets_an_engine_that_rotates_logs_and_lets_containers_live(
    fleet: HostFleet, installed: Ran
) -> None:
    assert installed.code == 0, installed.output
    told = "{{json .LiveRestoreEnabled}} {{.LoggingDriver}} {{json .Labels}}"
    live, driver, labels = fleet.run(BARE, ["docker", "info", "--format", told]).stdout.split()
    assert (live, driver) == ("true", "json-file")
    assert labels.startswith('["io.icosfl.engine=')
    assert json.loads(fleet.read(BARE, CONFIG))["log-opts"] == {"max-size": "10m", "max-file": "3"}
    assert fleet.run(BARE, ["systemctl", "is-enabled", "docker.service"]).stdout == "enabled\n"


def test_containers_run_on_it(fleet: HostFleet, installed: Ran) -> None:
    make = "tar -ch /bin/echo $(ldd /bin/echo | grep -o '/[^ ]*') 2>/dev/null | docker import - tiny"
    fleet.run(BARE, ["sh", "-ec", make])

    assert fleet.run(BARE, ["docker", "run", "--rm", "tiny", "/bin/echo", "it runs"]).stdout == "it runs\n"


def test_an_engine_that_was_there_stays_as_its_owner_configured_it(fleet: HostFleet, installed: Ran) -> None:
    assert fleet.read(EQUIPPED, CONFIG) == THEIRS
    assert fleet.run(EQUIPPED, ["docker", "info", "--format", "{{.LoggingDriver}}"]).stdout == "local\n"


def test_another_setting_restarts_only_the_engine_that_is_ours(fleet: HostFleet, installed: Ran) -> None:
    changed = run(PLAYBOOK, fleet.inventory, "-e", "icosfl_docker_log_mb=5")

    assert json.loads(fleet.read(BARE, CONFIG))["log-opts"]["max-size"] == "5m"
    assert (changed.counts(BARE)["failed"], changed.counts(EQUIPPED)["changed"]) == (0, 0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name a registry with a CA of its own."""
    ca = tmp_path_factory.mktemp("registry") / "ca.crt"
    ca.write_text("a certificate\n", encoding="utf-8")
    return ["-e", "icosfl_registry=reg.example.com:5000/fleet", "-e", f"icosfl_registry_ca={ca}"]


@dataclass(frozen=True)
class Settings:
    """Of the bare host's engine: the mark in its file, the mark of the engine that runs, and the registry's CA."""

    written: list[str]
    in_use: list[str]
    ca: str

    @classmethod
    def of(cls, fleet: HostFleet) -> Settings:
        """As they are now."""
        running = fleet.run(BARE, ["docker", "info", "--format", "{{json .Labels}}"]).stdout
        return cls(json.loads(fleet.read(BARE, CONFIG))["labels"], json.loads(running), fleet.read(BARE, CA))


@pytest.fixture(scope="module")
def cut_off(fleet: HostFleet, installed: Ran, registry: list[str]) -> Settings:
    """What a run leaves that ends before it restarts the engine."""
    ran = run(PLAYBOOK, fleet.inventory, *registry, "--skip-tags", "docker_engine_service")
    assert ran.code == 0, ran.output
    return Settings.of(fleet)


@pytest.fixture(scope="module")
def completed(fleet: HostFleet, cut_off: Settings, registry: list[str]) -> Ran:
    """The next run."""
    return run(PLAYBOOK, fleet.inventory, *registry)


def test_a_run_that_was_cut_off_before_the_restart_is_completed_by_the_next(
    fleet: HostFleet, cut_off: Settings, completed: Ran
) -> None:
    assert cut_off.ca == "a certificate\n"
    assert cut_off.in_use != cut_off.written
    assert completed.counts(BARE)["changed"] == 1, completed.output
    assert Settings.of(fleet).in_use == cut_off.written


def test_a_run_after_a_complete_one_changes_nothing(fleet: HostFleet, completed: Ran, registry: list[str]) -> None:
    again = run(PLAYBOOK, fleet.inventory, *registry)

    assert (again.counts(BARE)["changed"], again.counts(EQUIPPED)["changed"]) == (0, 0), again.output


def test_a_run_that_was_cut_off_before_docker_was_installed_is_completed_by_the_next(
    fleet: HostFleet, completed: Ran, registry: list[str]
) -> None:
    fleet.run(BARE, ["systemctl", "stop", "docker.socket", "docker.service"])
    fleet.run(BARE, ["dpkg", "--remove", "docker.io"])
    fleet.run(BARE, ["rm", "-rf", "/etc/docker/certs.d"])  # the mark stays

    ran = run(PLAYBOOK, fleet.inventory, *registry)

    assert ran.code == 0, ran.output
    assert fleet.run(BARE, ["docker", "info", "--format", "{{.LoggingDriver}}"]).stdout == "json-file\n"
    assert fleet.read(BARE, CA) == "a certificate\n"


def test_the_link_to_compose_goes_with_the_release(fleet: HostFleet, installed: Ran) -> None:
    link = "/usr/local/lib/docker/cli-plugins/docker-compose"
    assert fleet.run(BARE, ["readlink", link]).stdout == "/opt/icosfl/current/venv/bin/docker-compose\n"
    fleet.write(EQUIPPED, "/opt/icosfl/releases/1/venv/bin/docker-compose", "")
    fleet.run(EQUIPPED, ["ln", "-s", "releases/1", "/opt/icosfl/current"])

    removed = run(CLEANUP, fleet.inventory)

    assert removed.code == 0, removed.output
    assert fleet.run(BARE, ["readlink", link], check=False).stdout == ""
    assert fleet.run(EQUIPPED, ["readlink", link]).stdout != ""
