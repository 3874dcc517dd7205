"""Images of hosts that have Docker Engine: a bare host's, and Debian's packages on it.

An image's tag is a digest of its recipe, as the bare hosts' are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import docker

from icosfl.errors import RunFailed
from support.hosts.apt_proxy import apt_proxy
from support.hosts.image import REPOSITORY, exists, host_images, tag_of
from support.hosts.machine import last_line, locked

PACKAGES = {"bookworm": ("docker.io",), "trixie": ("docker.io", "docker-cli")}
_INSTALL = """
echo "deb [check-valid-until=no] $1 $2 main" >/etc/apt/sources.list
shift 2
export DEBIAN_FRONTEND=noninteractive
apt-get --quiet update
apt-get --quiet --yes install --no-install-recommends "$@"
apt-get clean
rm -rf /etc/apt/sources.list /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log
"""
# A container's settings of IPv6 can only be read, at which newer Engines stop.
_DROP_IN = """
mkdir -p /etc/systemd/system/docker.service.d
cat >/etc/systemd/system/docker.service.d/10-container.conf <<'CONF'
[Service]
Environment=DOCKER_ALLOW_IPV6_ON_IPV4_INTERFACE=1
CONF
"""


def engine_images(engine: docker.DockerClient, releases: Iterable[str]) -> dict[str, str]:
    """The image of each release with Docker Engine, built first where it is missing.

    Raises:
        RunFailed: an image cannot be built.
        NoContainers: the machine lacks what building takes.
    """
    bare = host_images(engine, releases)
    with locked("engine-images"):
        missing = [release for release in sorted(bare) if not exists(engine, engine_tag(release))]
        if missing:
            (part,) = engine.networks.get("bridge").attrs["IPAM"]["Config"][:1]
            address = part.get("Gateway") or part["Subnet"].rpartition(".")[0] + ".1"
            with apt_proxy(address) as archive, ThreadPoolExecutor(len(missing)) as pool:
                list(pool.map(lambda release: _build(engine, release, bare[release], archive), missing))
    return {release: f"{REPOSITORY}:{engine_tag(release)}" for release in bare}


def engine_tag(release: str) -> str:
    """The tag of a release's image with Docker Engine, which tells the recipe."""
    recipe = (tag_of(release), PACKAGES[release], _INSTALL, _DROP_IN)
    return f"{release}-docker-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]}"


def _build(engine: docker.DockerClient, release: str, bare: str, archive: str) -> None:
    script = ["sh", "-ec", f"{_INSTALL}{_DROP_IN}", "sh", archive, release, *PACKAGES[release]]
    made = engine.containers.create(bare, script)
    try:
        made.start()
        if made.wait()["StatusCode"] != 0:
            said = last_line(made.logs().decode(errors="replace"))
            raise RunFailed(
                f"The image of a {release} host with Docker cannot be built: {said}",
                cure="see whether the machine's Debian mirror answers and has docker.io",
            )
        made.commit(REPOSITORY, engine_tag(release), changes='CMD ["/sbin/init"]')
    finally:
        made.remove(force=True, v=True)
