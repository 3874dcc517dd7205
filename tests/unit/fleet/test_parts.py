from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from icosfl.errors import ConfigError, InputError, RunFailed
from icosfl.fleet import part_sources
from icosfl.fleet.bundle_install import uninstall
from icosfl.fleet.part_install import PartRefused, Program, check_host, install, installed, locked, superfluous
from icosfl.fleet.part_sources import debian_mirrors, program_in
from icosfl.fleet.parts import ORIGIN, Part, ensure, part_of, there

ROOT = Path(__file__).parents[3]
PINS = yaml.safe_load((ROOT / "group_vars/all/versions.yml").read_text(encoding="utf-8"))["icosfl_parts"]
SCRIPT = b"#!/bin/sh\necho 1\n"
DIGEST = hashlib.sha256(SCRIPT).hexdigest()
MACHINE = platform.machine()


def pins(**pin: Any) -> dict[str, Any]:
    return {"tool": {"version": "1.2", "program": "bin/tool", "sha256": DIGEST, **pin}}


def given(path: Path, content: bytes) -> Part:
    path.write_bytes(content)
    return part_of(pins(file=str(path), sha256=hashlib.sha256(content).hexdigest()), "tool", MACHINE)


def tar_of(names: dict[str, bytes], mode: str = "w:xz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zip_of(names: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return file.getvalue()


def deb_of(members: dict[str, bytes]) -> bytes:
    package = b"!<arch>\n"
    for name, content in members.items():
        package += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    return package


@pytest.mark.parametrize("name", ["scaphandre", "node_exporter"])
@pytest.mark.parametrize(("machine", "debian"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_the_pins_name_debians_package_for_each_architecture(name: str, machine: str, debian: str) -> None:
    part = part_of(PINS, name, machine)

    assert part.source == "debian"
    assert part.location.endswith(f"_{part.version}_{debian}.deb")


def test_a_wheel_is_named_by_its_version_and_architecture() -> None:
    assert part_of(PINS, "rotel", "x86_64").location == "rotel-0.0.1a15-cp311-cp311-manylinux_2_34_x86_64.whl"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": ""}, "version '' is none"),
        ({"version": "../../etc"}, "is none"),
        ({}, "its file must be given"),
        ({"file": "/x", "sha256": {}}, "no sha256 is known for"),
        ({"file": "/x", "sha256": "abc"}, "sha256 'abc' is none"),
    ],
)
def test_a_pin_that_says_too_little_is_refused_with_what_to_write(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        part_of(pins(**changes), "tool", MACHINE)

    assert "icosfl_part_files: {tool: {version" in refused.value.cure


def test_a_part_that_is_not_pinned_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="'telegraf' is no part") as refused:
        part_of(PINS, "telegraf", MACHINE)

    assert "node_exporter" in refused.value.cure


def test_a_file_that_somebody_gives_goes_before_what_is_fetched() -> None:
    part = part_of(pins(file="/srv/tool", debian="pool/x"), "tool", MACHINE)

    assert (part.source, part.location) == ("file", "/srv/tool")


@pytest.mark.parametrize(
    "content",
    [
        SCRIPT,
        zip_of({"pkg/bin/tool": SCRIPT, "pkg/other": b""}),
        tar_of({"tool-1.2/bin/tool": SCRIPT}, "w:gz"),
        deb_of({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": tar_of({"./bin/tool": SCRIPT})}),
    ],
    ids=["program", "wheel", "tar", "package"],
)
def test_a_program_is_taken_out_of_whatever_it_comes_in(tmp_path: Path, content: bytes) -> None:
    part = given(tmp_path / "file", content)

    found = ensure(part, tmp_path / "parts")

    assert found.path == tmp_path / "parts" / f"tool-1.2-{MACHINE}" / "tool"
    assert found.path.read_bytes() == SCRIPT
    assert found.sha256 == DIGEST
    assert there(part, tmp_path / "parts") == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>not found</html>", "no package, archive or program"),
        (zip_of({"other": b""}), "holds no bin/tool"),
        (zip_of({"a/bin/tool": b"", "b/bin/tool": b""}), "holds 2 bin/tool"),
        (deb_of({"data.tar.zst": b""}), "no data.tar that Python can read"),
        (b"PK and nothing more", "no package, archive or program"),
    ],
)
def test_a_file_without_the_program_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        program_in(content, "bin/tool")


def test_another_file_than_the_pinned_one_leaves_nothing_behind(tmp_path: Path) -> None:
    part = given(tmp_path / "file", SCRIPT)
    (tmp_path / "file").write_bytes(SCRIPT + b"# and more\n")

    with pytest.raises(InputError, match=f"pinned is {DIGEST}"):
        ensure(part, tmp_path / "parts")

    assert [path.name for path in (tmp_path / "parts").iterdir()] == [".lock"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file /nowhere/tool"):
        ensure(part_of(pins(file="/nowhere/tool"), "tool", MACHINE), tmp_path)


def test_what_was_damaged_since_it_was_fetched_is_made_again(tmp_path: Path) -> None:
    part = given(tmp_path / "file", SCRIPT)
    found = ensure(part, tmp_path / "parts")
    found.path.write_bytes(b"#!/bin/false\n")

    assert there(part, tmp_path / "parts") is None
    assert ensure(part, tmp_path / "parts").path.read_bytes() == SCRIPT


def test_what_was_made_of_another_file_is_made_again(tmp_path: Path) -> None:
    part = given(tmp_path / "file", SCRIPT)
    origin = ensure(part, tmp_path / "parts").path.parent / ORIGIN
    origin.write_text(json.dumps({"file": "0" * 64, "program": DIGEST}), encoding="utf-8")

    assert there(part, tmp_path / "parts") is None


def test_a_machine_whose_apt_has_no_debian_archive_is_told_to_bring_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_sources, "_apt_targets", lambda: "Ubuntu noble http://ubuntu.test/\n")

    with pytest.raises(RunFailed, match="knows no Debian archive") as refused:
        ensure(part_of(PINS, "scaphandre", "x86_64"), tmp_path)

    assert "_amd64.deb elsewhere and name it: icosfl_part_files: {scaphandre: {file: PATH}}" in refused.value.cure


def test_a_version_that_left_the_archive_is_told_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "helper"
    helper.write_text("#!/bin/sh\necho 'E: Failed to fetch x  404  Not Found' >&2\nexit 100\n", encoding="utf-8")
    helper.chmod(0o755)
    monkeypatch.setattr(part_sources, "_APT_HELPER", str(helper))
    monkeypatch.setattr(part_sources, "_apt_targets", lambda: "Debian bookworm http://debian.test/debian/\n")

    with pytest.raises(RunFailed, match=r"404 {2}Not Found") as refused:
        ensure(part_of(PINS, "node_exporter", "x86_64"), tmp_path)

    assert "not offered any more" in refused.value.cure


def test_the_archive_is_debians_own_and_not_that_of_security_updates() -> None:
    targets = (
        "Docker bookworm http://d/\nDebian bookworm-security http://s/\nDebian bookworm http://m/debian/\nbroken\n"
    )

    assert debian_mirrors(targets) == ["http://m/debian/"]


@pytest.fixture
def program(tmp_path: Path) -> tuple[Program, Path]:
    shipped = tmp_path / "shipped"
    shipped.write_bytes(SCRIPT)
    return Program("tool", "1.2", DIGEST, MACHINE), shipped


def test_a_program_is_installed_for_everybody_to_run(program: tuple[Program, Path], tmp_path: Path) -> None:
    wanted, shipped = program
    directory = tmp_path / "installed"
    directory.mkdir()
    assert not installed(wanted, directory)

    install(wanted, shipped, directory, start=True)

    path = directory / "tool-1.2" / "tool"
    assert path.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in path.parent.iterdir()] == ["tool"]
    assert installed(wanted, directory)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"x"), lambda path: path.chmod(0o777)])
def test_a_program_that_somebody_changed_is_lacking(program: tuple[Program, Path], tmp_path: Path, spoil: Any) -> None:
    wanted, shipped = program
    install(wanted, shipped, tmp_path, start=False)

    spoil(wanted.path(tmp_path))

    assert not installed(wanted, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"#!/bin/sh\necho 'libcurl.so.4: cannot open shared object file' >&2; exit 127\n",
            "libcurl.so.4: cannot open",
        ),
        (b"\x7fELF of another machine", "does not start here"),
    ],
)
def test_a_program_that_does_not_start_is_not_installed(tmp_path: Path, content: bytes, words: str) -> None:
    shipped = tmp_path / "shipped"
    shipped.write_bytes(content)
    wanted = Program("tool", "1.2", hashlib.sha256(content).hexdigest(), MACHINE)

    with pytest.raises(PartRefused, match=words):
        install(wanted, shipped, tmp_path, start=True)

    assert not (tmp_path / "tool-1.2").exists()


def test_a_program_that_was_damaged_on_its_way_is_not_installed(program: tuple[Program, Path], tmp_path: Path) -> None:
    wanted, shipped = program
    shipped.write_bytes(SCRIPT[:-1])

    with pytest.raises(PartRefused, match="damaged on its way"):
        install(wanted, shipped, tmp_path, start=True)


def test_a_program_for_another_architecture_is_refused() -> None:
    with pytest.raises(PartRefused, match=f"this host is {MACHINE}, tool 1.2 is for riscv64"):
        check_host(Program("tool", "1.2", DIGEST, "riscv64"))


def test_of_old_versions_only_the_newest_stays(tmp_path: Path) -> None:
    for seconds, version in enumerate(("1.0", "1.1", "1.2"), start=1):
        (tmp_path / f"tool-{version}").mkdir()
        os.utime(tmp_path / f"tool-{version}", (seconds, seconds))
    (tmp_path / "tools-9").mkdir()

    assert superfluous(Program("tool", "1.2", DIGEST, MACHINE), tmp_path) == (tmp_path / "tool-1.0",)
    assert superfluous(Program("tool", "1.1", DIGEST, MACHINE), tmp_path) == (tmp_path / "tool-1.0",)


def test_the_last_release_takes_the_programs_with_it(program: tuple[Program, Path], tmp_path: Path) -> None:
    wanted, shipped = program
    directory = tmp_path / "icosfl"
    with locked(directory / "parts"):
        install(wanted, shipped, directory / "parts", start=True)

    uninstall(directory)

    assert not directory.exists()
