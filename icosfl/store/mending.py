"""What a backend puts right before it starts: its own registration, and what Redis has lost of its objects."""

from __future__ import annotations

import logging
import re
import socket
from pathlib import Path
from uuid import NAMESPACE_URL, UUID, uuid5

from redis.exceptions import RedisError

from icosfl.config import DataclayConfig
from icosfl.errors import RunFailed, StoreUnavailable
from icosfl.store import checkpoint, registry
from icosfl.store.quiet import quiet_dataclay

with quiet_dataclay():
    from dataclay.metadata.kvdata import Alias, Backend, ObjectMetadata

logger = logging.getLogger(__name__)

_OBJECT_FILE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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
        StoreUnavailable: Redis does not answer, or an object's file cannot be read.
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
            for found, alias in _stored_objects(config.storage_dir, backend_id):
                for entry in (found, alias):
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


def _stored_objects(directory: Path, backend_id: UUID) -> list[tuple[ObjectMetadata, Alias]]:
    """What Redis should know of the objects in the directory, those with the newest rows first.

    First comes who gets the alias, if two objects once had it.
    """
    found = []
    names = {path.name.split(".")[0] for path in directory.iterdir()}
    for path in (directory / name for name in names if _OBJECT_FILE.fullmatch(name)):
        content = checkpoint.load(path)
        if content is None:
            continue
        metadata, _, state = content
        entry = ObjectMetadata(**metadata)
        if entry.master_backend_id == backend_id and state:
            alias = Alias(name=state["alias"], dataset_name=entry.dataset_name, object_id=entry.id)
            newest = int(state["times"][-1]) if len(state["times"]) else -1
            found.append((newest, entry, alias))
    return [(entry, alias) for _, entry, alias in sorted(found, key=lambda item: item[0], reverse=True)]
