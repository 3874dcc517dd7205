"""Who is not let in: real SuperNodes and clients at a SuperLink as the roles run it."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from icosfl.config import Endpoint
from icosfl.errors import UserError
from icosfl.fleet import pki
from icosfl.fleet.flower import KeyRevoked
from icosfl.fleet.registry import carry_out
from support.dataclay_stack import free_ports
from support.flower_stack import FlowerStack

pytestmark = [pytest.mark.timeout(180)]

TRIAL_SECONDS = 60.0


@dataclass
class Trials:
    """A SuperLink, and SuperNodes that try to join it."""

    directory: Path
    flower: FlowerStack

    def join(self, name: str, *arguments: str, key: Path | None, ca: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a SuperNode; what it says is in `log`."""
        app_io = Endpoint(host="127.0.0.1", port=free_ports(1)[0])
        command = self.flower.supernode(app_io, key, *arguments, ca=ca)
        with self.log(name).open("wb") as log:
            return subprocess.Popen(command, env=self.flower.environment(name), stdout=log, stderr=log)

    def log(self, name: str) -> Path:
        """Where a SuperNode's words go."""
        return self.directory / f"{name}.log"

    def refused(self, name: str, *arguments: str, key: Path | None, ca: Path | None = None) -> str:
        """Let a SuperNode try until it gives up; returns what it said."""
        node = self.join(name, *arguments, key=key, ca=ca)
        try:
            code = node.wait(TRIAL_SECONDS)
        finally:
            node.kill()
            node.wait()
        said = self.log(name).read_text(encoding="utf-8")
        assert code != 0, said
        return said

    def online(self) -> int:
        """How many SuperNodes the SuperLink holds for online."""
        return sum(node.status == "online" for node in self.flower.flower.nodes())


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    directory = tmp_path_factory.mktemp("refusals")
    unused = directory / "node.toml"
    unused.write_text("", encoding="utf-8")
    flower = FlowerStack(directory, unused, {})
    try:
        flower.services["superlink"].start()
        yield Trials(directory, flower)
    finally:
        flower.stop()


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + TRIAL_SECONDS
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_supernode_that_speaks_plaintext_is_refused(trials: Trials) -> None:
    said = trials.refused("plaintext", "--insecure", "--max-wait-time=5", key=None)

    assert "Starting insecure" in said
    assert trials.online() == 0


def test_a_supernode_that_trusts_a_foreign_ca_does_not_talk_to_this_superlink(trials: Trials) -> None:
    foreign = trials.directory / "foreign.crt"
    foreign.write_text(pki.make_authority("foreign", datetime.now(UTC)).certificate, encoding="utf-8")
    key = trials.flower.identities.node_key("foreign")
    trials.flower.flower.register(trials.flower.identities.node_public_key("foreign"))

    said = trials.refused("foreign", "--max-wait-time=5", key=key, ca=foreign)

    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert trials.online() == 0


def test_a_supernode_whose_key_nobody_registered_is_refused(trials: Trials) -> None:
    said = trials.refused("stranger", "--max-wait-time=5", key=trials.flower.identities.node_key("stranger"))

    assert "No SuperNode found with the given public key" in said
    assert trials.online() == 0


def test_a_supernode_without_a_key_is_refused(trials: Trials) -> None:
    said = trials.refused("keyless", "--max-wait-time=5", key=None)

    assert "registered" in said, said


def test_a_registered_supernode_takes_part_until_it_is_removed_and_never_again(trials: Trials) -> None:
    names, flower = trials.directory / "supernodes.json", trials.flower
    key, public = flower.identities.node_key("leaver"), flower.identities.node_public_key("leaver")
    carry_out(flower.flower, names, {"leaver": [public]})
    node = trials.join("leaver", key=key)
    try:
        wait_until(lambda: trials.online() == 1)
        done = carry_out(flower.flower, names, {"leaver": []})
        assert list(done.unregister) == ["leaver"]
        assert trials.online() == 0
    finally:
        node.kill()  # one that was removed while it runs does not end on SIGTERM: it tries for ever to say goodbye
        node.wait(TRIAL_SECONDS)

    trials.refused("leaver", "--max-wait-time=5", key=key)
    assert trials.online() == 0
    with pytest.raises(KeyRevoked):
        flower.flower.register(public)


def test_a_second_registration_of_the_same_keys_changes_nothing(trials: Trials) -> None:
    names, flower = trials.directory / "supernodes.json", trials.flower
    wanted = {"twin": [flower.identities.node_public_key("twin"), flower.identities.node_public_key("twin-2")]}

    assert sorted(carry_out(flower.flower, names, wanted).register) == ["twin", "twin/2"]
    assert carry_out(flower.flower, names, wanted).empty


def test_the_control_api_is_not_there_for_other_hosts(trials: Trials) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address_of_this_host(), trials.flower.control.port), timeout=5)


def test_a_broken_key_is_refused(trials: Trials) -> None:
    with pytest.raises(UserError, match="Flower refuses"):
        trials.flower.flower.register("no key")


def address_of_this_host() -> str:
    """An address of this machine beyond its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network")
        return str(trial.getsockname()[0])
