"""Which keys are registered and unregistered, against a SuperLink that is made up."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from icosfl.errors import ConfigError
from icosfl.fleet.flower import Flower, KeyRevoked, Node, RunStatus
from icosfl.fleet.registry import carry_out, drain, node_names, plan, read_names


@dataclass
class MadeUp:
    """A SuperLink that keeps keys as the real one does: a removed one never comes back."""

    keys: dict[str, int] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    runs: list[dict[str, RunStatus]] = field(default_factory=list)

    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(number, "online", key) for key, number in self.keys.items())

    def register(self, key: str) -> None:
        if key in self.revoked:
            raise KeyRevoked("unregistered once")
        self.keys.setdefault(key, len(self.keys) + len(self.revoked) + 1)

    def unregister(self, node_id: int) -> None:
        key = next(key for key, number in self.keys.items() if number == node_id)
        del self.keys[key]
        self.revoked.add(key)

    def open_runs(self) -> dict[str, RunStatus]:
        return self.runs.pop(0) if self.runs else {}


@pytest.fixture
def superlink() -> MadeUp:
    return MadeUp()


@pytest.fixture
def converge(superlink: MadeUp, tmp_path: Path) -> Callable[..., tuple[list[str], list[str]]]:
    def converge(hosts: dict[str, list[str]]) -> tuple[list[str], list[str]]:
        done = carry_out(cast(Flower, superlink), tmp_path / "names.json", hosts)
        return sorted(done.register), sorted(done.unregister)

    return converge


Converge = Callable[[dict[str, list[str]]], tuple[list[str], list[str]]]


def test_a_new_host_is_registered_and_the_others_stay(converge: Converge, superlink: MadeUp) -> None:
    converge({"a": ["key a"], "b": ["key b"]})

    assert converge({"c": ["key c"]}) == (["c"], [])
    assert set(superlink.keys) == {"key a", "key b", "key c"}


def test_a_second_time_nothing_is_done(converge: Converge) -> None:
    converge({"a": ["key a", "key a2"]})

    assert converge({"a": ["key a", "key a2"]}) == ([], [])


def test_a_host_whose_key_changed_loses_the_old_one(converge: Converge, superlink: MadeUp) -> None:
    converge({"a": ["old"]})

    assert converge({"a": ["new"]}) == (["a"], ["a"])
    assert set(superlink.keys) == {"new"}


def test_a_host_with_fewer_supernodes_loses_the_last_ones(converge: Converge, superlink: MadeUp) -> None:
    converge({"a": ["1", "2", "3"]})

    assert converge({"a": ["1"]}) == ([], ["a/2", "a/3"])
    assert set(superlink.keys) == {"1"}


def test_a_host_that_leaves_is_refused_and_forgotten(converge: Converge, superlink: MadeUp, tmp_path: Path) -> None:
    converge({"a": ["1", "2"], "ab": ["3"]})

    assert converge({"a": []}) == ([], ["a", "a/2"])
    assert read_names(tmp_path / "names.json") == {"ab": "3"}
    assert converge({"a": []}) == ([], [])


def test_a_superlink_that_lost_its_state_gets_its_nodes_again(converge: Converge, superlink: MadeUp) -> None:
    converge({"a": ["key a"]})
    superlink.keys.clear()

    assert converge({"a": ["key a"]}) == (["a"], [])


def test_a_play_that_was_cut_off_before_it_wrote_names_is_cured_by_the_next(
    converge: Converge, superlink: MadeUp, tmp_path: Path
) -> None:
    converge({"a": ["old"]})
    superlink.register("new")  # registered, and then the power went

    assert converge({"a": ["new"]}) == ([], ["a"])
    assert read_names(tmp_path / "names.json") == {"a": "new"}


def test_a_removed_key_that_comes_back_is_named_with_its_cure(converge: Converge) -> None:
    converge({"a": ["1", "2"]})
    converge({"a": []})

    with pytest.raises(ConfigError, match="a was removed") as error:
        converge({"a": ["1", "2"]})
    assert "on a" in error.value.cure


def test_two_hosts_with_the_same_key_are_named(converge: Converge) -> None:
    converge({"a": ["same"]})

    with pytest.raises(ConfigError, match="a and b have the same key"):
        converge({"b": ["same"]})


def test_a_dry_run_changes_nothing(superlink: MadeUp, tmp_path: Path) -> None:
    done = carry_out(cast(Flower, superlink), tmp_path / "names.json", {"a": ["1"]}, dry=True)

    assert not done.empty
    assert superlink.keys == {}
    assert not (tmp_path / "names.json").exists()


def test_a_file_of_names_that_is_none_is_an_error_with_its_cure(tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    for text in ("{", "[]", json.dumps({"a": 1})):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as error:
            read_names(file)
        assert "delete it" in error.value.cure


def test_names_tell_host_and_number() -> None:
    assert node_names("edge-01", 3) == ("edge-01", "edge-01/2", "edge-01/3")


def test_an_exchange_of_two_hosts_keys_unregisters_nobody() -> None:
    nodes = [Node(1, "online", "1"), Node(2, "online", "2")]

    assert plan({"a": "1", "b": "2"}, {"a": ["2"], "b": ["1"]}, nodes).empty


def test_draining_ends_with_the_run(superlink: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icosfl.fleet.registry.DRAIN_POLL_SECONDS", 0)
    superlink.runs = [{"7": RunStatus("running", "")}] * 3

    assert drain(cast(Flower, superlink), 60) == "no run is under way"


def test_draining_ends_with_its_time_and_says_which_run_goes_on(superlink: MadeUp) -> None:
    superlink.runs = [{"7": RunStatus("running", "")}]

    assert "run 7 is still under way" in drain(cast(Flower, superlink), 0)


def test_another_user_may_read_names_also_those_that_were_written_for_their_owner_alone(
    converge: Converge, tmp_path: Path
) -> None:
    file = tmp_path / "names.json"
    converge({"a": ["1"]})
    assert stat.S_IMODE(file.stat().st_mode) == 0o644

    file.chmod(0o600)
    converge({"a": ["1"]})

    assert stat.S_IMODE(file.stat().st_mode) == 0o644
