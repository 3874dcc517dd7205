"""The bridge's HTTP pages for operators and Prometheus: /metrics, /healthz and /readyz."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from icosfl.config import Endpoint
from icosfl.errors import RunFailed


def make_app(
    registry: CollectorRegistry, trouble: Callable[[], str], store_trouble: Callable[[], str]
) -> WSGIApplication:
    """The pages: /healthz says that the process lives, /readyz whether points are taken, and how the store is.

    Args:
        registry: What /metrics shows.
        trouble: Why no points are taken, empty while they are.
        store_trouble: What is wrong with the store, empty while it answers.
    """
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        match environ.get("PATH_INFO", ""):
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                return _json(start_response, "200 OK", {"alive": True})
            case "/readyz":
                reason = trouble()
                status = "503 Service Unavailable" if reason else "200 OK"
                reasons = [reason] if reason else []
                store = store_trouble() or "answers"
                return _json(start_response, status, {"ready": not reason, "reasons": reasons, "store": store})
            case _:
                return _json(start_response, "404 Not Found", {"pages": ["/metrics", "/healthz", "/readyz"]})

    return app


def _json(start_response: StartResponse, status: str, content: object) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(content).encode() + b"\n"]


def serve_pages(listen: Endpoint, app: WSGIApplication) -> WSGIServer:
    """Serve the pages from a thread of their own until the server is shut down.

    Raises:
        RunFailed: nothing can listen at this address.
    """
    try:
        server, _ = start_http_server(listen.port, listen.host)
    except OSError as error:
        raise RunFailed(
            f"metrics_listen: cannot listen on {listen}: {error.strerror}",
            cure="stop what listens there, or give the host another slot or port",
        ) from error
    server.set_app(app)
    return server
