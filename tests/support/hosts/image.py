"""Images of bare Debian hosts, built from the machine's own mirror: systemd, sshd, sudo and Python 3, nothing more.

An image's tag is a digest of its recipe: a recipe that is unchanged builds nothing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import docker
from docker.errors import APIError, ImageNotFound

from icosfl.errors import RunFailed
from support.hosts.machine import apt_options, as_root, install, last_line, locked, mirror

RELEASES = ("bookworm", "trixie")
REPOSITORY = "icosfl-host"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
)
_SETUP = Path(__file__).parent / "setup.sh"
_OPTIONS = (
    "--mode=root",
    "--variant=apt",
    '--aptopt=Apt::Install-Recommends "false"',
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
)
_CHANGES = ["ENV container=docker"]


def tag_of(release: str) -> str:
    """The tag of a release's image, which tells the recipe."""
    recipe = (release, PACKAGES, _OPTIONS, _CHANGES, _SETUP.read_text(encoding="utf-8"))
    return f"{release}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"


def host_images(engine: docker.DockerClient, releases: Iterable[str]) -> dict[str, str]:
    """The image of each release, built first where it is missing.

    Raises:
        RunFailed: an image cannot be built.
        NoContainers: the machine lacks what building takes.
    """
    wanted = sorted(set(releases))
    with locked("images"):
        missing = [release for release in wanted if not exists(engine, tag_of(release))]
        if missing:
            install({"mmdebstrap": "mmdebstrap", "ssh-keygen": "openssh-client"})
            source = mirror()
            with ThreadPoolExecutor(len(missing)) as pool:
                list(pool.map(lambda release: _build(engine, release, source), missing))
    return {release: f"{REPOSITORY}:{tag_of(release)}" for release in wanted}


def remove_images(engine: docker.DockerClient) -> list[str]:
    """Remove the host images that no container uses, also those of earlier recipes; returns their tags."""
    removed = []
    for tag in [tag for image in engine.images.list(name=REPOSITORY) for tag in image.tags]:
        try:
            engine.images.remove(tag)
        except APIError as error:
            if error.status_code != HTTPStatus.CONFLICT:  # in use
                raise
        else:
            removed.append(tag)
    return removed


def exists(engine: docker.DockerClient, tag: str) -> bool:
    """Whether there is a host image with this tag."""
    try:
        engine.images.get(f"{REPOSITORY}:{tag}")
    except ImageNotFound:
        return False
    return True


def _build(engine: docker.DockerClient, release: str, source: str) -> None:
    with tempfile.TemporaryDirectory(prefix="icosfl-host-", dir=_scratch()) as folder:
        archive = Path(folder) / "root.tar"
        command = [
            *as_root(),
            "env",
            f"TMPDIR={folder}",
            "mmdebstrap",
            *_OPTIONS,
            *(f"--aptopt={option}" for option in apt_options()),
            f"--include={','.join(PACKAGES)}",
            f"--customize-hook=copy-in {_SETUP} /",
            '--customize-hook=chroot "$1" /setup.sh',
            '--customize-hook=rm "$1/setup.sh"',
            release,
            str(archive),
            f"deb {source} {release} main",
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            errors = "\n".join(line for line in done.stderr.splitlines() if line.startswith("E: "))
            raise RunFailed(
                f"The image of a {release} host cannot be built: {errors or last_line(done.stderr)}",
                cure="see whether the machine's Debian mirror answers and has this release",
            )
        engine.api.import_image_from_file(str(archive), repository=REPOSITORY, tag=tag_of(release), changes=_CHANGES)


def _scratch() -> str | None:
    """A directory in memory where there is one that programs can run from: a tenth less CPU than on disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        return None
    stat = os.statvfs(memory)
    unfit = stat.f_flag & (os.ST_NOEXEC | os.ST_NODEV) or stat.f_bavail * stat.f_frsize < 2 << 30
    return None if unfit else str(memory)
