from __future__ import annotations

import socket

import pytest

from icosfl.config import Endpoint
from icosfl.errors import ConfigError, RunFailed
from icosfl.serve.server import listen


def test_a_busy_port_is_named_with_its_cure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(RunFailed, match=f"another process listens on 127.0.0.1:{port}") as caught:
            listen(Endpoint("127.0.0.1", port))

    assert f":{port}" in caught.value.cure


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no such host", 0)])
def test_an_address_that_is_not_this_machines_is_a_matter_of_configuration(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        listen(Endpoint(host, port))


def test_a_port_can_be_taken_again_at_once() -> None:
    with listen(Endpoint("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        first.accept()[0].close()
        client.close()

    with listen(Endpoint("127.0.0.1", port)) as again:
        assert again.getsockname()[1] == port
