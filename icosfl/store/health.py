"""Health of dataClay's services: registered and answering.

dataClay's servers say SERVING as soon as they exist, before anybody can find them. Ours say it from when their
registration is seen in Redis. It is not taken back while Redis is away: a backend then goes on answering from memory,
and a watchdog that started it anew would only lose what it holds. A service that starts meanwhile waits for Redis, and
so never becomes SERVING without its registration.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from grpc_health.v1 import health, health_pb2

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class RegisteredHealth(health.HealthServicer):
    """Answers NOT_SERVING, for each service and for the server as a whole, until `tell_registered`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._registered = False
        self._wanted: dict[str, int] = {}
        self.set(health.OVERALL_HEALTH, _SERVING)

    def set(self, service: str, status: int) -> None:
        """Take down what a service wants to say, and say it once it is registered."""
        with self._lock:
            self._wanted[service] = status
            super().set(service, status if self._registered else _NOT_SERVING)

    def tell_registered(self) -> None:
        """Say from now on what the services want to say."""
        with self._lock:
            self._registered = True
            for service, status in self._wanted.items():
                super().set(service, status)


class Gate:
    """The health of the one server that dataClay makes in this process."""

    def __init__(self) -> None:
        self._servicers: list[RegisteredHealth] = []
        self._open = False

    def module(self) -> SimpleNamespace:
        """What takes the place of the module `grpc_health.v1.health` where dataClay makes its servicer."""
        return SimpleNamespace(**(vars(health) | {"HealthServicer": self._make}))

    def open(self) -> None:
        """The service is registered."""
        self._open = True
        for servicer in self._servicers:
            servicer.tell_registered()

    def _make(self, **options: Any) -> RegisteredHealth:
        servicer = RegisteredHealth(**options)
        self._servicers.append(servicer)
        if self._open:
            servicer.tell_registered()
        return servicer
