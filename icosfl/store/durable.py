"""What our backend adds to dataClay's: rows outlive a kill."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from icosfl.store import checkpoint
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay.data_manager import DataManager
    from dataclay.exceptions import ObjectNotFound, ObjectStorageError
    from dataclay.lock_manager import lock_manager
    from dataclay.runtime import BackendRuntime
    from dataclay.utils.serialization import DataClayPickler

    from icosfl.store.model import TimeSeriesData

logger = logging.getLogger(__name__)


class DurableDataManager(DataManager):  # type: ignore[misc]  # dataClay has no types
    """Writes objects atomically and with a checksum, those in memory every few seconds.

    dataClay's own writes an object only when it stops in peace, over the file that it had.

    The event loop copies a window and goes on answering; pickling, hashing and writing the copy happen in a thread.
    Every checkpoint keeps the generation before it. A window that did not change is written once more, so that both
    generations hold all of it, and then no more.

    Args:
        directory: Where the objects' files lie.
        seconds: The time between two checkpoints.
    """

    def __init__(self, directory: Path, seconds: float) -> None:
        super().__init__()
        self._directory = directory
        self._seconds = seconds
        self._files = asyncio.Lock()  # held while files are read or written, also by a thread
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()

    def hurry(self) -> None:
        """Write the next checkpoint now, or as soon as the one under way is written."""
        self._asked.set()

    def start_memory_monitor(self) -> None:
        """Begin to watch memory, and to write checkpoints."""
        super().start_memory_monitor()
        self._task = asyncio.get_running_loop().create_task(self._keep_checkpointing())

    def stop_memory_monitor(self) -> None:
        """End what `start_memory_monitor` began; a checkpoint under way is written to its end."""
        super().stop_memory_monitor()
        if self._task:
            self._task.cancel()

    async def load_object(self, instance: Any) -> None:
        """Load an object from its last whole file.

        Raises:
            ObjectNotFound: there is none.
            StoreUnavailable: the file system refuses, or this release cannot read what is there.
        """
        object_id = instance._dc_meta.id
        async with self._files, lock_manager.get_lock(object_id).writer_lock:
            if instance._dc_is_loaded or not instance._dc_is_local:
                return
            found = await asyncio.to_thread(checkpoint.load, self._path(instance))
            if found is None:
                raise ObjectNotFound(object_id)
            _, properties, state = found
            if state is None:
                vars(instance).update(properties)
            else:
                instance.__setstate__(state)
            instance._dc_is_loaded = True
            self.add_hard_reference(instance)
            if isinstance(instance, TimeSeriesData):
                instance.note_checkpoint(instance.position, before_stays=False)

    async def unload_object(self, instance: Any, timeout: float = 0, force: bool = False) -> None:  # noqa: ARG002
        """Write an object and let go of it; arguments as in dataClay, which ignores them too.

        Raises:
            ObjectStorageError: the file system refuses.
        """
        await asyncio.shield(self._unload(instance))

    async def remove_object(self, instance: TimeSeriesData) -> None:
        """Let go of an object and delete its files.

        Raises:
            OSError: the file system refuses.
        """
        async with self._files:
            self.remove_hard_reference(instance)
            instance._dc_is_loaded = False
            await asyncio.to_thread(checkpoint.remove, self._path(instance))

    async def checkpoint_all(self, *, settle: bool = False) -> None:
        """Write every window in memory that changed; what cannot be written is logged, and tried again next time.

        Args:
            settle: Write also those of which only the newest generation has everything.
        """
        for instance in self._windows():
            await asyncio.shield(self._checkpoint(instance, settle=settle))

    async def _keep_checkpointing(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._seconds)
            self._asked.clear()
            try:
                await self.checkpoint_all(settle=True)
            except Exception:
                logger.exception("a defect: a checkpoint failed, the next one is tried all the same")

    async def _checkpoint(self, instance: TimeSeriesData, *, settle: bool) -> None:
        """Write a window if it changed, or also, to `settle` it, if only the newest generation has all of it."""
        async with self._files:
            if not instance._dc_is_loaded:
                return
            before, newest = instance.generations
            if self._is_new(instance) or (settle and before != newest):
                try:
                    await self._write(instance)
                except OSError as error:
                    logger.error("cannot write %s: %s", self._path(instance), error)  # noqa: TRY400  # it is no bug

    async def _unload(self, instance: Any) -> None:
        object_id = instance._dc_meta.id
        async with self._files, lock_manager.get_lock(object_id).writer_lock:
            if not (instance._dc_is_local and instance._dc_is_loaded):
                return
            # From here on whoever calls the object loads it, and so waits for the lock: no row can come between.
            instance._dc_is_loaded = False
            self.remove_hard_reference(instance)
            try:
                if not isinstance(instance, TimeSeriesData):
                    await asyncio.to_thread(_write, self._path(instance), instance._dc_state)
                elif self._is_new(instance):
                    await self._write(instance)
            except OSError as error:
                instance._dc_is_loaded = True
                self.add_hard_reference(instance)
                logger.error("cannot write %s: %s", self._path(instance), error)  # noqa: TRY400
                raise ObjectStorageError(object_id) from error
            instance._clean_dc_properties()

    async def _write(self, instance: TimeSeriesData) -> None:
        """Copy the window now, and write the copy in a thread; the caller holds `_files`."""
        state, position = instance._dc_state, instance.position
        before_stays = await asyncio.to_thread(_write, self._path(instance), state)
        instance.note_checkpoint(position, before_stays=before_stays)

    def _windows(self) -> list[TimeSeriesData]:
        return [instance for instance in self.loaded_objects.values() if isinstance(instance, TimeSeriesData)]

    def _is_new(self, instance: TimeSeriesData) -> bool:
        """Whether the newest generation lacks something, or is gone."""
        return instance.generations[1] != instance.position[1] or not self._path(instance).exists()

    def _path(self, instance: Any) -> Path:
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


def _write(path: Path, state: Any) -> bool:
    """Write a state that nobody changes any more; as `checkpoint.write`."""
    return checkpoint.write(path, lambda sink: DataClayPickler(sink).dump(state))
