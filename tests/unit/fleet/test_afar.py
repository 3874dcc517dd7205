from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from icosfl.errors import RunFailed
from icosfl.fleet import afar
from icosfl.fleet.afar import Collector, Trouble, ask_afar
from icosfl.fleet.events import Failure, HostDone, Tally
from icosfl.fleet.everywhere import ask_all, look, seconds_between_looks
from icosfl.fleet.outlook import Outlook
from icosfl.fleet.place import place_of, read_place
from icosfl.fleet.plain import plain
from icosfl.fleet.report import Report, from_plain, to_plain
from icosfl.fleet.runner import Display, Playbook, PlaybookResult
from icosfl.fleet.status import HostStatus, ServiceStatus
from icosfl.fleet.watch import Reading, Value
from icosfl.serve.values import Readiness, StoreState
from support.fleet import make_fleet, make_host

PROJECT = Path(__file__).parents[3]
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
REDIS = ServiceStatus("redis", "RUNNING", "", 11, 90, {"redis": 6400}, "journalctl -u icosfl-redis.service")
READINESS = Readiness(False, ("no model yet",), (), "edge-01", StoreState(61, 600, NOON, 0.4), None)
REPORT = Report(
    HostStatus("edge-01", ("workers",), "green", "", (REDIS,), READINESS),
    Outlook("edge-01", None, None, "no model yet"),
    Reading("edge-01", 61, 109, NOON, 0.4, (Value("cpu_usage", "%", 7.5), Value("power", "W", None)), False, "61 rows"),
)
REFUSED = Failure("edge-02", "Look", "Ask", "it refuses our SSH key", "add it", "no access")


def done(host: str, report: Any = None, failure: Failure | None = None) -> HostDone:
    outcome = "unreachable" if failure and failure.kind == "no access" else "failed" if failure else "ok"
    return HostDone(host, outcome, failure=failure, report=report)  # type: ignore[arg-type]


class Ansible:
    """Plays ansible-runner: hands over steps and remembers what it was asked for."""

    def __init__(self, *steps: HostDone, failures: tuple[Failure, ...] = (), status: Any = "ok") -> None:
        self.steps, self.failures, self.status = steps, failures, status
        self.asked: list[Playbook] = []

    def __call__(self, playbook: Playbook, display: Display) -> PlaybookResult:
        self.asked.append(playbook)
        for step in self.steps:
            display.show(step, Tally())
        return PlaybookResult(playbook.name, self.status, (), self.failures, (), 1.0, None)


@pytest.fixture
def edges(tmp_path: Path) -> Any:
    """A fleet of one host of this machine and two of others, with this project's playbooks."""
    far = [make_host(name, tmp_path, connection="ssh") for name in ("edge-01", "edge-02")]
    return replace(make_fleet(tmp_path, make_host("control", tmp_path), *far), project=PROJECT)


def test_a_report_comes_over_the_wire_as_it_was() -> None:
    assert from_plain(to_plain(REPORT)) == REPORT


def test_a_report_of_another_release_is_a_reason_with_a_cure() -> None:
    collector = Collector()
    collector.show(done("edge-01", {"status": {"condition": "splendid"}}), Tally())

    answer = collector.answer("edge-01")

    assert isinstance(answer, Trouble)
    assert (answer.condition, answer.cure) == ("down", "bring the host to this release: icosfl up")


def test_hosts_are_told_in_the_inventorys_order_wherever_they_are(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ansible = Ansible(done("edge-02", failure=REFUSED), done("edge-01", plain(REPORT)))
    monkeypatch.setattr(afar, "run_playbook", ansible)

    found = look(edges)

    assert [(host.host, host.condition) for host in found.hosts] == [
        ("control", "not deployed"),
        ("edge-01", "green"),
        ("edge-02", "unreachable"),
    ]
    assert (found.hosts[2].reason, found.hosts[2].cure) == ("it refuses our SSH key", "add it")
    assert found.hosts[1].services == (REDIS,)
    [asked] = ansible.asked
    assert (asked.name, asked.limit, asked.variables["look_pages"]) == ("look", "edge-01,edge-02", ["status"])


def test_only_the_hosts_that_are_asked_for_are_asked(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ansible = Ansible(done("edge-01", plain(REPORT)))
    monkeypatch.setattr(afar, "run_playbook", ansible)

    assert ask_all(edges, [edges.hosts[1]]) == (REPORT.outlook,)
    assert ansible.asked[0].limit == "edge-01"


def test_no_playbook_runs_when_every_host_is_here(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ansible = Ansible()
    monkeypatch.setattr(afar, "run_playbook", ansible)

    look(edges, [edges.hosts[0]])

    assert ansible.asked == []


def test_a_host_without_a_release_is_not_deployed(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = Failure("edge-01", "Look", "Ask", "icosfl is not installed on it", "icosfl up", "no release")
    monkeypatch.setattr(afar, "run_playbook", Ansible(done("edge-01", failure=bare), status="failed"))

    assert look(edges, [edges.hosts[1]]).hosts[0].condition == "not deployed"


def test_a_host_that_ansible_did_not_ask_is_not_forgotten(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afar, "run_playbook", Ansible())

    (outlook,) = ask_all(edges, [edges.hosts[1]])

    assert "Ansible did not ask it" in outlook.problem


def test_a_playbook_that_breaks_is_an_error_and_no_answer(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Ansible(failures=(Failure("", "", "", "no vault secrets found"),), status="failed")
    monkeypatch.setattr(afar, "run_playbook", broken)

    with pytest.raises(RunFailed, match="no vault secrets"):
        ask_afar(edges, edges.hosts[1:], ["status"])


def test_ctrl_c_ends_the_question(edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(afar, "run_playbook", Ansible(status="interrupted"))

    with pytest.raises(KeyboardInterrupt):
        ask_afar(edges, edges.hosts[1:], ["status"])


def test_hosts_over_ssh_are_asked_less_often(edges: Any) -> None:
    assert seconds_between_looks(edges.hosts[:1]) < seconds_between_looks(edges.hosts)


def test_a_host_whose_services_systemd_runs_is_asked_by_ansible_also_here(tmp_path: Path) -> None:
    systemd = make_host("control", tmp_path, runtime="systemd")

    assert seconds_between_looks([systemd]) > seconds_between_looks([make_host("control", tmp_path)])


def test_the_playbook_describes_a_place_in_full(tmp_path: Path) -> None:
    [play] = yaml.safe_load((PROJECT / "playbooks" / "look.yml").read_text(encoding="utf-8"))
    place = place_of(make_host("control", tmp_path))

    assert set(play["tasks"][0]["node_report"]["place"]) == set(plain(place)) - {"forecast"}


def test_a_place_is_what_it_was_after_json(tmp_path: Path) -> None:
    place = place_of(make_host("control", tmp_path))
    fields = plain(place)
    del fields["forecast"]

    assert read_place(fields, "") == place
