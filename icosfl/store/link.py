"""Calls to dataClay's services, each with a deadline: the only code that speaks dataClay's protocol.

dataClay's own client has no deadlines, retries for ever without a pause while a backend is down, keeps process-wide
state, and may only be used from threads that inherited its context. So this uses the generated gRPC stubs below it:
blocking calls with gRPC's deadlines, from any thread. What is on the wire is the same.
"""

from __future__ import annotations

import logging
import pickle
import re
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import grpc

from icosfl.config import Endpoint, StoreConfig
from icosfl.errors import IcosflError, StoreUnavailable
from icosfl.schema import Schema
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    import dataclay
    from dataclay.exceptions import ObjectNotFound, ObjectWithWrongBackendIdError
    from dataclay.proto.backend import backend_pb2, backend_pb2_grpc
    from dataclay.proto.metadata import metadata_pb2, metadata_pb2_grpc

    from icosfl.store.model import TimeSeriesData

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own limit is 2 minutes
)


class LinkLost(Exception):
    """The service or the object is not where it was: another attempt may help."""

    cure = "see which of redis, dataclay-metadata and dataclay-backend is down: icosfl status"


class NoWindow(LinkLost):
    """Nobody has made the object yet."""

    cure = "start the bridge, which makes it: icosfl status shows whether it runs"


class _DoesNotExist(LinkLost):
    """The metadata service knows no such key."""


class _AlreadyExists(LinkLost):
    """The metadata service has such a key already."""


class Channels:
    """One gRPC channel for each address, made when it is first needed."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}
        self._lock = threading.Lock()

    def to(self, endpoint: Endpoint) -> grpc.Channel:
        """The channel to `endpoint`."""
        with self._lock:
            address = str(endpoint)
            if address not in self._channels:
                self._channels[address] = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
            return self._channels[address]

    def close(self) -> None:
        """Close them all; calls in flight end."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()


class Link:
    """The way to one object: its id and the backend that holds it."""

    def __init__(
        self, object_id: str, backend_id: str, channels: Channels, endpoint: Endpoint, config: StoreConfig
    ) -> None:
        self.object_id = object_id
        self._stub = backend_pb2_grpc.BackendServiceStub(channels.to(endpoint))
        self._where = f"backend at {endpoint}"
        self._headers = (
            ("client-version", dataclay.__version__),
            ("backend-id", backend_id),
            ("dataset-name", config.dataset),
            ("username", config.username),
        )

    def call(self, method: str, *args: object, timeout: float) -> Any:
        """Run an active method of the object and return its result.

        Args:
            method: Its name.
            args: Its arguments.
            timeout: Seconds until the answer must be there.

        Raises:
            LinkLost: the backend does not answer, or does not hold the object.
            IcosflError: what the method raised.
            StoreUnavailable: the method failed in another way.
        """
        request = backend_pb2.CallActiveMethodRequest(
            object_id=self.object_id, method_name=method, args=pickle.dumps(args), kwargs=pickle.dumps({})
        )
        reply = _ask(self._stub.CallActiveMethod, request, timeout, self._where, self._headers)
        result = pickle.loads(reply.value) if reply.value else None  # noqa: S301  # from our own backend, on loopback
        if isinstance(result, ObjectWithWrongBackendIdError | ObjectNotFound):
            raise LinkLost(f"the {self._where} does not hold the rows: {result!r}")
        if not reply.is_exception:
            return result
        if isinstance(result, IcosflError):
            raise result
        raise StoreUnavailable(f"{method} failed in the backend: {result!r}", cure="read the backend's log")

    def make(self, state: object, timeout: float) -> None:
        """Hand the backend the state of a new object.

        Raises:
            LinkLost: the backend does not answer.
        """
        request = backend_pb2.MakePersistentRequest(pickled_obj=[pickle.dumps(state)])
        _ask(self._stub.MakePersistent, request, timeout, self._where, self._headers)


class Directory:
    """The metadata service: which object an alias means, and where its backend is."""

    def __init__(self, channels: Channels, config: StoreConfig, time_left: Callable[[], float]) -> None:
        self._channels = channels
        self._config = config
        self._time_left = time_left
        self._stub = metadata_pb2_grpc.MetadataServiceStub(channels.to(config.metadata))
        self._where = f"metadata service at {config.metadata}"

    def open(self, schema: Schema, *, read_only: bool = False) -> Link:
        """Find the object by its alias, or make it unless `read_only`, and make it ready for `schema`.

        Raises:
            LinkLost: a service does not answer, or the backend is not registered.
            NoWindow: there is no such object, and it may not be made.
            SchemaMismatch: the object keeps other series.
        """
        config = self._config
        object_id, backend_id = self._present() if read_only else self._find(schema)
        link = self._link(object_id, backend_id)
        capacity = None if read_only else config.capacity_rows
        link.call("attach", config.alias, schema.names, schema.units, capacity, timeout=self._time_left())
        return link

    def through(self, proxy: Endpoint) -> Link:
        """Find the object by its alias and reach it by way of a proxy, which passes calls on to the object's backend.

        Raises:
            LinkLost: the service does not answer, or knows no such alias.
        """
        object_id, backend_id = self._look_up()
        return Link(object_id, backend_id, self._channels, proxy, self._config)

    def _present(self) -> tuple[str, str]:
        """The ids of an object that others make, and of its backend."""
        try:
            return self._look_up()
        except _DoesNotExist as error:
            raise NoWindow(f"it does not exist yet ({error})") from error

    def _find(self, schema: Schema) -> tuple[str, str]:
        """The ids of the object and of its backend."""
        try:
            return self._look_up()
        except _DoesNotExist as missing:
            # An alias without its object is what a Redis leaves that lost its last writes: the object is made again
            # under the same id, so that two processes that both see it end with the same one.
            orphan = re.search(r"/object/([0-9a-f-]{36})", str(missing))
            if orphan:
                self._make(schema, UUID(orphan[1]))
            else:
                self._name(self._make(schema, uuid4()))
        return self._look_up()

    def _look_up(self) -> tuple[str, str]:
        request = metadata_pb2.GetObjectMDByAliasRequest(
            alias_name=self._config.alias, dataset_name=self._config.dataset
        )
        found = _ask(self._stub.GetObjectMDByAlias, request, self._time_left(), self._where)
        return found.id, found.master_backend_id

    def _link(self, object_id: str, backend_id: str) -> Link:
        backends = self._backends()
        if backend_id not in backends:
            raise LinkLost(f"the {self._where} knows no running backend {backend_id}, which holds {self._config.alias}")
        return Link(object_id, backend_id, self._channels, backends[backend_id], self._config)

    def _backends(self) -> dict[str, Endpoint]:
        """The address of each registered backend, read from Redis and not from the service's cache."""
        request = metadata_pb2.GetAllBackendsRequest(force=True)
        reply = _ask(self._stub.GetAllBackends, request, self._time_left(), self._where)
        at = self._config.backends_at
        return {key: Endpoint(host=at or found.host, port=found.port) for key, found in reply.backends.items()}

    def _make(self, schema: Schema, object_id: UUID) -> Link:
        """Make an empty object on a backend."""
        backend_id = min(self._backends(), default=None)
        if backend_id is None:
            raise LinkLost(f"the {self._where} knows no running backend")
        logger.info("the window %s is made anew, without rows, on backend %s", self._config.alias, backend_id)
        instance = TimeSeriesData(self._config.alias, schema.names, schema.units, self._config.capacity_rows)
        instance._dc_meta.id = object_id
        instance._dc_meta.dataset_name = self._config.dataset
        link = self._link(str(object_id), backend_id)
        link.make(instance._dc_state, self._time_left())
        return link

    def _name(self, link: Link) -> None:
        """Give a new object the alias; it goes if another process was faster.

        The alias comes last, so that it never means an object that is still to come.
        """
        request = metadata_pb2.NewAliasRequest(
            alias_name=self._config.alias, dataset_name=self._config.dataset, object_id=link.object_id
        )
        try:
            _ask(self._stub.NewAlias, request, self._time_left(), self._where)
        except _AlreadyExists:
            link.call("dispose", timeout=self._time_left())


def _ask(
    method: Callable[..., Any], request: object, timeout: float, where: str, headers: tuple[tuple[str, str], ...] = ()
) -> Any:
    """Call a service once, and translate what goes wrong."""
    try:
        return method(request, timeout=max(timeout, 0.0), metadata=headers)
    except grpc.RpcError as error:
        details = (error.details() if isinstance(error, grpc.Call) else "") or str(error)
        kind = LinkLost
        if details.endswith("does not exist"):
            kind = _DoesNotExist
        elif details.endswith("already exists"):
            kind = _AlreadyExists
        raise kind(f"the {where} says: {details}") from error
    except ValueError as error:  # the channel was closed by another thread
        raise LinkLost(f"the {where} cannot be asked: {error}") from error
