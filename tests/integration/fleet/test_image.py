"""Images of a small release: built, compared, looked through, sent and pulled, by a real engine and a real registry."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest
import yaml

from icosfl.errors import InputError, RunFailed, UserError
from icosfl.fleet.engine import Engine
from icosfl.fleet.image import Wanted, ensure
from icosfl.fleet.image_build import compress
from icosfl.fleet.image_files import BuiltImage
from icosfl.fleet.image_host import (
    UnknownToRegistry,
    WantedImage,
    check_host,
    find,
    load,
    ours,
    pull,
    pull_by_name,
    reference,
    superfluous,
)
from icosfl.fleet.image_manifest import REPOSITORY as NAME
from icosfl.fleet.image_registry import name_in, push
from support.hosts import engine as engines
from support.hosts.base_image import base_image
from support.hosts.machine import PROJECT, NoContainers
from support.hosts.playbook import Ran, run
from support.image_layers import files, unwanted
from support.registry import Registry, registry
from support.small_bundle import small_bundle

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]  # the first test may install Docker and build a base

OWNER = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:6]  # two checkouts may test on one engine
RELEASE = f"1-test-{OWNER}-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"


def quiet(text: str) -> None:
    """Nobody reads what is done now."""


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    """Docker; what the tests made of the small release is gone afterwards."""
    with ExitStack() as stack:
        try:
            client = stack.enter_context(engines.docker_engine())
        except NoContainers as error:
            if os.environ.get("ICOSFL_CONTAINERS") == "required":
                raise
            pytest.skip(str(error))
        yield client
        for image in client.images.list(filters={"label": f"io.icosfl.image={RELEASE}"}):
            client.images.remove(image.id, force=True)


@pytest.fixture(scope="module")
def wanted(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Wanted:
    """A small release on the base of tests."""
    directory = tmp_path_factory.mktemp("image")
    return Wanted(
        project=PROJECT,
        bundle=small_bundle(directory, RELEASE),
        base=base_image(client),
        packages=("libssl3",),
        install_dir="/opt/icosfl",
        output=directory / "images",
    )


@pytest.fixture(scope="module")
def built(wanted: Wanted) -> BuiltImage:
    """Its image."""
    return ensure(wanted, quiet)


@pytest.fixture
def there(client: docker.DockerClient, built: BuiltImage) -> WantedImage:
    """The image as a host knows it, which has it."""
    if find(Engine(), asked(built)) is None:
        with built.path.open("rb") as file:
            client.images.load(file)
    return asked(built)


@pytest.fixture
def lacking(client: docker.DockerClient, built: BuiltImage) -> WantedImage:
    """The image as a host knows it, which has it not."""
    forget(client, built)
    return asked(built)


@pytest.fixture(scope="module")
def served(client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that answers."""
    with registry(tmp_path_factory.mktemp("registry")) as served:
        yield served


def asked(built: BuiltImage, name: str = "") -> WantedImage:
    manifest = built.manifest
    return WantedImage(
        image=manifest.image,
        made_of=manifest.made_of,
        layers=manifest.layers,
        architecture=manifest.architecture,
        size=manifest.size,
        archive_sha256=manifest.archive_sha256,
        name=name,
    )


def forget(client: docker.DockerClient, built: BuiltImage) -> None:
    if Engine().inspect("image", [built.manifest.image]):
        client.images.remove(built.manifest.image, force=True)


def test_two_builds_from_scratch_have_the_same_layers(
    client: docker.DockerClient, built: BuiltImage, wanted: Wanted, tmp_path: Path
) -> None:
    again = ensure(dataclasses.replace(wanted, output=tmp_path), quiet, fresh=True)
    forget(client, again)

    assert again.manifest.layers == built.manifest.layers
    assert again.manifest.made_of == built.manifest.made_of


def test_what_is_built_is_not_built_again(built: BuiltImage, wanted: Wanted) -> None:
    again = ensure(wanted, quiet)

    assert built.changed
    assert not again.changed
    assert again.manifest == built.manifest


def test_the_image_is_its_base_and_one_layer_with_the_release_and_current(
    client: docker.DockerClient, built: BuiltImage
) -> None:
    base = client.images.get(built.manifest.base).attrs["RootFS"]["Layers"]
    paths = files(built.path)

    assert list(built.manifest.layers[:-1]) == base
    assert f"opt/icosfl/releases/{RELEASE}/release.json" in paths
    assert "opt/icosfl/current" in paths
    assert {path.split("/")[2] for path in paths if path.startswith("opt/icosfl/")} == {"current", "releases"}
    assert built.manifest.size - built.manifest.base_size > 0


def test_no_layer_holds_a_compiler_a_leftover_of_the_build_a_secret_or_a_path_of_the_control_node(
    built: BuiltImage,
) -> None:
    assert unwanted(built.path, str(PROJECT)) == []


def test_a_build_leaves_nothing_of_its_own_in_the_engine(client: docker.DockerClient, built: BuiltImage) -> None:
    kept = client.images.list(filters={"label": "io.icosfl.stage", "dangling": True})

    assert [image for image in kept if RELEASE in str(image.attrs)] == []
    own = [each for each in Engine().inspect("image", ours(Engine())) if RELEASE in str(each["Config"]["Labels"])]
    assert [each["Id"] for each in own] == [built.manifest.image]  # without its steps, and though it lost its name
    assert [path.name for path in built.path.parent.glob(".*") if path.name != ".lock"] == []


def test_it_runs_as_nobody_on_a_read_only_root_without_any_rights(
    client: docker.DockerClient, there: WantedImage
) -> None:
    said = client.containers.run(
        there.image,
        remove=True,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": ""},
        user="4242:4242",
    )

    config = client.images.get(there.image).attrs["Config"]
    assert said == b"warm\n"
    assert config["User"] == "65534:65534"
    assert config["Labels"]["io.icosfl.image"] == RELEASE


def test_what_is_in_it_stands_beside_its_archive(built: BuiltImage) -> None:
    text = built.sbom.read_text(encoding="utf-8")

    assert '"pkg:generic/icosfl@1"' in text
    assert "pkg:deb/debian/libssl3@" in text
    assert "pkg:pypi/uv" not in text


def test_a_host_that_lacks_it_loads_it_from_the_archive(built: BuiltImage, lacking: WantedImage) -> None:
    engine = Engine()
    assert find(engine, lacking) is None

    found = load(engine, lacking, built.path)

    assert reference(found, "") == built.manifest.image
    assert find(engine, lacking) is not None


def test_a_damaged_archive_is_refused_before_the_engine_reads_it(
    built: BuiltImage, lacking: WantedImage, tmp_path: Path
) -> None:
    damaged = tmp_path / "image.tar.gz"
    data = bytearray(built.path.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)

    with pytest.raises(InputError, match="came with the digest") as raised:
        load(Engine(), lacking, damaged)

    assert "run the playbook again" in raised.value.cure
    assert find(Engine(), lacking) is None


def test_an_archive_that_holds_another_image_is_refused_and_that_image_does_not_stay(
    client: docker.DockerClient, lacking: WantedImage, tmp_path: Path
) -> None:
    tag = f"icosfl-test-other:{OWNER}"
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    client.api.import_image_from_data(empty.getvalue(), repository=tag.partition(":")[0], tag=OWNER)
    Engine().call("image", "save", "--output", str(tmp_path / "other.tar"), tag)
    client.images.remove(tag)
    compress(tmp_path / "other.tar", tmp_path / "other.tar.gz")
    digest = hashlib.sha256((tmp_path / "other.tar.gz").read_bytes()).hexdigest()

    with pytest.raises(InputError, match="holds another image"):
        load(Engine(), dataclasses.replace(lacking, archive_sha256=digest), tmp_path / "other.tar.gz")

    assert Engine().inspect("image", [tag]) == []


def test_an_image_for_another_architecture_or_larger_than_the_disk_is_refused(there: WantedImage) -> None:
    with pytest.raises(UserError, match="the image is for s390x") as other:
        check_host(Engine(), dataclasses.replace(there, architecture="s390x"))
    with pytest.raises(UserError, match=r"MB of free disk, the image needs \d+ MB") as large:
        check_host(Engine(), dataclasses.replace(there, size=1 << 60))

    assert "control node that is" in other.value.cure
    assert "free some" in large.value.cure


def test_an_older_image_goes_unless_a_container_is_made_of_it(client: docker.DockerClient, there: WantedImage) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(RELEASE))
    client.api.import_image_from_data(
        empty.getvalue(), repository=f"icosfl-test-old-{OWNER}", tag="1", changes=[f"LABEL io.icosfl.image={RELEASE}"]
    )
    old = client.images.get(f"icosfl-test-old-{OWNER}:1").id

    assert old in superfluous(Engine(), there, 1)
    assert there.image not in superfluous(Engine(), there, 1)
    container = client.api.create_container(old, command=["/nothing"])
    try:
        assert old not in superfluous(Engine(), there, 1)
    finally:
        client.api.remove_container(container["Id"])


class TestTheRole:
    @pytest.fixture
    def deliver(self, wanted: Wanted, tmp_path: Path) -> Callable[..., Ran]:
        """Runs the role on this machine, which is control node and host at once."""
        variables = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "container_image_release": RELEASE,
            "container_image_base": wanted.base,
            "container_image_base_packages": list(wanted.packages),
            "container_image_install_dir": wanted.install_dir,
            "container_image_project_dir": str(PROJECT),
            "container_image_bundles_dir": str(wanted.bundle.parent),
            "container_image_images_dir": str(wanted.output),
            "container_image_kept": 99,  # whatever else is on this machine stays
        }
        inventory = tmp_path / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": {"node-1": variables}}}), encoding="utf-8")
        task = {"name": "Look", "ansible.builtin.debug": {"var": "ansible_facts.container_image.reference"}}
        play = {"name": "Deliver", "hosts": "all", "gather_facts": False, "roles": ["container_image"], "tasks": [task]}
        (tmp_path / "play.yml").write_text(yaml.safe_dump([play]), encoding="utf-8")

        def run_role(*options: str, **more: object) -> Ran:
            return run(str(tmp_path / "play.yml"), inventory, "-e", json.dumps(more), *options)

        return run_role

    def test_ships_the_image_once_and_says_by_which_digest(
        self, deliver: Callable[..., Ran], built: BuiltImage, lacking: WantedImage
    ) -> None:
        rehearsed = deliver("--check")
        assert find(Engine(), lacking) is None
        first, second = deliver(), deliver()

        assert [ran.code for ran in (rehearsed, first, second)] == [0, 0, 0], rehearsed.output + first.output
        assert [ran.counts("node-1")["changed"] for ran in (rehearsed, first, second)] == [1, 1, 0]
        assert all(built.manifest.image in ran.output for ran in (rehearsed, first, second))
        assert list(Path("~/.ansible/tmp").expanduser().glob("*/image.tar.gz")) == []

    def test_in_a_rehearsal_says_what_a_host_without_an_engine_lacks(
        self, deliver: Callable[..., Ran], built: BuiltImage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_HOST", "unix:///no/such.sock")

        rehearsed, refused = deliver("--check"), deliver()

        assert (rehearsed.code, rehearsed.counts("node-1")["changed"]) == (0, 1), rehearsed.output
        assert refused.code != 0
        assert "the docker engine does not answer" in " ".join(refused.output.split())

    def test_brings_it_by_a_registry_and_says_the_digest_there(
        self, deliver: Callable[..., Ran], lacking: WantedImage, served: Registry
    ) -> None:
        first = deliver(container_image_registry=served.address)
        second = deliver(container_image_registry=served.address)

        assert (first.code, second.counts("node-1")["changed"]) == (0, 0), first.output
        assert f"{served.address}/icosfl@sha256:" in first.output
        assert f"{served.address}/icosfl@sha256:" in second.output

    def test_refuses_a_damaged_archive_before_any_host_gets_it(
        self, deliver: Callable[..., Ran], built: BuiltImage, lacking: WantedImage
    ) -> None:
        honest = built.path.read_bytes()
        built.path.write_bytes(honest[:-1] + bytes([honest[-1] ^ 1]))
        try:
            ran = deliver()
        finally:
            built.path.write_bytes(honest)

        assert ran.code != 0
        assert f"node-1: {built.path} is damaged. Cure: delete it" in ran.output
        assert find(Engine(), lacking) is None

    def test_names_a_third_party_image_that_cannot_be_pulled_and_the_host(self, deliver: Callable[..., Ran]) -> None:
        ran = deliver(container_image_pulled=["127.0.0.1:1/redis:7"])

        assert ran.code != 0
        assert "node-1: 127.0.0.1:1/redis:7 cannot be pulled" in ran.output
        assert "Cure: " in ran.output


class TestARegistry:
    def test_gets_the_image_once_and_hosts_pull_it_by_digest(
        self, client: docker.DockerClient, built: BuiltImage, served: Registry
    ) -> None:
        host = asked(built, name_in(served.address))

        pushed = push(built, served.address)
        forget(client, built)
        found = pull(Engine(), host, pushed)

        assert pushed.startswith(f"{served.address}/icosfl@sha256:")
        assert reference(found, host.name) == pushed
        assert push(built, served.address) == pushed

    def test_that_lost_the_image_is_told_from_one_that_refuses(
        self, client: docker.DockerClient, built: BuiltImage, served: Registry
    ) -> None:
        gone = f"{served.address}/icosfl@sha256:{'0' * 64}"

        with pytest.raises(UnknownToRegistry, match="cannot be pulled"):
            pull(Engine(), asked(built), gone)
        with pytest.raises(RunFailed, match="cannot be pulled"):
            pull_by_name(Engine(), "127.0.0.1:1/icosfl:none")

    def test_that_serves_something_else_under_the_digest_is_refused_and_nothing_stays(
        self, client: docker.DockerClient, built: BuiltImage, served: Registry
    ) -> None:
        pushed = push(built, served.address, again=True)
        # Under a digest that was never pulled, for an engine may remember the manifests of those that were.
        other = f"sha256:{hashlib.sha256(OWNER.encode()).hexdigest()}"
        served.serve(NAME, other, served.blob(pushed.partition("@")[2]).read_bytes())
        forget(client, built)

        with pytest.raises(RunFailed, match="cannot be pulled") as raised:
            pull(Engine(), asked(built), f"{served.address}/{NAME}@{other}")

        assert not isinstance(raised.value, UnknownToRegistry)  # it was served, and refused
        assert find(Engine(), asked(built)) is None
