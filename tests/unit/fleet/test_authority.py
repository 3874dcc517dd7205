"""The CA's directory on the control node."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from icosfl.errors import ConfigError
from icosfl.fleet import authority, keys, pki

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_the_ca_is_made_once_and_its_key_is_for_its_owner_only(tmp_path: Path) -> None:
    first = authority.open_authority(tmp_path / "pki", "fleet", NOW)

    assert authority.open_authority(tmp_path / "pki", "other", NOW) == first
    assert (tmp_path / "pki/ca.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "pki").stat().st_mode & 0o777 == 0o700


def test_many_who_ask_at_once_get_the_same_ca(tmp_path: Path) -> None:
    found: list[pki.Authority] = []
    asking = [
        threading.Thread(target=lambda: found.append(authority.open_authority(tmp_path / "pki", "fleet", NOW)))
        for _ in range(8)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()

    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_lost_certificate_is_made_anew_from_the_key_and_still_vouches_for_what_was_signed(tmp_path: Path) -> None:
    first = authority.open_authority(tmp_path, "fleet", NOW)
    request = keys.make_request(keys.make_key(), "hub")
    signed = pki.sign(first, request, pki.names_of("hub"), 30, NOW)
    (tmp_path / "ca.crt").unlink()

    second = authority.open_authority(tmp_path, "fleet", NOW)

    assert second.key == first.key
    assert pki.reason_to_sign(signed, request, second, pki.names_of("hub"), NOW) == ""


def test_a_lost_key_is_an_error_with_its_cure(tmp_path: Path) -> None:
    authority.open_authority(tmp_path, "fleet", NOW)
    (tmp_path / "ca.key").unlink()

    with pytest.raises(ConfigError, match=r"ca\.key is missing") as error:
        authority.open_authority(tmp_path, "fleet", NOW)
    assert "backup" in error.value.cure


def test_an_encrypted_key_without_a_password_is_an_error_with_its_cure(tmp_path: Path) -> None:
    authority.open_authority(tmp_path, "fleet", NOW)
    (tmp_path / "ca.key").write_text("$ANSIBLE_VAULT;1.1;AES256\n00\n", encoding="utf-8")

    with pytest.raises(ConfigError, match="is encrypted"):
        authority.open_authority(tmp_path, "fleet", NOW)


def test_what_ends_next_comes_first(tmp_path: Path) -> None:
    ca = authority.open_authority(tmp_path, "fleet", NOW)
    for host, days in (("hub", 30), ("spare", 3)):
        signed = pki.sign(ca, keys.make_request(keys.make_key(), host), pki.names_of(host), days, NOW)
        authority.note_issued(tmp_path, host, "superlink", signed)

    found = authority.expiries(tmp_path, NOW + timedelta(days=2.5))

    assert [each.name for each in found] == ["spare.superlink", "hub.superlink", "the CA"]
    assert [each.ages for each in found] == [True, False, False]


def test_a_clients_certificate_is_told_from_a_hosts(tmp_path: Path) -> None:
    ca = authority.open_authority(tmp_path, "fleet", NOW)
    signed = pki.sign_client(ca, keys.make_request(keys.make_key(), "gateway"), 30, NOW)
    authority.note_client(tmp_path, "gateway", signed)

    first, second = authority.expiries(tmp_path, NOW)

    assert (first.name, first.of_client) == ("gateway", True)
    assert (second.name, second.of_client) == ("the CA", False)


def test_only_that_hosts_services_are_forgotten_that_have_no_certificate_any_more(tmp_path: Path) -> None:
    for host in ("hub", "hub.example.com"):
        for service in ("superlink", "otlp_bridge"):
            authority.note_issued(tmp_path, host, service, "signed")

    assert authority.forget_others(tmp_path, "hub", ["superlink"], dry=True) == ["otlp_bridge"]
    assert authority.forget_others(tmp_path, "hub", ["superlink"]) == ["otlp_bridge"]
    assert authority.forget_others(tmp_path, "hub", ["superlink"]) == []

    left = {file.name for file in (tmp_path / authority.ISSUED).iterdir()}
    assert left == {"hub.superlink.crt", "hub.example.com.superlink.crt", "hub.example.com.otlp_bridge.crt"}


def test_without_a_ca_there_is_nothing_that_could_end(tmp_path: Path) -> None:
    assert authority.expiries(tmp_path / "none", NOW) == ()
