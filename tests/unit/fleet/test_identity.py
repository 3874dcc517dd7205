"""What a host keeps for itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from icosfl.errors import ConfigError
from icosfl.fleet.identity import Wanted, establish

SERVICES = ("superlink", "otlp_bridge")


def wanted(directory: Path) -> Wanted:
    return Wanted(
        directory=directory,
        user="",
        name="hub",
        tls_keys={each: str(directory / f"{each}.key") for each in SERVICES},
        certificates={each: str(directory / f"{each}.crt") for each in SERVICES},
        node_keys=[str(directory / "supernode.key"), str(directory / "supernode-2.key")],
        secrets=[str(directory / "executor.secret")],
    )


def test_keys_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    directory = tmp_path / "etc/pki"
    first = establish(wanted(directory))

    assert len(first.made) == 5
    assert {file.stat().st_mode & 0o777 for file in directory.iterdir()} == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700
    second = establish(wanted(directory))
    assert second.made == []
    assert second.public_keys == first.public_keys
    assert len(set(first.public_keys)) == 2


def test_nothing_private_is_returned(tmp_path: Path) -> None:
    found = establish(wanted(tmp_path))

    told = "".join([*found.requests.values(), *found.certificates.values(), *found.public_keys])
    assert "PRIVATE" not in told
    for file in tmp_path.iterdir():
        lines = [line for line in file.read_text().splitlines() if not line.startswith("-----")]
        assert not [line for line in lines if line in told]


def test_a_dry_run_makes_nothing_and_names_what_is_missing(tmp_path: Path) -> None:
    found = establish(wanted(tmp_path / "pki"), dry=True)

    assert len(found.made) == 5
    assert found.public_keys == []
    assert found.requests == dict.fromkeys(SERVICES, "")
    assert not (tmp_path / "pki").exists()


def test_the_present_certificates_are_returned(tmp_path: Path) -> None:
    (tmp_path / "superlink.crt").write_text("present", encoding="utf-8")

    assert establish(wanted(tmp_path)).certificates == {"superlink": "present", "otlp_bridge": ""}


def test_each_service_has_a_key_of_its_own(tmp_path: Path) -> None:
    found = establish(wanted(tmp_path))

    asked = [x509.load_pem_x509_csr(request.encode()).public_key() for request in found.requests.values()]
    assert len(asked) == 2
    assert asked[0] != asked[1]


def test_a_key_that_is_none_is_an_error_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "supernode.key").write_text("garbage", encoding="utf-8")

    with pytest.raises(ConfigError, match="cannot be read"):
        establish(wanted(tmp_path))


def test_a_user_that_the_host_lacks_is_named(tmp_path: Path) -> None:
    unknown = Wanted(directory=tmp_path / "pki", user="nobody-knows-me", name="hub")

    with pytest.raises(ConfigError, match="nobody-knows-me is missing"):
        establish(unknown)
