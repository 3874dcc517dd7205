"""Hosts that cannot carry the fleet are named with cause and cure; nothing changes on them, and the others go on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from icosfl.fleet.bundle import Wanted, ensure
from support.hosts.bad import BadHosts
from support.hosts.fixtures import MakeFleet
from support.hosts.machine import PROJECT
from support.hosts.playbook import Ran, run

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]  # the first test may install Docker and build images

SAID = {
    "unreachable": (r"ssh: it does not answer", "see whether it runs"),
    "other-key": (r"ssh: it refuses our SSH key or user .*Permission denied", "authorized_keys"),
    "other-host-key": (r"ssh: its SSH host key is not the one that known_hosts has", "ssh-keygen -R"),
    "no-sudo": (r"sudo: its sudo wants a password", "let ansible_user run sudo without one"),
    "small-disk": (r"disk: /opt/icosfl has \d MB of free disk, 4096 MB are needed", "free some"),
    "no-python": (r"python: there is no /usr/bin/python3\.99", "apt-get install python3"),
    "old-python": (r"python: /usr/local/bin/python-old is Python 3\.8, at least 3\.9 is needed", "newer"),
    "late-clock": (r"clock: its clock is at least (8|9)\d s behind ours, at most 60 s are well", "synchronise"),
    "taken-port": (r"ports: port 21999 \(forecast\) is already used by", "icosfl_port_overrides.forecast"),
}
GOOD = ("control", "neighbour")  # two logical hosts of one machine


@pytest.fixture(scope="module")
def hosts(make_fleet: MakeFleet, tmp_path_factory: pytest.TempPathFactory) -> BadHosts:
    return BadHosts(make_fleet("bad", ["bookworm", "trixie"]), tmp_path_factory.mktemp("bad-hosts"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the release's bundle, one bit of which is another."""
    built = ensure(Wanted(PROJECT, PROJECT / ".state" / "bundles"), print)
    copy = tmp_path_factory.mktemp("bundles") / built.path.name
    shutil.copyfile(built.path, copy)
    with copy.open("r+b") as file:
        middle = copy.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    return copy.parent


@pytest.fixture(scope="module")
def before(hosts: BadHosts) -> dict[str, object]:
    """What was on the hosts before any playbook."""
    return {host.name: hosts.state(host.name) for host in hosts.fleet.hosts}


@pytest.fixture(scope="module")
def ran(hosts: BadHosts, damaged: Path, before: dict[str, object]) -> Ran:
    """The whole of site.yml on all of them, with a damaged bundle."""
    return run("site.yml", hosts.inventory, "-e", f"icosfl_bundles_dir={damaged}")


@pytest.mark.parametrize("host", SAID)
def test_a_bad_host_is_named_with_cause_and_cure(host: str, ran: Ran) -> None:
    cause, cure = SAID[host]
    problem = ran.said(host)

    assert re.fullmatch(rf"{host}: .*{cause}.*\. Cure: .*{re.escape(cure)}.*", problem)
    assert (ran.counts(host)["failed"], ran.counts(host)["changed"]) == (1, 0)


def test_the_good_hosts_go_on_until_they_meet_the_damaged_bundle(ran: Ran) -> None:
    for host in GOOD:
        assert "is damaged, it is not the file of the manifest" in ran.said(host)
        assert "Cure: build it again with icosfl bundle" in ran.said(host)
    assert ran.code == 2


def test_nothing_changes_on_bad_hosts_nor_on_good_ones_whose_bundle_is_damaged(
    hosts: BadHosts, before: dict[str, object], ran: Ran
) -> None:
    for name, state in before.items():
        assert hosts.state(name) == state


def test_too_many_bad_hosts_stop_all_before_anything_changes(hosts: BadHosts, before: dict[str, object]) -> None:
    few = ["--limit", "control,no-python,other-key", "-e", "icosfl_max_fail_percentage=60"]

    stopped = run("site.yml", hosts.inventory, *few)

    assert stopped.code == 2
    assert "67.0 % of the hosts were refused, at most 60 % may be. Cure: " in " ".join(stopped.output.split())
    assert "other-key, no-python: " in " ".join(stopped.output.split())
    assert hosts.state(hosts.good) == before[hosts.good]


def test_a_playbook_that_only_asks_names_them_all_too(hosts: BadHosts, before: dict[str, object]) -> None:
    asked = run("playbooks/preflight.yml", hosts.inventory, "--limit", "neighbour,small-disk,late-clock")

    assert [asked.counts(host)["failed"] for host in ("neighbour", "small-disk", "late-clock")] == [0, 1, 1]
    assert hosts.state(hosts.good) == before[hosts.good]
