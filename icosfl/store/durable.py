"""What our backend adds to dataClay's: rows survive a kill, and a start mends what a kill left behind."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import pickle
import socket
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from redis.exceptions import RedisError

from icosfl.config import DataclayConfig
from icosfl.errors import RunFailed, StoreUnavailable
from icosfl.store import checkpoint, registry
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay.data_manager import DataManager
    from dataclay.exceptions import ObjectStorageError
    from dataclay.lock_manager import lock_manager
    from dataclay.metadata.kvdata import Alias, Backend, ObjectMetadata
    from dataclay.runtime import BackendRuntime
    from dataclay.utils.serialization import DataClayPickler

    from icosfl.store.model import TimeSeriesData

logger = logging.getLogger(__name__)


class DurableDataManager(DataManager):  # type: ignore[misc]  # dataClay has no types
    """Writes objects atomically and with a checksum, those in memory every few seconds.

    dataClay's own writes an object only when it stops in peace, over the file that it had.

    Args:
        directory: Where the objects' files lie.
        seconds: The time between two checkpoints.
    """

    def __init__(self, directory: Path, seconds: float) -> None:
        super().__init__()
        self._directory = directory
        self._seconds = seconds
        self._written: dict[UUID, bytes] = {}
        self._files = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start_memory_monitor(self) -> None:
        """Begin to watch memory, and to write checkpoints."""
        super().start_memory_monitor()
        self._task = asyncio.get_running_loop().create_task(self._keep_checkpointing())

    def stop_memory_monitor(self) -> None:
        """End what `start_memory_monitor` began."""
        super().stop_memory_monitor()
        if self._task:
            self._task.cancel()

    async def load_object(self, instance: TimeSeriesData) -> None:
        """Load an object from its last whole file.

        Raises:
            ObjectNotFound: there is none.
            StoreUnavailable: the file system refuses.
        """
        async with self._files:
            try:
                await asyncio.to_thread(checkpoint.recover, self._path(instance))
            except OSError as error:
                raise StoreUnavailable(
                    f"{self._path(instance)} cannot be read: {error.strerror}",
                    cure="mend the file system, then restart dataclay-backend",
                ) from error
            await super().load_object(instance)

    async def unload_object(self, instance: TimeSeriesData, timeout: float = 0, force: bool = False) -> None:  # noqa: ARG002
        """Write an object and let go of it; arguments as in dataClay, which ignores them too.

        Raises:
            ObjectStorageError: the file system refuses.
        """
        object_id = instance._dc_meta.id
        async with self._files, lock_manager.get_lock(object_id).writer_lock:
            if not (instance._dc_is_local and instance._dc_is_loaded):
                return
            try:
                checkpoint.write(self._path(instance), _pickled(instance))
            except OSError as error:
                logger.error("cannot write %s: %s", self._path(instance), error)  # noqa: TRY400  # no trace: it is not a bug
                raise ObjectStorageError(object_id) from error
            instance._clean_dc_properties()
            instance._dc_is_loaded = False
            self.remove_hard_reference(instance)

    async def checkpoint_all(self) -> None:
        """Write every changed window in memory; what cannot be written is logged, and tried again next time."""
        for instance in list(self.loaded_objects.values()):
            if not isinstance(instance, TimeSeriesData):
                continue
            async with self._files:
                if not instance._dc_is_loaded:
                    continue
                content = _pickled(instance)
                digest = hashlib.sha256(content).digest()
                if self._written.get(instance._dc_meta.id) == digest:
                    continue
                try:
                    await asyncio.to_thread(checkpoint.write, self._path(instance), content)
                except OSError as error:
                    logger.error("cannot write %s: %s", self._path(instance), error)  # noqa: TRY400
                else:
                    self._written[instance._dc_meta.id] = digest

    async def _keep_checkpointing(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            await self.checkpoint_all()

    def _path(self, instance: TimeSeriesData) -> Path:
        return self._directory / str(instance._dc_meta.id)


class DurableRuntime(BackendRuntime):  # type: ignore[misc]
    """Writes the objects before anything else when it stops, for Redis may be away by then."""

    async def stop(self) -> None:
        """Write the objects, then leave Redis and the other backends."""
        await self.data_manager.checkpoint_all()
        try:
            await super().stop()
        except RedisError as error:
            logger.warning("the backend stays registered, for Redis does not answer: %s", error)


def backend_id_of(config: DataclayConfig) -> UUID:
    """The backend's own id: the one in its directory, else one that its address gives.

    So the objects still find their backend when its directory was emptied.
    """
    try:
        return UUID((config.storage_dir / "BACKEND_ID").read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return uuid5(NAMESPACE_URL, f"dataclay://{config.backend}")


def mend_registry(config: DataclayConfig, backend_id: UUID) -> None:
    """Take back the registration that a killed backend left, and enter again the objects that Redis has lost.

    Raises:
        StoreUnavailable: Redis does not answer.
        RunFailed: another process serves under this backend's id.
    """
    try:
        with registry.connect(config.redis) as client:
            left = client.get(f"/backend/{backend_id}")
            if left is not None:
                _refuse_living(Backend.from_json(left))
                client.delete(f"/backend/{backend_id}")
                client.publish("del-backend-client", str(backend_id))
                logger.warning("the backend was killed the last time: its registration was taken back")
            for path in config.storage_dir.iterdir():
                for entry in _entries(path, backend_id):
                    if client.set(entry.key, entry.value, nx=True):
                        logger.warning("Redis had lost %s: entered again", entry.key)
    except RedisError as error:
        raise StoreUnavailable(
            f"Redis at {config.redis} does not answer: {error}", cure="start it: icosfl status shows its state"
        ) from error


def _refuse_living(other: Backend) -> None:
    """Fail if something listens where a backend is registered."""
    try:
        socket.create_connection((other.host, other.port), timeout=1.0).close()
    except OSError:
        return
    raise RunFailed(
        f"another backend serves as {other.id} at {other.host}:{other.port}",
        cure="stop it, or give this one a storage_dir of its own",
    )


def _entries(path: Path, backend_id: UUID) -> list[ObjectMetadata | Alias]:
    """What Redis should know of the object in the file `path`; nothing if it is no object's file."""
    try:
        object_id = UUID(path.name)
    except ValueError:
        return []
    if not checkpoint.recover(path):
        return []
    metadata, _, state = pickle.loads(path.read_bytes())  # noqa: S301  # written by ourselves, checksum verified
    found = ObjectMetadata(**metadata)
    if found.id != object_id or found.master_backend_id != backend_id or not state:
        return []
    return [found, Alias(name=state["alias"], dataset_name=found.dataset_name, object_id=object_id)]


def _pickled(instance: TimeSeriesData) -> bytes:
    file = io.BytesIO()
    DataClayPickler(file).dump(instance._dc_state)
    return file.getvalue()
