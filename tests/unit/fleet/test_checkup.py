from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from icosfl.fleet import afar
from icosfl.fleet.authority import CERTIFICATE, note_client, open_authority
from icosfl.fleet.checkup import examine_fleet, refusals
from icosfl.fleet.events import Failure, HostDone, HostRecap, Tally
from icosfl.fleet.keys import make_key, make_request
from icosfl.fleet.pki import make_authority, sign_client
from icosfl.fleet.preflight import Check
from icosfl.fleet.runner import Display, Playbook, PlaybookResult
from support.fleet import make_fleet, make_host

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def edges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fleet of three hosts of other machines: one is well, one is refused, one is not asked."""
    shutil.copy(PROJECT / "requirements.lock", tmp_path)

    def preflight(playbook: Playbook, display: Display) -> PlaybookResult:
        failure = Failure(
            "edge-02", "p", "t", "edge-02: disk: 3 MB. Cure: free some\nedge-02: clock: off. Cure: set it"
        )
        display.show(HostDone("edge-02", "failed", failure=failure), Tally())
        recap = tuple(HostRecap(name, 1, 0, 0, 0, 0) for name in ("edge-01", "edge-02"))
        return PlaybookResult(playbook.name, "failed", recap, (failure,), (), 1.0, None)

    monkeypatch.setattr(afar, "run_playbook", preflight)
    return make_fleet(tmp_path, *(make_host(f"edge-0{number}", tmp_path, connection="ssh") for number in (1, 2, 3)))


def found(fleet: Any, name: str) -> list[tuple[str, str, str]]:
    return [(each.level, each.found, each.cure) for each in examine_fleet(fleet) if each.name == name]


def test_each_host_is_judged_by_the_preflight_with_a_line_a_reason(edges: Any) -> None:
    assert found(edges, "edge-01") == [("ok", "it can carry its services", "")]
    assert found(edges, "edge-02") == [("failed", "disk: 3 MB", "free some"), ("failed", "clock: off", "set it")]
    assert found(edges, "edge-03")[0][0] == "failed"


def test_one_reason_keeps_its_cure() -> None:
    one = Failure("edge-01", "p", "t", "edge-01: sudo: it wants a password", "let it run without")

    assert list(refusals("edge-01", one)) == [
        Check("edge-01", "failed", "sudo: it wants a password", "let it run without")
    ]


@pytest.mark.parametrize(("age_days", "level"), [(0, "ok"), (10_000, "failed")])
def test_certificates_are_told_by_the_days_that_they_still_hold(edges: Any, age_days: int, level: str) -> None:
    folder = edges.hosts[0].pki_dir
    folder.mkdir()
    made = make_authority("lab", datetime.now(UTC) - timedelta(days=age_days))
    (folder / CERTIFICATE).write_text(made.certificate, encoding="utf-8")

    [(told, text, cure)] = found(edges, "certificates")

    assert told == level
    assert "the CA" in text
    assert bool(cure) is (level == "failed")


def test_a_clients_certificate_that_ends_soon_is_cured_by_its_own_command(edges: Any) -> None:
    folder, then = edges.hosts[0].pki_dir, datetime.now(UTC) - timedelta(days=25)
    ca = open_authority(folder, "lab", then)
    for days, name in ((30, "gateway"), (3, "gone")):
        note_client(folder, name, sign_client(ca, make_request(make_key(), name), days, then))

    gone, gateway = found(edges, "certificates")

    assert (gone[0], gateway[0]) == ("failed", "warning")
    assert gateway[1] == "gateway: 5 days left"
    assert "icosfl certificate gateway" in gateway[2]
    assert str(folder / "clients/gone.crt") in gone[2]


def test_a_bundle_that_is_not_built_is_a_warning(tmp_path: Path, edges: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = make_fleet(PROJECT, make_host("edge-01", tmp_path, connection="ssh", python_source="bundle"))

    [(level, text, cure)] = found(fleet, "bundle")

    assert level == "warning"
    assert "not built yet" in text
    assert "icosfl bundle" in cure
