"""Debian's archive for hosts that have no way out: an address of this machine that hands on what its own mirror has."""

from __future__ import annotations

import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from support.hosts.machine import apt_options, mirror

SECONDS = 120.0
_KEPT = ("Content-Length", "Content-Type", "Last-Modified")
_PROXY = re.compile(r'^Acquire::(https?)::Proxy "([^"]+)"$')


@contextmanager
def apt_proxy(address: str) -> Iterator[str]:
    """Serve the mirror at this address of the machine; yields the URL for a host's sources.list.

    Raises:
        NoContainers: this machine's apt reads no Debian archive.
    """
    with _Server((address, 0), _Handler) as server:
        server.mirror = mirror().rstrip("/")
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        serving.start()
        try:
            yield f"http://{address}:{server.server_port}/"
        finally:
            server.shutdown()
            serving.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    mirror = ""

    @cached_property
    def opener(self) -> urllib.request.OpenerDirector:
        """Reaches the mirror by the proxies that the machine's apt takes, or those of the environment."""
        told = {found[1]: found[2] for found in map(_PROXY.match, apt_options()) if found}
        return urllib.request.build_opener(urllib.request.ProxyHandler(told or None))


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        try:
            with self.server.opener.open(f"{self.server.mirror}{self.path}", timeout=SECONDS) as found:
                self.send_response(found.status)
                for name in _KEPT:
                    if name in found.headers:
                        self.send_header(name, found.headers[name])
                if "Content-Length" not in found.headers:
                    self.close_connection = True  # so that its end is seen
                    self.send_header("Connection", "close")
                self.end_headers()
                shutil.copyfileobj(found, self.wfile)
        except urllib.error.HTTPError as error:  # apt asks for some files only to see whether they are there
            self.send_error(error.code)
        except OSError as error:
            self.send_error(HTTPStatus.BAD_GATEWAY, type(error).__name__)

    def log_message(self, *args: object) -> None:
        """Say nothing: apt says what it lacks."""
