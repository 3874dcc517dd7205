"""What an image will be called, what stands beside it, and which decisions hosts take, without any engine."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from icosfl.errors import InputError, RunFailed, Unavailable, UserError
from icosfl.fleet import bundle_archive, image, image_base, image_files, image_host, image_registry
from icosfl.fleet.bundle_archive import FileFact, Manifest
from icosfl.fleet.engine import Engine
from icosfl.fleet.image_base import Base, Wish
from icosfl.fleet.image_build import compress, last
from icosfl.fleet.image_files import BuiltImage, built_before, describe, there
from icosfl.fleet.image_host import UnknownToRegistry, WantedImage, check_host, pull_by_name, reference, superfluous
from icosfl.fleet.image_install import TIME, drop, settle
from icosfl.fleet.image_manifest import ImageManifest, dump, is_same, parse
from icosfl.fleet.image_plan import ImagePlan, build_command, check_install_dir, digest, recipe
from icosfl.fleet.image_sbom import debian_packages, distribution_of, sbom

PROJECT = Path(__file__).parents[3]
PLAN = ImagePlan("1-abc", "1", "c0ffee", "debian:12", "sha256:ba5e", "icosfl-base:1", "/opt/icosfl", "f" * 64)
IMAGE = ImageManifest(
    image="sha256:1111",
    release="1-abc",
    version="1",
    made_of="f" * 64,
    base="debian:12",
    base_id="sha256:ba5e",
    architecture="amd64",
    size=1000,
    base_size=300,
    layers=("sha256:a", "sha256:b"),
    archive="1-abc-ffffffff.tar.gz",
    archive_size=4,
    archive_sha256="0" * 64,
)
WANTED = WantedImage("sha256:1111", "f" * 64, ("sha256:a", "sha256:b"), "amd64", 1000, "0" * 64, "reg/icosfl")
BUNDLE = Manifest(
    "1-abc",
    "1",
    {"python": "3.11.7", "tag": "cp311", "machine": "x86_64", "glibc": "2.36"},
    1,
    {
        "wheelhouse/Leaf_Name-2.0+cpu-py3-none-any.whl": FileFact("a" * 64, 1),
        "wheelhouse/icosfl-1-py3-none-any.whl": FileFact("b" * 64, 1),
        "wheelhouse/uv-0.11-py3-none-any.whl": FileFact("c" * 64, 1),
        "python/bin/python3.11": FileFact("d" * 64, 1, executable=True),
        "app/pyproject.toml": FileFact("e" * 64, 1),
    },
)
STATUS = """\
Package: libssl3
Status: install ok installed
Architecture: amd64
Version: 3.0.1~deb12u1
Description: first
 Package: this is no field

Package: gone
Status: deinstall ok config-files
Version: 1

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.2
"""


class FakeEngine(Engine):
    """Answers as it is told, and notes what it is asked."""

    def __init__(self, images: Sequence[dict[str, Any]] = (), used: Sequence[str] = (), **answers: object) -> None:
        super().__init__()
        self.images = list(images)
        self.used = set(used)
        self.said_to = answers
        self.asked: list[tuple[str, ...]] = []

    def call(self, *words: str, seconds: float = 0, stdin: object = None) -> str:
        self.asked.append(words)
        if words[:2] == ("image", "ls"):
            return "\n".join(each["Id"] for each in self.images)
        if words[:2] == ("container", "ls"):
            return "c1\n" if words[-1].partition("=")[2] in self.used else ""
        answer = self.said_to.get(words[1] if words[0] == "image" else words[0], "")
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def inspect(self, kind: str, names: object) -> list[dict[str, Any]]:
        return self.images


def inspected(identity: str, **more: Any) -> dict[str, Any]:
    return {"Id": identity, "RootFS": {"Layers": ["sha256:a", "sha256:b"]}, "Config": {"Labels": {}}, **more}


def test_the_name_tells_the_release_and_all_that_went_in() -> None:
    made_of = digest("bundle", "base", "/opt/icosfl", {"Dockerfile": "FROM x"})

    assert dataclasses.replace(PLAN, made_of=made_of).name == f"1-abc-{made_of[:8]}"
    for other in (
        digest("other", "base", "/opt/icosfl", {"Dockerfile": "FROM x"}),
        digest("bundle", "other", "/opt/icosfl", {"Dockerfile": "FROM x"}),
        digest("bundle", "base", "/srv/icosfl", {"Dockerfile": "FROM x"}),
        digest("bundle", "base", "/opt/icosfl", {"Dockerfile": "FROM y"}),
    ):
        assert other != made_of


def test_the_code_that_runs_in_the_build_is_found_by_its_imports() -> None:
    assert {"Dockerfile", "image_install.py", "bundle_install.py", "bundle_archive.py"} <= set(recipe(PROJECT))


def test_a_directory_without_a_project_has_no_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no image to build"):
        recipe(tmp_path)


def test_the_builder_is_told_all_that_the_dockerfile_asks_for(tmp_path: Path) -> None:
    command = build_command(PLAN, tmp_path / "Dockerfile", tmp_path, "stage-1", fresh=True)
    given = {each.partition("=")[0] for word, each in pairwise(command) if word == "--build-arg"}
    lines = (PROJECT / "images" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    asked = {name for line in lines if line.startswith("ARG ") for name in line.split()[1:]}

    assert given == asked
    assert "BASE=icosfl-base:1" in command
    assert "--no-cache" in command
    assert ("--tag", "icosfl:1-abc") in pairwise(command)  # a `docker image prune` beside it must not take it away
    assert command[-1] == str(tmp_path)


@pytest.mark.parametrize("path", ["opt/icosfl", "/", "/opt/../etc"])
def test_a_directory_that_no_release_can_lie_in_is_refused(path: str) -> None:
    with pytest.raises(UserError, match="is no directory for releases"):
        check_install_dir(path)


def test_what_stands_beside_an_archive_is_read_as_it_was_written() -> None:
    assert parse(dump(IMAGE), "it") == IMAGE


@pytest.mark.parametrize("text", ["{}", "no", '{"format": 2}', '{"format": 1, "layers": []}'])
def test_another_file_describes_no_image(text: str) -> None:
    with pytest.raises(InputError):
        parse(text, "it.json")


def test_an_archive_counts_only_whole_and_with_its_description(tmp_path: Path) -> None:
    built = BuiltImage(tmp_path / IMAGE.archive, IMAGE)
    built.path.write_bytes(b"1234")
    assert there(tmp_path, built.name) is None

    describe(built)
    assert there(tmp_path, built.name) == built
    assert built_before(tmp_path, "1-abc", "debian:12") == built
    assert built_before(tmp_path, "1-abc", "debian:13") is None

    built.path.write_bytes(b"123")
    assert there(tmp_path, built.name) is None
    with pytest.raises(InputError, match="is damaged"):
        image_files.check(built)


def test_the_same_bytes_are_packed_to_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"0123456789" * 5_000_000)
    for name in ("one", "two"):
        compress(tmp_path / "plain", tmp_path / name)

    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with gzip.open(tmp_path / "one") as file:
        assert file.read() == b"0123456789" * 5_000_000


def test_an_image_is_known_by_its_id_or_where_engines_name_it_otherwise_by_its_layers_and_what_it_was_made_of() -> None:
    layers = ("sha256:a", "sha256:b")
    labelled = {"Config": {"Labels": {"io.icosfl.made-of": "f" * 64}}}

    assert is_same(inspected("sha256:1111"), "sha256:1111", "f" * 64, layers)
    assert is_same(inspected("sha256:2222", **labelled), "sha256:1111", "f" * 64, layers)
    assert not is_same(inspected("sha256:2222"), "sha256:1111", "f" * 64, layers)
    assert not is_same(inspected("sha256:1111"), "sha256:1111", "f" * 64, ("sha256:a",))


def test_containers_are_made_of_a_digest_that_of_the_registry_where_it_was_pulled_from() -> None:
    digests = ["other/icosfl@sha256:9", "reg/icosfl@sha256:8"]

    assert reference(inspected("sha256:1111", RepoDigests=digests), "reg/icosfl") == "reg/icosfl@sha256:8"
    assert reference(inspected("sha256:1111", RepoDigests=digests), "") == "sha256:1111"
    assert reference(inspected("sha256:1111", RepoDigests=None), "reg/icosfl") == "sha256:1111"


def test_the_oldest_images_go_first_and_none_that_a_container_is_made_of() -> None:
    images = [
        inspected("sha256:1111", Created="2026-01-01"),
        {"Id": "sha256:3333", "Created": "2026-01-03"},
        {"Id": "sha256:2222", "Created": "2026-01-02"},
        {"Id": "sha256:0000", "Created": "2026-01-00"},
    ]

    assert superfluous(FakeEngine(images), WANTED, 2) == ("sha256:2222", "sha256:0000")
    assert superfluous(FakeEngine(images, used=["sha256:2222"]), WANTED, 2) == ("sha256:0000",)
    assert superfluous(FakeEngine(images), WANTED, 9) == ()


def test_an_image_that_lost_its_name_is_still_ours_and_the_steps_of_a_build_are_not_images() -> None:
    engine = FakeEngine(
        [
            inspected("sha256:built", RepoTags=["icosfl:1-abc"], Parent="sha256:step-2"),
            inspected("sha256:step-2", RepoTags=[], Parent="sha256:step-1"),
            inspected("sha256:step-1", RepoTags=[], Parent="sha256:ba5e"),
            inspected("sha256:built-before", RepoTags=[], Parent=""),
            inspected("sha256:pulled", RepoTags=[], RepoDigests=["reg/icosfl@sha256:8"], Parent=""),
        ]
    )

    assert image_host.ours(engine) == ("sha256:built", "sha256:built-before", "sha256:pulled")
    assert "--all" in engine.asked[0]


@pytest.mark.parametrize("check", [True, False])
def test_a_rehearsal_on_a_host_that_is_to_get_docker_says_that_it_lacks_the_image(
    check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("container_image", PROJECT / "plugins/modules/container_image.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("icosfl.fleet.engine._PATH", "/no/such/directory")
    wanted = {"image": dataclasses.asdict(WANTED), "pulled": ["redis:7"], "keep": 2, "shipped": "", "pushed": ""}

    if check:
        told = module.make_present(wanted, check=True)
        assert (told["changed"], told["lacking"], told["fetched"], told["removed"]) == (True, True, [], [])
    else:
        with pytest.raises(Unavailable, match="there is no docker command"):
            module.make_present(wanted, check=False)


def test_all_of_our_images_go_but_those_that_a_container_is_made_of() -> None:
    engine = FakeEngine([inspected("sha256:1111"), inspected("sha256:2222")], used=["sha256:2222"])

    unused = image_host.unused(engine, image_host.ours(engine))
    image_host.remove(engine, unused)

    assert unused == ("sha256:1111",)
    assert [words for words in engine.asked if words[:2] == ("image", "rm")] == [
        ("image", "rm", "--force", "sha256:1111")
    ]


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        ({"Architecture": "aarch64", "DockerRootDir": "/"}, "this host is arm64, the image is for amd64"),
        ({"Architecture": "x86_64", "DockerRootDir": "/no/such/place"}, "MB of free disk"),
    ],
)
def test_a_host_that_cannot_take_the_image_is_refused_with_the_cure(info: dict[str, str], problem: str) -> None:
    engine = FakeEngine(info=json.dumps(info))

    with pytest.raises(UserError, match=problem) as raised:
        check_host(engine, dataclasses.replace(WANTED, size=1 << 60))

    assert raised.value.cure


@pytest.mark.parametrize(
    ("said", "kind", "cure"),
    [
        ("manifest unknown", UnknownToRegistry, "push it"),
        ("write /x: no space left on device", RunFailed, "free some disk"),
        ("manifest verification failed for digest", RunFailed, "do not trust it"),
        ("dial tcp: connection refused", RunFailed, "look at what it says"),
    ],
)
def test_a_pull_that_fails_names_image_cause_and_cure(said: str, kind: type[RunFailed], cure: str) -> None:
    with pytest.raises(kind, match="redis:7 cannot be pulled") as raised:
        pull_by_name(FakeEngine(pull=RunFailed(f"docker image pull:\n{said}")), "redis:7")

    assert said in raised.value.message
    assert cure in raised.value.cure


def test_a_base_of_debian_lacks_what_is_not_installed_and_another_kind_of_base_is_taken_as_it_is() -> None:
    base = Base("debian:12", "sha256:ba5e", 1, STATUS, "ID=debian")

    assert image_base.lacking(base, ["zlib1g", "gone", "libffi8", "libssl3"]) == ("gone", "libffi8")
    assert image_base.lacking(dataclasses.replace(base, dpkg_status=""), ["zlib1g"]) == ()


def test_a_base_that_lacks_packages_is_completed_once(tmp_path: Path) -> None:
    status = STATUS
    made: list[tuple[str, ...]] = []

    class Images(FakeEngine):
        def inspect(self, kind: str, names: object) -> list[dict[str, Any]]:
            (name,) = list(names)  # type: ignore[call-overload]
            if name == "debian:12":
                return [{"Id": "sha256:ba5e", "Size": 1}]
            return [{"Id": "sha256:c0de", "Size": 2}] if made else []

        def call(self, *words: str, seconds: float = 0, stdin: object = None) -> str:
            if words[0] == "build":
                made.append(words)
            if words[:2] == ("container", "cp") and "status" in words[-1]:
                Path(words[-1]).write_text(status, encoding="utf-8")
            return "c1"

    wish = Wish("debian:12", ("libffi8",), PROJECT, tmp_path)
    assert image_base.known(Images(), wish) is None
    first = image_base.prepared(Images(), wish)
    second = image_base.prepared(Images(), wish)

    assert first.id == second.id == "sha256:c0de"
    assert first.reference.startswith("icosfl-base:")
    assert len(made) == 1
    assert {"BASE=debian:12", "PACKAGES=libffi8"} <= set(made[0])


def test_a_base_that_is_nowhere_is_named_with_the_cure(tmp_path: Path) -> None:
    engine = FakeEngine(pull=RunFailed("docker image pull: no such host"))

    with pytest.raises(UserError, match="the base image nowhere:1") as raised:
        image_base.prepared(engine, Wish("nowhere:1", (), PROJECT, tmp_path))

    assert "icosfl_base_image" in raised.value.cure


def test_what_is_in_an_image_is_listed_with_digests_and_without_the_installer() -> None:
    document = json.loads(sbom(IMAGE, BUNDLE, STATUS, "debian-12"))
    found = {each["purl"]: each for each in document["components"]}

    assert document["bomFormat"] == "CycloneDX"
    assert set(found) == {
        "pkg:pypi/leaf-name@2.0%2Bcpu",
        "pkg:generic/icosfl@1",
        "pkg:generic/python@3.11.7",
        "pkg:deb/debian/libssl3@3.0.1~deb12u1?arch=amd64&distro=debian-12",
        "pkg:deb/debian/zlib1g@1%3A1.2?arch=amd64&distro=debian-12",
    }
    assert found["pkg:pypi/leaf-name@2.0%2Bcpu"]["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert found["pkg:generic/python@3.11.7"]["hashes"] == [{"alg": "SHA-256", "content": "d" * 64}]
    assert set(document["dependencies"][0]["dependsOn"]) == set(found)
    assert sbom(IMAGE, BUNDLE, STATUS, "debian-12") == sbom(IMAGE, BUNDLE, STATUS, "debian-12")


def test_a_base_without_debians_lists_has_no_packages_of_debian() -> None:
    assert debian_packages("", "") == []
    assert distribution_of('NAME="Debian"\nID=debian\nVERSION_ID="12"\n') == "debian-12"
    assert distribution_of("") == ""


def test_an_installer_leaves_with_all_of_its_files(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for path in ("uv/__init__.py", "uv-1.dist-info/METADATA", "other/__init__.py", "../../../bin/uv"):
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        (packages / path).touch()
    record = (
        "uv/__init__.py,sha256=x,1\n../../../bin/uv,sha256=x,1\nuv-1.dist-info/METADATA,,\nuv-1.dist-info/RECORD,,\n"
    )
    (packages / "uv-1.dist-info" / "RECORD").write_text(record, encoding="utf-8")

    drop(packages, "uv")

    assert [path.name for path in packages.iterdir()] == ["other"]
    assert not (tmp_path / "bin" / "uv").exists()


def test_everything_gets_the_same_time_links_and_directories_too(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "a" / "link").symlink_to("nowhere")

    settle(tmp_path)

    assert {path.lstat().st_mtime for path in (tmp_path, *tmp_path.rglob("*"))} == {TIME}


def test_a_builders_words_are_cut_to_their_end_without_colours() -> None:
    said = (
        "DEPRECATED: the legacy builder\n" + "\n".join(f"line {number}" for number in range(40)) + "\n\x1b[91mno\x1b[0m"
    )

    assert last(said).splitlines()[-1] == "no"
    assert "DEPRECATED" not in last(said)
    assert len(last(said).splitlines()) == 15


class TestTheControlNode:
    @pytest.fixture
    def built(self, tmp_path: Path) -> BuiltImage:
        """An image that was built before."""
        built = BuiltImage(tmp_path / IMAGE.archive, IMAGE)
        built.path.write_bytes(b"1234")
        describe(built)
        return built

    @pytest.fixture
    def wanted(self, built: BuiltImage) -> image.Wanted:
        """The same release, whose bundle is gone."""
        folder = built.path.parent
        return image.Wanted(PROJECT, folder / "1-abc.tar", "debian:12", (), "/opt/icosfl", folder)

    def test_without_the_bundle_uses_what_was_built_before(self, wanted: image.Wanted, built: BuiltImage) -> None:
        assert image.found(wanted, FakeEngine()) == built

    def test_with_neither_bundle_nor_image_says_what_to_do(self, wanted: image.Wanted) -> None:
        with pytest.raises(UserError, match="neither the image nor the bundle of release 2-def") as raised:
            image.ensure(dataclasses.replace(wanted, bundle=wanted.output / "2-def.tar"), print)

        assert "icosfl_release" in raised.value.cure

    def test_whose_docker_does_not_answer_uses_what_was_built_before(
        self, wanted: image.Wanted, built: BuiltImage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def silent(*_: object) -> Base:
            raise Unavailable("the docker engine does not answer")

        monkeypatch.setattr(image, "known", silent)
        wanted.bundle.touch()

        assert image.found(wanted, FakeEngine()) == built
        with pytest.raises(Unavailable):
            image.found(dataclasses.replace(wanted, base="debian:13"), FakeEngine())

    @pytest.fixture
    def pruned(self, wanted: image.Wanted, built: BuiltImage, monkeypatch: pytest.MonkeyPatch) -> BuiltImage:
        """What was built on a base that the engine has no more, and of the bundle that is there."""
        monkeypatch.setattr(bundle_archive, "read_manifest", lambda *_, **__: BUNDLE)
        wanted.bundle.touch()
        made_of = digest(BUNDLE.sha256, IMAGE.base_id, wanted.install_dir, recipe(PROJECT))
        manifest = dataclasses.replace(IMAGE, made_of=made_of, archive=f"1-abc-{made_of[:8]}.tar.gz")
        kept = BuiltImage(wanted.output / manifest.archive, manifest)
        kept.path.write_bytes(b"1234")
        describe(kept)
        base = Base("debian:12", IMAGE.base_id, 1, STATUS, "ID=debian")
        (wanted.output / "base-ba5e.json").write_text(json.dumps(dataclasses.asdict(base)), encoding="utf-8")
        return kept

    def test_whose_base_was_pruned_uses_what_was_built_on_it(self, wanted: image.Wanted, pruned: BuiltImage) -> None:
        assert image.found(wanted, FakeEngine()) == pruned
        assert image.found(dataclasses.replace(wanted, packages=("zlib1g",)), FakeEngine()) == pruned

    @pytest.mark.parametrize(
        "change", [{"packages": ("libffi8",)}, {"install_dir": "/srv/icosfl"}, {"base": "debian:13"}]
    )
    def test_whose_base_was_pruned_builds_again_what_would_be_built_otherwise_now(
        self, wanted: image.Wanted, pruned: BuiltImage, change: dict[str, Any]
    ) -> None:
        assert image.found(dataclasses.replace(wanted, **change), FakeEngine()) is None

    def test_that_has_another_base_of_that_name_builds_again(self, wanted: image.Wanted, pruned: BuiltImage) -> None:
        engine = FakeEngine([{"Id": "sha256:0ther", "Size": 1}])

        assert image.found(wanted, engine) is None

    def test_pushes_an_image_once(self, built: BuiltImage, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = FakeEngine([inspected("sha256:1111", RepoDigests=["reg:5000/fleet/icosfl@sha256:8"])])
        monkeypatch.setattr(image_registry, "Engine", lambda: engine)

        pushed = [image_registry.push(built, "reg:5000/fleet/") for _ in range(2)]

        assert pushed == ["reg:5000/fleet/icosfl@sha256:8"] * 2
        assert [words[:2] for words in engine.asked].count(("image", "push")) == 1


@pytest.mark.parametrize("function", [image_host.find, image_host.ours])
def test_an_engine_that_does_not_answer_is_an_error_of_its_own(function: Callable[..., object]) -> None:
    class Silent(FakeEngine):
        def call(self, *words: str, seconds: float = 0, stdin: object = None) -> str:
            raise Unavailable("the docker engine does not answer")

    with pytest.raises(Unavailable):
        function(Silent(), *([WANTED] if function is image_host.find else []))
