"""Whether a host's Docker can run our services: pure judgment on what `icosfl.fleet.probe_docker` says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icosfl.fleet.engine import version_of

Fault = tuple[str, str, str]
"""Key, what is wrong, and the cure."""

_KERNELS = {"amd64": "x86_64", "arm64": "aarch64"}
"""Docker's words for architectures, and the kernel's."""


@dataclass(frozen=True, slots=True)
class WantedDocker:
    """What a host's Docker must be.

    Args:
        install: Whether it may be installed where it is missing.
        distributions: Those on which we know how, "debian 12".
        oldest: The oldest version of the Engine.
        image_mb: Megabytes of free disk that our image needs.
        architecture: The one that our image is made for, in the kernel's words: x86_64.
        plugin: Where Compose is linked as a plugin.
        program: What to.
    """

    install: bool
    distributions: Sequence[str]
    oldest: str
    image_mb: int
    architecture: str
    plugin: str
    program: str


def docker_faults(found: Mapping[str, Any], wanted: WantedDocker) -> Iterator[Fault]:
    """Yield all that is wrong with a host's Docker, but for its disk.

    Args:
        found: What the host said, all of it.
        wanted: What its Docker must be.
    """
    if found["uid"] != 0:
        yield "ansible_become", "we are not root there, and Docker is root's", "set ansible_become: true"
        return
    there = found["docker"]
    if not there["dockerd"] and not there["engine"]:
        yield from _missing(found["release"], wanted)
    elif not there["engine"] and not there["mark"]:  # what we installed, we shall start
        cure = "start it (systemctl start docker), see journalctl -u docker"
        yield "docker", f"its Docker Engine does not answer: {there['error']}", cure
    elif there["engine"] and version_of(there["engine"]) < version_of(wanted.oldest):
        message = f"it has Docker Engine {there['engine']}, at least {wanted.oldest} is needed"
        yield "docker", message, "upgrade it there, or use icosfl_runtime: systemd"
    elif not there["command"] and not there["mark"]:
        yield "docker", "it has Docker Engine and no command docker", "install it there (apt-get install docker-cli)"
    architecture = _KERNELS.get(there["architecture"], there["architecture"]) or found["architecture"]
    if architecture != wanted.architecture:
        message = f"its Docker runs images for {architecture}, ours is made here, for {wanted.architecture}"
        yield "image", message, f"deploy it from a control node that is a {architecture}, or use another host"


def _missing(release: str, wanted: WantedDocker) -> Iterator[Fault]:
    if not wanted.install:
        cure = "install it there, or set icosfl_docker_install: true, or use icosfl_runtime: systemd"
        yield "docker", "it has no Docker Engine, and icosfl_docker_install is false", cure
    elif release not in wanted.distributions:
        message = f"it has no Docker Engine, and icosfl_docker_packages does not say how {release} gets it"
        yield "docker", message, f"install it there, or add its packages to icosfl_docker_packages['{release}']"
