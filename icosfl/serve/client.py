"""Ask a node's forecast service what it knows, as the command line does."""

from __future__ import annotations

from typing import TypeVar

import httpx

from icosfl.errors import DataError, Unavailable
from icosfl.serve.values import ForecastPage, Readiness, from_json

ANSWERS = (200, 503)

T = TypeVar("T", Readiness, ForecastPage)


def read_readiness(address: str, timeout: float) -> Readiness:
    """Return what the service at `address` (host:port) says of its readiness, ready or not.

    Args:
        address: Where the service listens, as host:port.
        timeout: Seconds to wait for the connection, and for each part of the answer.

    Raises:
        Unavailable: nothing answers there in time.
        DataError: something else than a forecast service of this release answers.
    """
    return _read(address, "/readyz", timeout, Readiness)


def read_forecast(address: str, timeout: float) -> ForecastPage:
    """Return the forecasts of the service at `address` (host:port); without any, the page carries the reasons.

    Args:
        address: Where the service listens, as host:port.
        timeout: Seconds to wait for the connection, and for each part of the answer.

    Raises:
        Unavailable: nothing answers there in time.
        DataError: something else than a forecast service of this release answers.
    """
    return _read(address, "/v1/forecast", timeout, ForecastPage)


def _read(address: str, path: str, timeout: float, kind: type[T]) -> T:
    url = f"http://{address}{path}"
    try:
        # trust_env: a proxy of the operator's environment must not stand between us and a node
        answer = httpx.get(url, timeout=timeout, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unavailable(
            f"{url} does not answer: {error or type(error).__name__}",
            cure="see `icosfl status` whether the forecast service of this node runs",
        ) from error
    if answer.status_code not in ANSWERS:
        raise DataError(
            f"{url} answers {answer.status_code}, expected {' or '.join(map(str, ANSWERS))}",
            cure="see what listens on this port, and the log of the forecast service",
        )
    return from_json(answer.content, kind)
