from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from icosfl.errors import RunFailed, Unavailable
from icosfl.fleet import engine
from icosfl.fleet.engine import Engine, version_of

# A docker command that does what its first argument's file says, and a Compose plugin only where plugin exists.
DOCKER = """#!/bin/sh
here=$(dirname "$0")
[ "$1" = compose ] && [ ! -e "$here/plugin" ] && { echo "docker: unknown command: docker compose" >&2; exit 1; }
exec sh "$here/$1.sh" "$@"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine, "_PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path / "docker", DOCKER)
    return tmp_path


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_docker_gets_our_words_no_input_and_a_clean_environment(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/other.sock")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD", "hunter22")
    program(machine / "echo.sh", 'shift; printf "%s|" "$@"; cat; env')

    said = Engine().call("echo", "a b", "$(id)")

    assert said.startswith("a b|$(id)|")
    assert "DOCKER_HOST=unix:///run/other.sock" in said
    assert "LC_ALL=C.UTF-8" in said
    assert "hunter22" not in said


def test_missing_docker_is_unavailable_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_PATH", str(tmp_path))

    with pytest.raises(Unavailable, match="there is no docker command") as missing:
        Engine().call("version")

    assert "docker_engine" in missing.value.cure
    assert not Engine().answers()


@pytest.mark.parametrize(
    "error",
    [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "failed to connect to the docker API at unix:///x; check if the daemon is running: no such file or directory",
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
    ],
)
def test_engine_that_does_not_answer_is_unavailable_and_never_taken_for_a_missing_object(
    error: str, machine: Path
) -> None:
    program(machine / "image.sh", f"echo '{error}' >&2; exit 1")

    with pytest.raises(Unavailable, match="does not answer") as unanswered:
        Engine().inspect("image", ["redis"])

    assert "systemctl start docker" in unanswered.value.cure


def test_refusal_is_told_with_its_words(machine: Path) -> None:
    program(machine / "run.sh", "echo 'no space left on device' >&2; exit 125")

    with pytest.raises(RunFailed, match="docker run x: no space left on device"):
        Engine().call("run", "x")


def test_call_that_does_not_end_is_unavailable(machine: Path) -> None:
    program(machine / "pull.sh", "exec sleep 30")

    with pytest.raises(Unavailable, match=r"does not end within 0\.2 s"):
        Engine().call("pull", "x", seconds=0.2)


def test_objects_that_are_not_there_are_left_out(machine: Path) -> None:
    program(machine / "image.sh", "echo '[{\"Id\": \"a\"}]'; echo 'Error: No such image: b' >&2; exit 1")

    assert Engine().inspect("image", ["a", "b"]) == [{"Id": "a"}]
    assert Engine().inspect("image", []) == []


def test_any_other_error_of_inspect_is_told(machine: Path) -> None:
    program(machine / "image.sh", "echo '[]'; echo 'No such image: b' >&2; echo 'disk on fire' >&2; exit 1")

    with pytest.raises(RunFailed, match="disk on fire"):
        Engine().inspect("image", ["b"])


def test_the_engine_says_what_it_is_and_speaks(machine: Path) -> None:
    server = {"Version": "20.10.24+dfsg1", "ApiVersion": "1.41", "Arch": "amd64"}
    program(machine / "version.sh", f"echo '{json.dumps(server)}'")

    found = Engine().server()

    assert (found.engine, found.api, found.architecture) == ("20.10.24+dfsg1", "1.41", "amd64")
    assert (1, 41) <= found.speaks < (1, 44)


@pytest.mark.parametrize(("plugin", "used"), [("v2.20.0", "plugin"), ("v2.19.9", "own"), ("", "own")])
def test_compose_of_the_release_serves_where_there_is_none_or_too_old_a_one(
    plugin: str, used: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = machine / "venv"
    release.mkdir()
    monkeypatch.setattr(sys, "executable", str(release / "python"))
    program(release / "docker-compose", "#!/bin/sh\necho own")
    if plugin:
        (machine / "plugin").touch()
    program(machine / "compose.sh", f'[ "$2" = version ] && echo {plugin} || echo plugin')

    assert Engine().compose("up").strip() == used


def test_compose_that_is_nowhere_is_unavailable(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(machine / "python"))

    with pytest.raises(Unavailable, match="Docker Compose is missing"):
        Engine().require_compose()


@pytest.mark.parametrize(
    ("text", "numbers"), [("v2.32.4-desktop.1", (2, 32, 4)), ("20.10.24+dfsg1", (20, 10, 24)), ("", ()), ("dev", ())]
)
def test_versions_are_compared_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version_of(text) == numbers
