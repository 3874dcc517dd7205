"""The base of images in tests: Debian's C libraries that a release needs, without a shell or a package manager.

Built from the machine's own mirror, so that tests need no registry. Its tag is a digest of its recipe: a recipe that is
unchanged builds nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

import docker
from docker.errors import ImageNotFound

from icosfl.errors import RunFailed
from support.hosts.machine import apt_options, as_root, install, last_line, locked, mirror

REPOSITORY = "icosfl-base"
RELEASE = "bookworm"
PACKAGES = (
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libcrypt1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libncursesw6",
    "libreadline8",
    "libsqlite3-0",
    "libssl3",
    "libstdc++6",
    "libuuid1",
    "tzdata",
    "zlib1g",
)
# What those depend on, for maintainers' scripts that nobody runs here.
DROPPED = (
    *(
        "debconf",
        "dpkg",
        "gcc-12-base",
        "libacl1",
        "libmd0",
        "libpcre2-8-0",
        "libselinux1",
        "libzstd1",
        "mawk",
        "openssl",
    ),
    *("perl-base", "readline-common", "tar"),
)
_SETUP = Path(__file__).parent / "base_image.sh"


def tag_of() -> str:
    """The tag of the base image, which tells the recipe."""
    recipe = (RELEASE, PACKAGES, DROPPED, _SETUP.read_text(encoding="utf-8"))
    return f"{RELEASE}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"


def base_image(engine: docker.DockerClient) -> str:
    """The base image's name, built first where it is missing: a few seconds.

    Raises:
        RunFailed: it cannot be built.
        NoContainers: the machine lacks what building takes.
    """
    name = f"{REPOSITORY}:{tag_of()}"
    with locked("base-image"):
        try:
            engine.images.get(name)
        except ImageNotFound:
            install({"mmdebstrap": "mmdebstrap"})
            _build(engine, mirror())
    return name


def _build(engine: docker.DockerClient, source: str) -> None:
    with tempfile.TemporaryDirectory(prefix="icosfl-base-") as folder:
        archive = Path(folder) / "root.tar"
        command = [
            *as_root(),
            *("env", f"TMPDIR={folder}", f"DROPPED={' '.join(DROPPED)}", "SOURCE_DATE_EPOCH=315532800"),
            *("mmdebstrap", "--mode=root", "--variant=extract", '--aptopt=Apt::Install-Recommends "false"'),
            *(f"--aptopt={option}" for option in apt_options()),
            f"--include={','.join(PACKAGES)}",
            f"--extract-hook={_SETUP}",
            *(RELEASE, str(archive), f"deb {source} {RELEASE} main"),
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            errors = "\n".join(line for line in done.stderr.splitlines() if line.startswith("E: "))
            raise RunFailed(
                f"The base image cannot be built: {errors or last_line(done.stderr)}",
                cure=f"see whether the machine's Debian mirror answers and has {RELEASE}",
            )
        engine.api.import_image_from_file(str(archive), repository=REPOSITORY, tag=tag_of(), changes=[])
