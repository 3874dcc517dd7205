"""How dataClay's services end when they cannot start: soon, with a code of their own and a line that says why."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from uuid import uuid4

import pytest
import tomli_w

from icosfl.errors import ConfigError, RunFailed, StoreUnavailable
from icosfl.store import checkpoint
from support.dataclay_stack import DataclayStack, free_ports


@pytest.fixture
def config(dataclay_stack: DataclayStack, tmp_path: Path) -> dict:
    """A configuration that fits the running Redis, but with addresses and a directory of its own."""
    values = tomllib.loads(dataclay_stack.config_path.read_text())
    for name, port in zip(("metadata", "backend", "proxy"), free_ports(3), strict=True):
        values[name]["port"] = port
    return values | {"storage_dir": str(tmp_path / "objects"), "start_timeout_seconds": 0.3}


def launch(service: str, config: dict, directory: Path) -> subprocess.CompletedProcess[str]:
    path = directory / "dataclay.toml"
    path.write_text(tomli_w.dumps(config))
    command = [sys.executable, "-m", "icosfl.store.launch", service, "--config", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("service", ["metadata", "backend"])
def test_a_service_without_redis_says_so_and_ends(config, tmp_path, service) -> None:
    (config["redis"]["port"],) = free_ports(1)

    done = launch(service, config, tmp_path)

    assert done.returncode == StoreUnavailable.exit_code
    assert f"Redis at 127.0.0.1:{config['redis']['port']} does not answer" in done.stderr
    assert "icosfl status" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("service", ["metadata", "backend", "proxy"])
def test_a_service_whose_port_is_taken_says_so_and_ends(config, tmp_path, service) -> None:
    with socket.create_server(("127.0.0.1", config[service]["port"])):
        done = launch(service, config, tmp_path)

    assert done.returncode == RunFailed.exit_code
    assert f"cannot listen at 127.0.0.1:{config[service]['port']}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_backend_with_the_id_of_a_running_one_is_refused(dataclay_stack, config, tmp_path) -> None:
    config["storage_dir"] = str(tmp_path)
    (tmp_path / "BACKEND_ID").write_text((dataclay_stack.storage_dir / "BACKEND_ID").read_text())

    done = launch("backend", config, tmp_path)

    assert done.returncode == RunFailed.exit_code
    assert f"another backend serves as {(tmp_path / 'BACKEND_ID').read_text()}" in done.stderr


def test_a_backend_whose_directory_cannot_be_made_says_so_and_ends(config, tmp_path) -> None:
    (tmp_path / "file").touch()
    config["storage_dir"] = str(tmp_path / "file" / "objects")

    done = launch("backend", config, tmp_path)

    assert done.returncode == RunFailed.exit_code
    assert f"storage_dir: {tmp_path}/file/objects: Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_with_a_whole_file_that_it_cannot_load_says_so_and_leaves_it_as_it_is(config, tmp_path) -> None:
    path = tmp_path / str(uuid4())
    checkpoint.write(path, lambda sink: sink.write(b"cgone.module\nClass\n."))
    content = path.read_bytes()
    config["storage_dir"] = str(tmp_path)

    done = launch("backend", config, tmp_path)

    assert done.returncode == StoreUnavailable.exit_code
    assert f"{path} is whole but cannot be loaded" in done.stderr
    assert "go back to the release that wrote it" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == content


def test_a_redis_that_refuses_because_its_disk_is_full_is_waited_for_and_named(config, tmp_path) -> None:
    def refuse(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                while asked := connection.recv(4096):
                    answers = asked.count(b"CLIENT") * b"+OK\r\n"
                    connection.sendall(
                        answers or b"-MISCONF Errors writing to the AOF file: No space left on device\r\n"
                    )

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=refuse, args=[server])
        thread.start()
        config["redis"]["port"] = server.getsockname()[1]
        done = launch("metadata", config, tmp_path)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)

    assert done.returncode == StoreUnavailable.exit_code
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_key_is_named(config, tmp_path) -> None:
    del config["checkpoint_seconds"]

    done = launch("backend", config, tmp_path)

    assert done.returncode == ConfigError.exit_code
    assert "checkpoint_seconds" in done.stderr
