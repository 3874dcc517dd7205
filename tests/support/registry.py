"""A container registry on this machine, Debian's docker-registry, for as long as a test needs it."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from support.hosts.machine import find, install

START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that answers.

    Args:
        address: Host and port. Docker trusts those of this machine without TLS.
        storage: Where it keeps what it got.
    """

    address: str
    storage: Path

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        kind, _, value = digest.partition(":")
        return self.storage / "docker/registry/v2/blobs" / kind / value[:2] / value / "data"

    def serve(self, name: str, digest: str, manifest: bytes) -> None:
        """Serve a manifest of an image under a digest, right or wrong."""
        kind, _, value = digest.partition(":")
        revisions = self.storage / "docker/registry/v2/repositories" / name / "_manifests/revisions"
        link = revisions / kind / value / "link"
        for path, data in ((self.blob(digest), manifest), (link, digest.encode())):
            path.parent.mkdir(parents=True)
            path.write_bytes(data)


@contextmanager
def registry(directory: Path) -> Iterator[Registry]:
    """Run a registry without accounts on a free port of loopback.

    Raises:
        NoContainers: it cannot be installed here.
    """
    install({"docker-registry": "docker-registry"})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    storage = directory / "storage"
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (directory / "config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(find("docker-registry")), "serve", str(directory / "config.yml")]
    with (directory / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as running:
        try:
            _wait(port, running, directory / "log")
            yield Registry(f"127.0.0.1:{port}", storage)
        finally:
            running.terminate()
            running.wait(START_SECONDS)


def _wait(port: int, running: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert running.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"the registry does not answer: {log.read_text(encoding='utf-8')}")
