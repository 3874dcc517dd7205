"""A host whose services are containers of this machine's Docker, driven through the module as Ansible does it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container

from icosfl.fleet import alive, grpc_health
from support.hosts.image import host_images
from support.hosts.machine import as_root

from .conftest import MODULES, Result, answer_of, free_port

USER, IDS = "nobody", "65534:65534"


def stand_in(engine: docker.DockerClient) -> str:
    """Build an image that stands for the release's, with nothing but Python and the health check; return its id.

    No two calls return the same: whoever is done with it removes it. Without a tag it would go with an image that is
    made from it. A repository below /tmp would make the image's /tmp root's alone, and a container's is as its image's.
    """
    base = host_images(engine, ["bookworm"])["bookworm"]
    package = Path(alive.__file__).parents[1]
    python = Path(sys.executable)
    number = uuid.uuid4()
    recipe = f"""
        FROM {base}
        LABEL io.icosfl.test={number}
        COPY . /
        RUN mkdir -p {python.parent} && ln -sf /usr/bin/python3 {python} && chmod 1777 /tmp
    """
    sources = {
        "Dockerfile": recipe,
        **{
            str(each).lstrip("/"): each.read_text(encoding="utf-8")
            for each in (package / "__init__.py", package / "fleet/__init__.py", *map(Path, _CHECK))
        },
    }
    built = {"fileobj": _archive(sources), "custom_context": True, "tag": f"icosfl-test:{number}"}
    image, _ = engine.images.build(**built, rm=True, forcerm=True)
    return str(image.id)


_CHECK = (alive.__file__, grpc_health.__file__)


def _archive(files: Mapping[str, str]) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    archive.seek(0)
    return archive


@dataclass
class DockerHost:
    """A logical host: its root directory, its server program, and the module that acts on it."""

    root: Path
    server: Path
    image: str
    engine: docker.DockerClient
    prefix: str = field(default_factory=lambda: f"icosfl-t{uuid.uuid4().hex[:8]}")
    ports: dict[str, int] = field(default_factory=dict)

    def module(self, *, check: bool = False, **arguments: Any) -> Result:
        """Run the module as a program, as Ansible does, and return what it says."""
        call = {
            "root": str(self.root),
            "host": "edge-01",
            "runtime": "docker",
            "user": USER,
            "unit_prefix": self.prefix,
            "image": self.image,
            "_ansible_check_mode": check,
            **arguments,
        }
        ended = subprocess.run(
            [*as_root(), sys.executable, MODULES / "host_state.py"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": call}),
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert ended.stdout, ended.stderr
        values = json.loads(ended.stdout)
        return Result(bool(values.get("failed")), values)

    def start(self, *services: dict[str, Any], check: bool = False, **others: Any) -> Result:
        return self.module(check=check, services=list(services), **others)

    def converge(self, *, check: bool = False) -> Result:
        return self.module(check=check, state="converged")

    def stop(self, *names: str, state: str = "stopped", check: bool = False, **others: Any) -> Result:
        chosen = {"services": [{"name": name} for name in names]} if names else {}
        return self.module(check=check, state=state, **chosen, **others)

    def service(self, name: str, **changes: Any) -> dict[str, Any]:
        """Describe a web server that greets."""
        port = self.ports.setdefault(name, free_port())
        environment = {"LISTEN": name.replace("_", "-"), **changes.pop("environment", {})}
        return {
            "name": name,
            "command": ["/usr/bin/python3", str(self.server), str(port)],
            "environment": environment,
            "reads": [str(self.server.parent)],
            "ports": {name: port},
            "publish": {name: "127.0.0.1"},
            "health": {"kind": "http", "host": "127.0.0.1", "port": port, "timeout_seconds": 20},
            "stop_seconds": 5,
            "priority": 10,
            **changes,
        }

    def container(self, name: str) -> Container:
        """The container of a service, as Docker sees it now."""
        return self.engine.containers.get(f"{self.prefix}-{name.replace('_', '-')}")

    def pids(self) -> dict[str, int]:
        """The processes of the services that are up, by name."""
        up = self.engine.containers.list(filters={"label": f"io.icosfl.root={self.root}"})
        return {each.labels["io.icosfl.service"]: each.attrs["State"]["Pid"] for each in up}

    def does(self, name: str, *words: str) -> tuple[int, str]:
        """Run a command in a container, as its own user; return its exit code and what it said."""
        code, said = self.container(name).exec_run(list(words))
        return int(code), said.decode()

    def says(self, name: str) -> str:
        """What a server answers, or "" when nobody does."""
        return answer_of(self.ports[name])

    def left(self) -> list[str]:
        """All that Docker has of this host."""
        mine = {"label": f"io.icosfl.root={self.root}"}
        found = (
            *self.engine.containers.list(all=True, filters=mine),
            *self.engine.volumes.list(filters=mine),
            *self.engine.networks.list(filters=mine),
        )
        return [each.name for each in found]
