from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from icosfl.collect.certificates import NAME, certificate_families
from icosfl.fleet import keys, pki

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_the_end_of_each_certificate_is_shown_and_what_is_missing_or_broken_has_no_value(tmp_path: Path) -> None:
    ca = pki.make_authority("fleet", NOW)
    request = keys.make_request(keys.make_key(), "hub")
    (tmp_path / "ca.crt").write_text(ca.certificate)
    (tmp_path / "superlink.crt").write_text(pki.sign(ca, request, pki.names_of("hub"), 30, NOW))
    (tmp_path / "broken.crt").write_text("broken")
    files = {name: str(tmp_path / f"{name}.crt") for name in ("ca", "superlink", "broken", "missing")}

    (family,) = certificate_families(files)

    values = {sample.labels["certificate"]: sample.value for sample in family.samples}
    assert family.name == NAME
    assert values["superlink"] == (NOW + timedelta(days=30)).timestamp()
    assert set(values) == {"ca", "superlink"}


def test_a_host_without_certificates_shows_none() -> None:
    assert list(certificate_families({"ca": "/does/not/exist"})) == []
