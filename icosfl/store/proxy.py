"""dataClay's proxy, with what it lacks: many calls at once, large messages, and backends that restart."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import grpc

from icosfl.config import DataclayConfig
from icosfl.store.link import CHANNEL_OPTIONS
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay.metadata.kvdata import Backend
    from dataclay.proto.metadata import metadata_pb2, metadata_pb2_grpc
    from dataclay.proxy import base_classes, servicer

_THREADS = 64
"""The proxy holds one for each call in flight, and a waiting call may last half a minute."""

_LOOK_UP_SECONDS = 5.0


class BackendAddresses:
    """Answers the proxy where the backends are, by asking the metadata service each time.

    The proxy runs every look-up in an event loop of its own, in which dataClay's own metadata API works only once.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = metadata_pb2_grpc.MetadataServiceStub(channel)

    async def get_all_backends(self) -> dict[UUID, Any]:
        """The registered backends by their ids."""
        request = metadata_pb2.GetAllBackendsRequest(force=True)
        reply = self._stub.GetAllBackends(request, timeout=_LOOK_UP_SECONDS)
        return {UUID(key): Backend.from_proto(found) for key, found in reply.backends.items()}


def _open_channel(target: str) -> grpc.Channel:
    return grpc.insecure_channel(target, options=CHANNEL_OPTIONS)


async def serve_proxy(config: DataclayConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS))
    patched = SimpleNamespace(**vars(grpc))
    patched.insecure_channel = _open_channel
    base_classes.grpc = servicer.grpc = patched
    addresses = BackendAddresses(_open_channel(str(config.metadata)))
    serving = asyncio.ensure_future(servicer.serve(addresses, [], [], []))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    await asyncio.wait({serving})
    if not serving.cancelled():
        serving.result()
