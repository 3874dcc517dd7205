"""The forecast service over HTTP: the pages, nothing else. No page ever waits for the store or the model."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from icosfl.serve.metrics import Source, build_registry
from icosfl.serve.values import to_json

PAGES = ("/healthz", "/readyz", "/v1/forecast", "/metrics")

Page = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)


def build_app(source: Source, retry_seconds: float) -> Starlette:
    """Return the service's pages.

    Args:
        source: Where they get their answers.
        retry_seconds: After how long asking again makes sense while there are no forecasts.
    """
    retry = str(max(1, math.ceil(retry_seconds)))

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        readiness = source.readiness()
        return _json(to_json(readiness), readiness.ready, retry)

    async def forecast(_: Request) -> Response:
        page = source.page()
        return _json(to_json(page), page.ready, retry)

    pages = (healthz, readyz, forecast, _metrics(source))
    return Starlette(
        routes=[Route(path, page, methods=["GET"]) for path, page in zip(PAGES, pages, strict=True)],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
    )


def _metrics(source: Source) -> Page:
    registry = build_registry(source)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return metrics


def _json(body: bytes, ready: bool, retry: str) -> Response:
    headers = {"Cache-Control": "no-store"} if ready else {"Cache-Control": "no-store", "Retry-After": retry}
    return Response(body, 200 if ready else 503, headers, media_type="application/json")


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    text = f"{request.method} {request.url.path}: {error.detail}"
    body = {"error": text, "cure": f"GET one of {', '.join(PAGES)}"}
    return JSONResponse(body, error.status_code, error.headers)


async def _fail(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed: %r", request.method, request.url.path, error)
    return JSONResponse({"error": "the service has a defect", "cure": "see its log, and report it"}, 500)
