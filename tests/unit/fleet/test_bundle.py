from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from icosfl.errors import UserError
from icosfl.fleet.bundle import verify_once, write_bundle
from icosfl.fleet.bundle_archive import BundleRefused, dump_manifest, parse_manifest, read_bundle, read_manifest
from icosfl.fleet.bundle_install import check_host
from icosfl.fleet.bundle_interpreter import relocated
from icosfl.fleet.bundle_plan import Plan, Target, check_target, is_made_of, make_plan, node_requirements, plan_digest
from icosfl.fleet.bundle_signature import is_signed
from icosfl.fleet.bundle_signing import make_key, public_key, sign

TARGET = Target("3.11.7", "cp311", "x86_64", "2.36")
LOCK = """\
# made by a tool
black==1.0 \\
    --hash=sha256:{a}
    # via icosfl (pyproject.toml:dev)
leaf==2.0 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via
    #   black
    #   Run_Time
run-time==3.0 \\
    --hash=sha256:{b}
    # via icosfl (pyproject.toml)
uv==0.1 \\
    --hash=sha256:{b}
    # via icosfl (pyproject.toml:dev)
""".format(a="a" * 64, b="b" * 64)
Bundle = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Writes a bundle of two small files."""

    def make(sign_key: Path | None = None) -> Path:
        files = {}
        for name, text in (("requirements.txt", "nothing"), ("python/bin/python3.11", "x" * 4000)):
            path = tmp_path / "source" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            files[name] = path
        written = tmp_path / "1-abc.tar"
        write_bundle(written, Plan("1-abc", "1", TARGET, (), ()), files, 1, sign_key)
        return written

    return make


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], extra: str = "") -> Path:
    """The bundle with each member changed, or left out."""
    other = path.with_name("other.tar")
    with tarfile.open(path) as source, tarfile.open(other, "w") as target:
        for member in source:
            file = source.extractfile(member)
            assert file is not None
            data = change(member.name, file.read())
            if data is not None:
                member.size = len(data)
                target.addfile(member, io.BytesIO(data))
        if extra:
            target.addfile(tarfile.TarInfo(extra), io.BytesIO(b""))
    return other


def test_a_node_gets_what_the_project_names_and_what_that_needs_and_uv_which_installs_it() -> None:
    chosen = node_requirements(LOCK, ["run.time"])

    assert [each.name for each in chosen] == ["leaf", "run-time", "uv"]
    assert chosen[0].hashes == {"a" * 64, "b" * 64}


def test_who_else_needs_a_requirement_makes_no_other_release() -> None:
    other = LOCK.replace("    #   black\n", "")

    assert node_requirements(LOCK, ["run-time"]) == node_requirements(other, ["run-time"])


def test_a_dependency_that_the_lock_lacks_is_named_with_the_cure() -> None:
    with pytest.raises(UserError, match="lacks torch") as raised:
        node_requirements(LOCK, ["torch"])

    assert raised.value.cure == "make lock"


def test_an_unchanged_project_has_the_same_id_and_any_change_another() -> None:
    digest = plan_digest("lock", {"a.py": "1"}, TARGET)

    assert digest == plan_digest("lock", {"a.py": "1"}, TARGET)
    assert digest != plan_digest("lock2", {"a.py": "1"}, TARGET)
    assert digest != plan_digest("lock", {"a.py": "2"}, TARGET)
    assert digest != plan_digest("lock", {"a.py": "1"}, dataclasses.replace(TARGET, glibc="2.41"))


def test_the_project_itself_can_be_planned_and_leaves_the_operators_tools_at_home() -> None:
    plan = make_plan(Path(__file__).parents[3], TARGET)

    names = {each.name for each in plan.requirements}
    assert {"torch", "flwr", "dataclay", "httpx", "uv"} <= names
    assert not {"ansible-core", "ansible-runner", "pytest", "ruff"} & names
    assert plan.id.endswith("-cp311-linux_x86_64")


def test_a_release_brings_the_extras_that_it_is_asked_for_and_is_then_another() -> None:
    project = Path(__file__).parents[3]
    plain, mlflow = make_plan(project, TARGET), make_plan(project, TARGET, ["mlflow"])

    more = {each.name for each in mlflow.requirements} - {each.name for each in plain.requirements}
    assert {"mlflow-skinny", "databricks-sdk"} <= more  # with what it needs itself
    assert "wandb" not in more
    assert mlflow.id != plain.id


def test_a_release_is_known_for_the_project_s_own_whatever_extras_it_has() -> None:
    project = Path(__file__).parents[3]
    for extras in ([], ["mlflow"], ["mlflow", "wandb"]):
        assert is_made_of(make_plan(project, TARGET, extras).id, project, TARGET)
    assert not is_made_of("0.1.0-0123456789ab-cp311-linux_x86_64", project, TARGET)


@pytest.mark.parametrize("extra", ["operator", "no-such-thing"])
def test_an_extra_that_nodes_cannot_have_is_refused(extra: str) -> None:
    with pytest.raises(UserError, match=f"nodes can have no {extra}") as caught:
        make_plan(Path(__file__).parents[3], TARGET, [extra])
    assert "mlflow, wandb" in caught.value.cure


@pytest.mark.parametrize(("python", "machine"), [("3.13", None), (None, "aarch64")])
def test_a_target_that_cannot_be_built_for_here_is_refused(python: str | None, machine: str | None) -> None:
    with pytest.raises(UserError, match="cannot be built here"):
        check_target(TARGET, python, machine)


def test_a_whole_bundle_is_unpacked_with_its_programs_executable(bundle: Bundle, tmp_path: Path) -> None:
    into = tmp_path / "into"
    into.mkdir()

    manifest = read_bundle(bundle(), into)

    assert manifest.id == "1-abc"
    assert (into / "python/bin/python3.11").stat().st_mode & 0o777 == 0o755
    assert (into / "requirements.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("at", [700, 3000, -9000])
def test_a_bundle_with_one_bit_turned_is_refused(bundle: Bundle, at: int) -> None:
    path = bundle()
    data = bytearray(path.read_bytes())
    place = data.index(b"x" * 100) if at < 0 else at
    data[place] ^= 1
    path.write_bytes(data)

    with pytest.raises(BundleRefused) as raised:
        read_bundle(path)

    assert str(path) in raised.value.cause
    assert raised.value.cure


def test_a_bundle_is_checked_once_before_it_is_shipped_and_again_when_it_is_another(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle()
    sha256 = read_manifest(path).sha256
    verify_once(path, "", sha256)
    with monkeypatch.context() as patched:
        patched.setattr("icosfl.fleet.bundle_archive.read_bundle", lambda _: pytest.fail("checked twice"))
        verify_once(path, "", sha256)

    data = bytearray(path.read_bytes())
    data[data.index(b"x" * 100)] ^= 1
    path.write_bytes(data)

    for _ in range(2):
        with pytest.raises(BundleRefused, match="damaged"):
            verify_once(path, "", sha256)
    with pytest.raises(BundleRefused, match="another bundle"):
        verify_once(path, "", "0" * 64)


def test_a_bundle_without_one_of_its_files_is_refused(bundle: Bundle) -> None:
    other = rewritten(bundle(), lambda name, data: None if name == "requirements.txt" else data)

    with pytest.raises(BundleRefused, match=r"incomplete: requirements\.txt missing"):
        read_bundle(other)


def test_a_bundle_with_a_file_too_many_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleRefused, match=r"evil\.py is not what the manifest names"):
        read_bundle(rewritten(bundle(), lambda _, data: data, extra="evil.py"))


def test_a_bundle_that_ends_early_is_refused(bundle: Bundle) -> None:
    path = bundle()
    path.write_bytes(path.read_bytes()[:4096])

    with pytest.raises(BundleRefused, match=r"incomplete|damaged"):
        read_bundle(path)


def test_a_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no")

    with pytest.raises(BundleRefused, match="is no bundle"):
        read_bundle(tmp_path / "x.tar")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b"])
def test_a_manifest_that_names_a_file_outside_is_refused(bundle: Bundle, name: str) -> None:
    manifest = read_manifest(bundle())
    files = {name: next(iter(manifest.files.values()))}

    with pytest.raises(BundleRefused, match="outside"):
        parse_manifest(dump_manifest(dataclasses.replace(manifest, files=files)), "it")


def test_a_bundle_other_than_the_control_nodes_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleRefused, match="another bundle"):
        read_bundle(bundle(), sha256="0" * 64)


def test_a_signed_bundle_is_accepted_with_its_own_key_only(bundle: Bundle, tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    make_key(tmp_path / "other")
    path = bundle(tmp_path / "key")

    assert read_bundle(path, public_key=public_key(tmp_path / "key")).signed
    with pytest.raises(BundleRefused, match="signed with another key"):
        read_bundle(path, public_key=public_key(tmp_path / "other"))
    with pytest.raises(BundleRefused, match="not signed"):
        read_bundle(bundle(), public_key=public_key(tmp_path / "key"))


def test_a_public_key_that_is_none_is_refused(bundle: Bundle) -> None:
    with pytest.raises(BundleRefused, match="public key for bundles is wrong"):
        read_bundle(bundle(), public_key="abc")


def test_a_signature_holds_for_its_message_and_nothing_else(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    signature, key = sign(b"message", tmp_path / "key"), public_key(tmp_path / "key")

    assert is_signed(b"message", signature, key)
    assert not is_signed(b"messagf", signature, key)
    assert not is_signed(b"message", signature[:-1] + bytes([signature[-1] ^ 1]), key)
    assert not is_signed(b"message", b"", key)


def test_a_signing_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "key").chmod(0o644)

    with pytest.raises(UserError, match="others may read"):
        sign(b"", tmp_path / "key")


@pytest.mark.parametrize(
    ("wrong", "cause"), [({"machine": "riscv64"}, "riscv64"), ({"glibc": "99.1"}, r"glibc 99\.1 or newer")]
)
def test_a_host_that_the_bundle_is_not_for_is_refused(tmp_path: Path, wrong: dict[str, str], cause: str) -> None:
    target = {"machine": "x86_64", "glibc": "2.17", **wrong}

    with pytest.raises(BundleRefused, match=cause):
        check_host(target, 1, tmp_path)


def test_a_host_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="MB of free disk"):
        check_host({"machine": "x86_64", "glibc": "2.17"}, 1 << 60, tmp_path / "not" / "there")


def test_what_is_no_program_is_not_rewritten() -> None:
    assert relocated(b"#!/bin/sh\n", "lib") == b"#!/bin/sh\n"
