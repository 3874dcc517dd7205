from __future__ import annotations

import ast
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

import pytest

from icosfl.fleet import probe, probe_docker

PLUGIN = {"plugin": "/no/such/plugin", "program": "/opt/icosfl/current/venv/bin/docker-compose"}
WANTED = {"root": "/opt/icosfl/nodes/edge", "docker": PLUGIN}
OURS = {"Id": "c0ffee", "Ports": [{"PrivatePort": 1, "PublicPort": 20379, "IP": "127.0.0.1"}, {"PrivatePort": 2}]}
SAID: dict[str, Any] = {
    "/version": {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "Arch": "amd64"},
    "/info": {"DockerRootDir": "/srv/docker", "Labels": ["rack=7", "io.icosfl.engine=abc"]},
    '/images/json?filters={"label": ["io.icosfl.image"]}': [{"Id": "sha256:1"}],
    '/containers/json?all=1&filters={"label": ["io.icosfl.root=/opt/icosfl/nodes/edge"]}': [OURS],
}


@contextmanager
def engine(directory: Path, said: Mapping[str, Any] = SAID, status: str = "200 OK") -> Iterator[str]:
    """Something that answers as Docker Engine does, and its socket."""
    path = str(directory / "docker.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()

        def answer() -> None:
            while True:
                connection, _ = server.accept()
                with connection:
                    asked = unquote(connection.recv(65536).split()[1].decode())
                    if asked == "/end":
                        return
                    body = said[asked] if isinstance(said[asked], str) else json.dumps(said[asked])
                    connection.sendall(f"HTTP/1.0 {status}\r\nServer: Docker\r\n\r\n{body}".encode())

        thread = Thread(target=answer)
        thread.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX) as end:
                end.connect(path)
                end.sendall(b"GET /end HTTP/1.0\r\n\r\n")
            thread.join()


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose programs are dockerd, and a docker that has the plugin compose."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, text in (("dockerd", ""), ("docker", 'test "$*" = "compose version --short" && echo 2.26.1-4')):
        (directory / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (directory / name).chmod(0o755)
    monkeypatch.setattr(probe_docker, "_PROGRAMS", str(directory))
    return directory


def test_it_is_python_of_3_9_with_the_standard_library_alone() -> None:
    tree = ast.parse(Path(probe_docker.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    modules = {
        name.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }

    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names


def test_what_the_engine_says_is_told(tmp_path: Path, programs: Path) -> None:
    with engine(tmp_path) as at:
        found = probe_docker.look_docker(WANTED, at, str(tmp_path / "daemon.json"))

    assert found == {
        "dockerd": str(programs / "dockerd"),
        "command": str(programs / "docker"),
        "engine": "20.10.24+dfsg1",
        "api": "1.41",
        "architecture": "amd64",
        "storage": "/srv/docker",
        "has_image": True,
        "running": "abc",
        "error": "",
        "config": str(tmp_path / "daemon.json"),
        "is_configured": False,
        "mark": "",
        "linked": False,
        "compose": "2.26.1",
        "ports": [20379],
        "containers": ["c0ffee"],
    }


def test_a_host_without_docker_has_nothing_of_it(tmp_path: Path, programs: Path) -> None:
    for program in programs.iterdir():
        program.unlink()

    found = probe_docker.look_docker(WANTED, str(tmp_path / "none.sock"), str(tmp_path / "daemon.json"))

    assert (found["dockerd"], found["command"], found["engine"], found["compose"]) == ("", "", "", "")
    assert (found["storage"], found["ports"]) == ("/var/lib/docker", [])


def test_why_an_engine_does_not_answer_is_told(tmp_path: Path) -> None:
    at = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(at))  # and nobody listens

        found = probe_docker.look_docker(WANTED, str(at), "")

    assert (found["engine"], found["error"]) == ("", f"{at}: Connection refused")


def test_an_engine_that_answers_with_an_error_is_told_with_its_words(tmp_path: Path) -> None:
    with engine(tmp_path, dict.fromkeys(SAID, '{"message":"no space left"}'), "500 Internal Server Error") as at:
        found = probe_docker.look_docker(WANTED, at, "")

    assert found["engine"] == ""
    assert "no space left" in found["error"]


def test_where_services_run_without_docker_only_our_containers_are_looked_for(tmp_path: Path) -> None:
    with engine(tmp_path) as at:
        found = probe_docker.look_docker({**WANTED, "docker": None}, at, "")

    assert found == {"ports": [20379], "containers": ["c0ffee"]}


@pytest.mark.parametrize(
    ("text", "is_configured", "mark"),
    [
        (None, False, ""),
        ("{}", True, ""),
        ('{"labels": ["rack=7", "io.icosfl.engine=abc"]}', True, "abc"),
        ("no JSON", True, ""),
        ("[]", True, ""),
    ],
)
def test_an_engine_of_ours_is_told_by_the_mark_in_its_configuration(
    tmp_path: Path, text: str | None, is_configured: bool, mark: str
) -> None:
    config = tmp_path / "daemon.json"
    if text is not None:
        config.write_text(text, encoding="utf-8")

    found = probe_docker.look_docker(WANTED, str(tmp_path / "none.sock"), str(config))

    assert (found["is_configured"], found["mark"]) == (is_configured, mark)


def test_the_plugin_that_we_linked_is_not_asked_for_its_version(tmp_path: Path, programs: Path) -> None:
    plugin = tmp_path / "docker-compose"
    plugin.symlink_to(PLUGIN["program"])

    found = probe_docker.look_docker(
        {**WANTED, "docker": {**PLUGIN, "plugin": str(plugin)}}, str(tmp_path / "none.sock"), ""
    )

    assert (found["linked"], found["compose"]) == (True, "")


def test_a_docker_without_the_plugin_has_no_version_of_it(tmp_path: Path, programs: Path) -> None:
    (programs / "docker").write_text("#!/bin/sh\necho \"docker: 'compose' is not a docker command.\" >&2; exit 1\n")

    assert probe_docker.look_docker(WANTED, str(tmp_path / "none.sock"), "")["compose"] == ""


def test_a_port_that_our_container_offers_is_our_own_and_anothers_is_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for offered, own in (([port], True), ([], False)):
            (by,) = probe.listeners(
                {"redis": port}, str(tmp_path), "icosfl", None, {"ports": offered, "containers": ["c0ffee"]}
            )
            assert by["own"] is own


def test_what_runs_in_a_container_of_ours_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/system.slice/docker-c0ffee.scope\n")
    monkeypatch.setattr(probe, "PROC", str(tmp_path))
    monkeypatch.setattr(probe, "_listening", lambda ports: {20379: {"99": 0}})
    monkeypatch.setattr(probe, "_holders", lambda inodes: {"99": 7})

    for containers, own in ((["c0ffee"], True), (["dec0de"], False)):
        (by,) = probe.listeners({"redis": 20379}, "/srv", "icosfl", None, {"ports": [], "containers": containers})
        assert by["own"] is own
