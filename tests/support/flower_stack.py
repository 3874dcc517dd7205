"""A real SuperLink with SuperNodes for tests, on free ports of loopback, run as the roles run them."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from icosfl.config import NODE_CONFIG_VARIABLE, Endpoint
from icosfl.fleet import keys, pki
from icosfl.fleet.flower import ENVIRONMENT, Flower
from support.dataclay_stack import SupervisedProcess, free_ports

CONNECTION = "fleet"
SUPERLINK = ("superlink", "superlink-executor")


class Identities:
    """The files of a CA, of a SuperLink's certificate, and of the secret between a SuperLink and its executor."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        self.authority = pki.make_authority("test", datetime.now(UTC))
        self.ca = self._write("ca.crt", self.authority.certificate)
        self.key = self._write("superlink.key", keys.make_key())
        self.certificate = directory / "superlink.crt"
        self.renew()
        self.secret = self._write("executor.secret", secrets.token_hex(32))

    def renew(self) -> None:
        """Sign the SuperLink's certificate anew."""
        request = keys.make_request(self.key.read_text(encoding="utf-8"), "superlink")
        signed = pki.sign(self.authority, request, pki.names_of("superlink"), 30, datetime.now(UTC))
        self._write(self.certificate.name, signed)

    def node_key(self, name: str) -> Path:
        """The private key of a SuperNode, made when it is first asked for."""
        file = self.directory / f"{name}.key"
        return file if file.exists() else self._write(file.name, keys.make_node_key())

    def node_public_key(self, name: str) -> str:
        """The public half of a SuperNode's key."""
        return keys.node_public_key(self.node_key(name).read_text(encoding="utf-8"))

    def _write(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.touch(mode=0o600)
        file.write_text(text, encoding="utf-8")
        return file


class FlowerStack:
    """The Flower processes of a controller and of workers.

    Args:
        directory: Where logs, state, keys and Flower's homes go.
        controller: The controller's node configuration file.
        workers: The workers' node configuration files by host.
    """

    def __init__(self, directory: Path, controller: Path, workers: Mapping[str, Path]) -> None:
        self.home = directory / "flwr"
        self.identities = Identities(directory / "pki")
        self._directory = directory
        app_io, self.fleet, self.control, *free = (_loopback(port) for port in free_ports(5 + 2 * len(workers)))
        self.services = {
            "superlink": self._service("superlink", controller, self._superlink(app_io), free.pop()),
            "superlink-executor": self._service(
                "superlink-executor", controller, self._executor("serverapp", app_io), free.pop()
            ),
        }
        for host, config in workers.items():
            app_io, health = free.pop(), free.pop()
            executor = self._executor("clientapp", app_io)
            command = [sys.executable, "-m", "icosfl.fleet.together", "--", *executor, "--"]
            command += self.supernode(app_io, self.identities.node_key(host))
            self.services[host] = self._service(host, config, command, health)
        self.home.mkdir(parents=True)
        connection = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        (self.home / "config.toml").write_text(
            f'{connection}address = "{self.control}"\nroot-certificates = "{self.identities.ca}"\n', encoding="utf-8"
        )

    @property
    def flower(self) -> Flower:
        """Flower's own side, for questions and registrations."""
        return Flower(self.home, CONNECTION)

    def start(self) -> None:
        """Start the SuperLink, register the workers' keys, start the workers, and wait until all are healthy."""
        workers = [name for name in self.services if name not in SUPERLINK]
        self._start(SUPERLINK)
        for worker in workers:
            self.flower.register(self.identities.node_public_key(worker))
        self._start(workers)

    def stop(self) -> None:
        """End all services that run."""
        ending = [threading.Thread(target=service.end, args=(signal.SIGTERM,)) for service in self.services.values()]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()

    def kill(self, name: str) -> None:
        """End a service with SIGKILL; it stays down."""
        self.services[name].end(signal.SIGKILL)

    def restart(self, name: str) -> None:
        """Stop a service in peace, and start it again."""
        self.services[name].end(signal.SIGTERM)
        self.services[name].start()

    def log_of(self, name: str) -> str:
        """What a service said."""
        return self.services[name].log.read_text(encoding="utf-8")

    def supernode(self, app_io: Endpoint, key: Path | None, *arguments: str, ca: Path | None = None) -> list[str]:
        """The command of a SuperNode with this key, and further arguments; without a `ca` it trusts the right one."""
        command = _program("flower-supernode", "--isolation=process", f"--superlink={self.fleet}", *arguments)
        command += [f"--clientappio-api-address={app_io}", f"--superexec-auth-secret-file={self.identities.secret}"]
        command += [] if "--insecure" in arguments else [f"--root-certificates={ca or self.identities.ca}"]
        return [*command, *([] if key is None else [f"--auth-supernode-private-key={key}"])]

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a Flower process."""
        own = Path(sys.executable).parent
        return {
            **ENVIRONMENT,
            "PATH": os.pathsep.join([str(own), os.environ["PATH"]]),
            "FLWR_HOME": str(self._directory / "homes" / name.removesuffix("-executor")),
        }

    def _start(self, names: Iterable[str]) -> None:
        starting = [threading.Thread(target=self.services[name].start) for name in names]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()

    def _superlink(self, app_io: Endpoint) -> list[str]:
        files = self.identities
        tls = {"certfile": files.certificate, "keyfile": files.key, "ca-certfile": files.ca}
        command = _program("flower-superlink", "--isolation=process", "--enable-supernode-auth")
        command += [f"--{api}-{key}={file}" for api in ("ssl", "appio-ssl") for key, file in tls.items()]
        command += [f"--superexec-auth-secret-file={files.secret}"]
        command += [f"--database={self._directory / 'state.db'}", f"--serverappio-api-address={app_io}"]
        return [*command, f"--fleet-api-address={self.fleet}", f"--control-api-address={self.control}"]

    def _executor(self, plugin: str, app_io: Endpoint) -> list[str]:
        files = self.identities
        ours = [sys.executable, "-m", "icosfl.fleet.executor"]
        command = ours if plugin == "clientapp" else _program("flower-superexec")
        command = [*command, f"--plugin-type={plugin}", f"--appio-api-address={app_io}"]
        command += [f"--superexec-auth-secret-file={files.secret}"]
        # A worker has no certificate: its ClientAppIo API is on loopback and asks for the secret.
        return [*command, f"--root-certificates={files.ca}" if plugin == "serverapp" else "--insecure"]

    def _service(self, name: str, config: Path, command: list[str], health: Endpoint) -> SupervisedProcess:
        variables = {**self.environment(name), NODE_CONFIG_VARIABLE: str(config)}
        settings = [f"{key}={value}" for key, value in variables.items()]
        whole = ["env", *settings, *command, f"--health-server-address={health}"]
        return SupervisedProcess(name, whole, self._directory / f"{name}.log", health)


def _program(name: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / name), *arguments]


def _loopback(port: int) -> Endpoint:
    return Endpoint(host="127.0.0.1", port=port)
