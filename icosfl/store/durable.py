"""What our backend adds to dataClay's: rows outlive a kill."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
from pathlib import Path
from uuid import UUID

from redis.exceptions import RedisError

from icosfl.errors import StoreUnavailable
from icosfl.store import checkpoint
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay.data_manager import DataManager
    from dataclay.exceptions import ObjectStorageError
    from dataclay.lock_manager import lock_manager
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
            content = _pickled(instance)
            if self._is_new(instance, content):
                try:
                    checkpoint.write(self._path(instance), content)
                except OSError as error:
                    logger.error("cannot write %s: %s", self._path(instance), error)  # noqa: TRY400  # it is no bug
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
                if not self._is_new(instance, content):
                    continue
                try:
                    await asyncio.to_thread(checkpoint.write, self._path(instance), content)
                except OSError as error:
                    logger.error("cannot write %s: %s", self._path(instance), error)  # noqa: TRY400
                else:
                    self._written[instance._dc_meta.id] = _digest(content)

    async def _keep_checkpointing(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.checkpoint_all()
            except Exception:
                logger.exception("a defect: a checkpoint failed, the next one is tried all the same")

    def _is_new(self, instance: TimeSeriesData, content: bytes) -> bool:
        written = self._written.get(instance._dc_meta.id) == _digest(content)
        return not (written and self._path(instance).exists())

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


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _pickled(instance: TimeSeriesData) -> bytes:
    file = io.BytesIO()
    DataClayPickler(file).dump(instance._dc_state)
    return file.getvalue()
