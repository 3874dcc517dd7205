from __future__ import annotations

import pytest
from grpc_health.v1 import health_pb2

from icosfl.store.health import Gate

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def status(servicer, service: str = "") -> int:
    return int(servicer.Check(health_pb2.HealthCheckRequest(service=service), None).status)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_nothing_serves_before_the_registration_is_seen(gate) -> None:
    servicer = gate.module().HealthServicer(experimental_non_blocking=True)
    servicer.set("store", SERVING)

    assert (status(servicer), status(servicer, "store")) == (NOT_SERVING, NOT_SERVING)

    gate.open()

    assert (status(servicer), status(servicer, "store")) == (SERVING, SERVING)


def test_a_servicer_that_is_made_after_the_registration_was_seen_serves_at_once(gate) -> None:
    gate.open()

    assert status(gate.module().HealthServicer()) == SERVING


def test_what_does_not_want_to_serve_does_not_serve_when_it_is_registered(gate) -> None:
    servicer = gate.module().HealthServicer()
    servicer.set("store", NOT_SERVING)
    gate.open()

    assert (status(servicer), status(servicer, "store")) == (SERVING, NOT_SERVING)

    servicer.set("store", SERVING)

    assert status(servicer, "store") == SERVING


def test_the_module_is_else_as_it_was(gate) -> None:
    assert gate.module().SERVICE_NAME == "grpc.health.v1.Health"
