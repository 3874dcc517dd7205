"""A real SuperLink with SuperNodes for tests, on free ports of loopback, run as the roles run them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from icosfl.config import NODE_CONFIG_VARIABLE, Endpoint
from icosfl.fleet.flower import ENVIRONMENT
from support.dataclay_stack import SupervisedProcess, free_ports

CONNECTION = "fleet"


class FlowerStack:
    """The Flower processes of a controller and of workers.

    Args:
        directory: Where logs, state and Flower's homes go.
        controller: The controller's node configuration file.
        workers: The workers' node configuration files by host.
    """

    def __init__(self, directory: Path, controller: Path, workers: Mapping[str, Path]) -> None:
        self.home = directory / "flwr"
        self._directory = directory
        app_io, fleet, control, *free = (_loopback(port) for port in free_ports(5 + 2 * len(workers)))
        superlink = _program("flower-superlink", "--insecure", "--isolation=process")
        superlink += [f"--database={directory / 'state.db'}", f"--serverappio-api-address={app_io}"]
        superlink += [f"--fleet-api-address={fleet}", f"--control-api-address={control}"]
        self.services = {
            "superlink": self._service("superlink", controller, superlink, free.pop()),
            "superlink-executor": self._service(
                "superlink-executor", controller, _executor("serverapp", app_io), free.pop()
            ),
        }
        for host, config in workers.items():
            app_io, health = free.pop(), free.pop()
            command = [sys.executable, "-m", "icosfl.fleet.together", "--", *_executor("clientapp", app_io), "--"]
            command += _program("flower-supernode", "--insecure", "--isolation=process", f"--superlink={fleet}")
            self.services[host] = self._service(host, config, [*command, f"--clientappio-api-address={app_io}"], health)
        self.home.mkdir(parents=True)
        connection = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
        (self.home / "config.toml").write_text(
            f'{connection}address = "{control}"\ninsecure = true\n', encoding="utf-8"
        )

    def start(self) -> None:
        """Start all services at once and wait until they are healthy."""
        starting = [threading.Thread(target=service.start) for service in self.services.values()]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()

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

    def log_of(self, name: str) -> str:
        """What a service said."""
        return self.services[name].log.read_text(encoding="utf-8")

    def _service(self, name: str, config: Path, command: list[str], health: Endpoint) -> SupervisedProcess:
        own = Path(sys.executable).parent
        variables = {
            **ENVIRONMENT,
            "PATH": os.pathsep.join([str(own), os.environ["PATH"]]),
            "FLWR_HOME": str(self._directory / "homes" / name.removesuffix("-executor")),
            NODE_CONFIG_VARIABLE: str(config),
        }
        settings = [f"{key}={value}" for key, value in variables.items()]
        whole = ["env", *settings, *command, f"--health-server-address={health}"]
        return SupervisedProcess(name, whole, self._directory / f"{name}.log", health)


def _program(name: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / name), *arguments]


def _executor(plugin: str, app_io: Endpoint) -> list[str]:
    return _program("flower-superexec", "--insecure", f"--plugin-type={plugin}", f"--appio-api-address={app_io}")


def _loopback(port: int) -> Endpoint:
    return Endpoint(host="127.0.0.1", port=port)
