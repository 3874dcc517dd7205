from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from icosfl.fleet import probe


@pytest.fixture
def port() -> Iterator[int]:
    """A port of this machine that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_it_is_python_of_3_9_with_the_standard_library_alone() -> None:
    tree = ast.parse(Path(probe.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    modules = {
        name.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }

    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names


def test_who_listens_is_told_with_its_command(port: int, tmp_path: Path) -> None:
    (by,) = probe.listeners({"redis": port, "free": 1}, str(tmp_path), "icosfl")

    assert (by["service"], by["port"], by["pid"], by["own"]) == ("redis", port, os.getpid(), False)
    assert "python" in by["command"]


def test_an_address_of_version_6_is_looked_at_too(tmp_path: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        number = server.getsockname()[1]
        assert [by["port"] for by in probe.listeners({"redis": number}, str(tmp_path), "icosfl")] == [number]


@pytest.mark.parametrize(("uid", "own"), [(os.geteuid(), True), (os.geteuid() + 1, False)])
def test_whose_process_may_not_be_seen_is_our_own_when_the_services_user_made_the_socket(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, own: bool
) -> None:
    monkeypatch.setattr(probe, "_holders", lambda inodes: {})

    (by,) = probe.listeners({"redis": port}, str(tmp_path), "icosfl", {"name": "icosfl", "uid": uid, "gid": 1})

    assert (by["pid"], by["own"]) == (0, own)


@pytest.mark.parametrize(
    ("unit", "own"),
    [
        ("icosfl-redis.service", True),
        ("icosfl-supernode@2.service", True),
        ("icosfl-supernode_2.service", True),
        ("icosfl-1-redis.service", False),
        ("icosflx-redis.service", False),
        ("icosfl-redis.scope", False),
        ("redis.service", False),
    ],
)
def test_a_process_of_one_of_our_units_is_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, own: bool
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(f"9:name=systemd:/system.slice/{unit}\n0::/system.slice/{unit}\n")
    monkeypatch.setattr(probe, "PROC", str(tmp_path))

    assert probe.is_own(7, "/srv/icosfl", "icosfl") is own


def test_a_neighbours_unit_is_the_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text("0::/system.slice/icosfl-1-redis.service\n")
    monkeypatch.setattr(probe, "PROC", str(tmp_path))

    assert probe.is_own(7, "/srv/icosfl", "icosfl-1")
    assert not probe.is_own(7, "/srv/icosfl", "icosfl-2")


def test_what_a_supervisord_of_the_root_started_is_our_own(tmp_path: Path) -> None:
    environment = {**os.environ, "SUPERVISOR_SERVER_URL": f"unix://{tmp_path}/supervisor/supervisor.sock"}
    with subprocess.Popen(["/bin/sleep", "60"], env=environment) as process:
        try:
            assert probe.is_own(process.pid, str(tmp_path), "icosfl")
            assert not probe.is_own(process.pid, f"{tmp_path}/other", "icosfl")
        finally:
            process.kill()


def test_a_service_that_overwrote_its_environment_is_told_by_session_and_directory(tmp_path: Path) -> None:
    root, data = tmp_path / "root", tmp_path / "root" / "data"
    (root / "supervisor").mkdir(parents=True)
    data.mkdir()
    with subprocess.Popen(["/bin/sleep", "60"], cwd=data, start_new_session=True) as process:
        try:
            (root / "supervisor" / "supervisord.pid").write_text(f"{process.pid}\n")
            assert probe.is_own(process.pid, str(root), "icosfl")
            (root / "supervisor" / "supervisord.pid").write_text("1\n")
            assert not probe.is_own(process.pid, str(root), "icosfl")
        finally:
            process.kill()


def test_a_place_that_is_not_there_yet_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    found = probe.place(str(tmp_path / "a" / "b"), "current")

    assert (found["above"], found["trouble"], found["filled"]) == (str(tmp_path), "", False)
    assert found["free_mb"] > 0


def test_a_place_is_filled_once_its_marker_lies_in_it(tmp_path: Path) -> None:
    assert not probe.place(str(tmp_path), "current")["filled"]
    (tmp_path / "current").symlink_to("releases/gone")

    assert probe.place(str(tmp_path), "current")["filled"]
    assert probe.place(str(tmp_path), "")["filled"]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")

    assert probe.place(str(tmp_path / "file" / "icosfl"), "")["trouble"] == "not a directory"


@pytest.mark.parametrize(
    ("text", "told"),
    [('ID=debian\nVERSION_ID="12"\n', "debian 12"), ("ID=debian\n", "debian"), ("", ""), ("nonsense", "")],
)
def test_the_release_is_what_the_distribution_says(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "os-release").write_text(text, encoding="utf-8")

    assert probe.release(str(tmp_path / "os-release")) == told


def test_the_user_is_told_when_there_is_one(tmp_path: Path) -> None:
    wanted = {"ports": {}, "places": [], "root": str(tmp_path), "unit_prefix": "icosfl", "user": "root"}

    found = probe.look(wanted)

    assert found["user"] == {"name": "root", "uid": 0, "gid": 0}
    assert found["memory_mb"] > 0
    assert probe.look({**wanted, "user": "no-such-user"})["user"] is None
    assert probe.look({**wanted, "user": ""})["user"] is None
