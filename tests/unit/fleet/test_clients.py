"""Certificates of collectors that are no hosts of the fleet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icosfl.errors import UserError
from icosfl.fleet import authority, keys, pki
from icosfl.fleet.clients import Client, explain, issue

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    directory = tmp_path / "pki"
    authority.open_authority(directory, "fleet", NOW)
    return directory


def made(ca: Path, output: Path, name: str = "gateway", **more: Any) -> Client:
    return issue(name, output, directory=ca, days=7, now=NOW, **more)


def test_a_client_gets_a_key_a_certificate_and_the_ca(ca: Path, tmp_path: Path) -> None:
    client = made(ca, tmp_path / "new/gateway")

    says = pki.read_certificate(client.certificate.read_text())
    assert (says.subject, says.not_after) == ("gateway", NOW + timedelta(days=7))
    assert client.ends == says.not_after
    assert client.authority.read_text() == authority.certificate(ca)
    assert client.key.stat().st_mode & 0o777 == 0o600
    request = keys.make_request(client.key.read_text(), "gateway")
    assert pki.reason_to_sign(client.certificate.read_text(), request, authority.certificate(ca), [], NOW) == ""


def test_the_control_node_keeps_a_copy_of_the_certificate_and_none_of_the_key(ca: Path, tmp_path: Path) -> None:
    client = made(ca, tmp_path / "out")

    assert (ca / "clients/gateway.crt").read_text() == client.certificate.read_text()
    key = client.key.read_text().splitlines()[1]
    assert not [file for file in ca.rglob("*") if file.is_file() and key in file.read_text()]


@pytest.mark.parametrize("suffix", ["key", "crt"])
def test_what_is_there_is_replaced_only_on_demand(ca: Path, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"gateway.{suffix}"
    file.write_text("mine")

    with pytest.raises(UserError, match=rf"gateway\.{suffix} would be overwritten") as error:
        made(ca, tmp_path)
    assert "--replace" in error.value.cure
    assert file.read_text() == "mine"
    assert {each.name for each in tmp_path.iterdir()} == {"pki", file.name}
    made(ca, tmp_path, replace=True)
    assert file.read_text() != "mine"


def test_another_fleets_ca_is_not_overwritten_and_the_same_one_serves_a_second_client(ca: Path, tmp_path: Path) -> None:
    made(ca, tmp_path)
    made(ca, tmp_path, "second")
    authority.open_authority(tmp_path / "other", "other", NOW)

    with pytest.raises(UserError, match=r"ca\.crt would be overwritten"):
        made(tmp_path / "other", tmp_path, "third")
    assert not (tmp_path / "third.key").exists()


@pytest.mark.parametrize("name", ["", "../gateway", "a b", "-o", "x" * 65, "gäteway", "gateway\n"])
def test_a_name_that_could_not_be_a_file_is_refused(ca: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name for a client"):
        made(ca, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()


def test_without_a_ca_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no CA") as error:
        made(tmp_path / "none", tmp_path / "out")
    assert "icosfl up" in error.value.cure
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_named(ca: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UserError, match="cannot be written"):
        made(ca, tmp_path / "file")
    assert not (ca / "clients").exists()


def test_the_collectors_configuration_names_its_files_and_every_bridge(ca: Path, tmp_path: Path) -> None:
    text = explain(made(ca, tmp_path / "out"), {"edge-01": "192.0.2.11:4316", "edge-02": "[2001:db8::2]:4316"})

    document = yaml.safe_load(text[text.index("exporters:") : text.index("Name them")])
    first, second = (document["exporters"][f"otlp/edge-0{number}"] for number in (1, 2))
    assert (first["endpoint"], second["endpoint"]) == ("192.0.2.11:4316", "[2001:db8::2]:4316")
    assert {Path(first["tls"][key]).name for key in ("ca_file", "cert_file", "key_file")} == {
        "ca.crt",
        "gateway.crt",
        "gateway.key",
    }


def test_where_no_bridge_listens_for_it_the_variable_is_named(ca: Path, tmp_path: Path) -> None:
    assert "icosfl_otlp_listen" in explain(made(ca, tmp_path / "out"), {})
