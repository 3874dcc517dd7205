"""The model file: everything that a forecast needs beside the node's rows, with a digest, written atomically.

One `.npz` file an artifact, without pickles: arrays, and the rest as JSON. The file `latest` beside them names the
newest; on a controller, `best` names the one that the last finished run handed out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import re
import zipfile
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from icosfl.errors import CheckpointError, DataError, SchemaMismatch
from icosfl.schema import Schema, Series
from icosfl.train.files import read_pointer, write_atomically, write_pointer
from icosfl.train.plan import Plan
from icosfl.train.shape import Array, ModelShape, check_arrays

FORMAT = 2
LATEST = "latest"
BEST = "best"

_META = "meta"
_RUN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_UNSOUND = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, DataError),
    *(zipfile.BadZipFile, zlib.error),
)
_CURE = "remove the file, then train again or copy a sound one from another node"


@dataclass(frozen=True, eq=False)
class Artifact:
    """A global model with all that gives its numbers a meaning.

    Args:
        schema: The model's series, in the order of its columns.
        period_seconds: Distance of two steps.
        horizons: Steps ahead that it forecasts, ascending.
        season: Steps after which series may repeat, for the seasonal naive forecast; 0: none.
        train_fraction: Share of each node's rows, the oldest, that it was taught; later rows are free to measure it on.
        taught: Names of the series that some node had; it can forecast no other.
        shape: Of the network.
        run: Id of the run that made it; letters, digits, `_` and `-`.
        round: Of that run, at least 0 (0: not trained yet).
        nodes: Names of the nodes whose updates are in it in this round.
        created: UTC, ISO 8601.
        parent: Digest of the artifact that the run started from, if it did.
        arrays: The weights, float32, as `ModelShape.arrays` says.

    Raises:
        SchemaMismatch: the parts do not fit each other, or a number is not finite.
    """

    schema: Schema
    period_seconds: float
    horizons: tuple[int, ...]
    season: int
    train_fraction: float
    taught: tuple[str, ...]
    shape: ModelShape
    run: str
    round: int
    nodes: tuple[str, ...]
    created: str
    parent: str | None
    arrays: tuple[Array, ...]

    def __post_init__(self) -> None:
        if len(self.schema) != self.shape.series or not set(self.taught) <= set(self.schema.names):
            raise SchemaMismatch("an artifact's network must have the series of its schema, and be taught no others")
        if len(self.horizons) != self.shape.horizons or list(self.horizons) != sorted(set(self.horizons)):
            raise SchemaMismatch(f"{self.horizons} are no horizons for a network of {self.shape.horizons}")
        if self.horizons[0] < 1 or self.season < 0 or self.round < 0 or not 0 < self.period_seconds < math.inf:
            raise SchemaMismatch("an artifact's horizons, season, round and period must not be negative")
        if not 0 < self.train_fraction < 1:
            raise SchemaMismatch(f"an artifact's train_fraction must lie between 0 and 1, not {self.train_fraction}")
        if not _RUN.fullmatch(self.run):
            raise SchemaMismatch(f"{self.run!r} is no run id")
        check_arrays(self.shape, self.arrays)

    @property
    def window(self) -> int:
        """How many steps the model sees."""
        return self.shape.window

    def plan(self, max_gap_seconds: float) -> Plan:
        """How the model looks at the rows of a node that bridges gaps up to `max_gap_seconds`."""
        return Plan(self.schema.names, self.window, self.horizons, self.season, self.period_seconds, max_gap_seconds)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all fields and arrays, in hexadecimal."""
        content = hashlib.sha256(_canonical(_meta(self)))
        for array in self.arrays:
            content.update(np.ascontiguousarray(array, "<f4").tobytes())
        return content.hexdigest()

    @property
    def file_name(self) -> str:
        """The name of its file: run and round."""
        return f"{self.run}-round-{self.round:04d}.npz"

    def misfit(
        self, schema: Schema, period_seconds: float, window: int, horizons: tuple[int, ...], shape: ModelShape
    ) -> str | None:
        """Why this model cannot go on learning or forecasting under these values; None when it can."""
        pairs = {
            "series": (_series(self.schema), _series(schema)),
            "sampling period": (self.period_seconds, period_seconds),
            "window": (self.window, window),
            "horizons": (self.horizons, horizons),
            "network": (self.shape, shape),
        }
        differences = [f"{name} {own} is not {asked}" for name, (own, asked) in pairs.items() if own != asked]
        return "; ".join(differences) or None

    def check_suits(self, schema: Schema, period_seconds: float) -> None:
        """Make sure that this model can forecast from the rows of a node.

        Raises:
            SchemaMismatch: the node keeps other series, units or another period than the model was taught.
        """
        cure = "train again: icosfl train"
        if self.period_seconds != period_seconds:
            raise SchemaMismatch(
                f"the model was taught rows every {self.period_seconds:g} s, "
                f"this node keeps one every {period_seconds:g} s",
                cure=cure,
            )
        units = dict(zip(schema.names, schema.units, strict=True))
        for series in self.schema.series:
            if units.get(series.name) != series.unit:
                kept = f"in {units[series.name]}" if series.name in units else "not at all"
                raise SchemaMismatch(
                    f"the model was taught {series.name} in {series.unit}, this node keeps it {kept}", cure=cure
                )


def now_utc() -> str:
    """The present time for `Artifact.created`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_bytes(artifact: Artifact) -> bytes:
    """The content of the artifact's file, also to be sent in a message."""
    meta = _meta(artifact) | {"digest": artifact.digest}
    arrays = {f"array_{index:03d}": array for index, array in enumerate(artifact.arrays)}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{_META: np.frombuffer(_canonical(meta), np.uint8)}, **arrays)
    return buffer.getvalue()


def from_bytes(content: bytes, source: str) -> Artifact:
    """Read what `to_bytes` wrote; `source` names it in errors.

    Raises:
        CheckpointError: it is something else, or not as it was written.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            meta = json.loads(file[_META].tobytes())
            count = len(file.files) - 1
            arrays = tuple(file[f"array_{index:03d}"] for index in range(count))
        told = meta.pop("digest")
        artifact = _from_meta(meta, arrays)
    except _UNSOUND as error:
        raise CheckpointError(f"{source}: no sound model file: {error}", cure=_CURE) from error
    if artifact.digest != told:
        raise CheckpointError(f"{source}: its content does not have the digest that it states", cure=_CURE)
    return artifact


def save(artifact: Artifact, directory: Path) -> Path:
    """Write the artifact's file and then point `latest` to it; after a crash either the old or the new one loads.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    path = directory / artifact.file_name
    write_atomically(path, to_bytes(artifact))
    write_pointer(directory / LATEST, path.name, artifact.digest)
    return path


def load(path: Path) -> Artifact:
    """Read an artifact's file and verify its digest.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}", cure=_CURE) from error
    return from_bytes(content, str(path))


def point_best(artifact: Artifact, directory: Path) -> None:
    """Let `best` name an artifact that is saved in the directory.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    write_pointer(directory / BEST, artifact.file_name, artifact.digest)


def latest_digest(directory: Path) -> str | None:
    """The digest of the newest artifact, without reading it: cheap to ask often. None when there is none.

    Raises:
        CheckpointError: `latest` is damaged.
    """
    return _named_digest(directory / LATEST)


def best_digest(directory: Path) -> str | None:
    """The digest of the artifact that `best` names, without reading it; None when it names none.

    Raises:
        CheckpointError: `best` is damaged.
    """
    return _named_digest(directory / BEST)


def load_latest(directory: Path) -> Artifact | None:
    """The newest artifact in a directory, or None when none was ever saved there.

    Raises:
        CheckpointError: the file that `latest` names is missing, damaged or another one.
    """
    return _load_named(directory, LATEST)


def load_best(directory: Path) -> Artifact | None:
    """The artifact that `best` names, or None when it names none.

    Raises:
        CheckpointError: the file that `best` names is missing, damaged or another one.
    """
    return _load_named(directory, BEST)


def served_digest(directory: Path) -> str | None:
    """The digest of the model to forecast with, without reading it: of `best` if there is one, else of `latest`.

    A controller's `latest` moves with each round, before anybody has measured what it names; a worker has no `best`.

    Raises:
        CheckpointError: the pointer that counts is damaged.
    """
    return best_digest(directory) or latest_digest(directory)


def load_served(directory: Path) -> Artifact | None:
    """The model to forecast with, see `served_digest`; None when there is none.

    Raises:
        CheckpointError: the file that the pointer names is missing, damaged or another one.
    """
    return load_best(directory) or load_latest(directory)


def load_exactly(path: Path, digest: str, named_by: str) -> Artifact:
    """Read an artifact's file, and make sure that it is the one of this digest.

    Args:
        path: The file.
        digest: The digest.
        named_by: What names both, for errors.

    Raises:
        CheckpointError: it is missing, damaged or another one.
    """
    artifact = load(path)
    if artifact.digest != digest:
        raise CheckpointError(f"{path}: is not the model that {named_by} names", cure=_CURE)
    return artifact


def _load_named(directory: Path, pointer: str) -> Artifact | None:
    named = read_pointer(directory / pointer)
    return None if named is None else load_exactly(directory / named[0], named[1], pointer)


def _named_digest(pointer: Path) -> str | None:
    named = read_pointer(pointer)
    return None if named is None else named[1]


def _canonical(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _series(schema: Schema) -> list[list[str]]:
    return [[series.name, series.unit] for series in schema.series]


def _meta(artifact: Artifact) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "series": _series(artifact.schema),
        "period_seconds": artifact.period_seconds,
        "horizons": list(artifact.horizons),
        "season": artifact.season,
        "train_fraction": artifact.train_fraction,
        "taught": list(artifact.taught),
        "shape": dataclasses.asdict(artifact.shape),
        "run": artifact.run,
        "round": artifact.round,
        "nodes": list(artifact.nodes),
        "created": artifact.created,
        "parent": artifact.parent,
    }


def _from_meta(meta: dict[str, Any], arrays: tuple[Array, ...]) -> Artifact:
    if meta["format"] != FORMAT:
        raise SchemaMismatch(f"it is of format {meta['format']!r}, made by another release; this one reads {FORMAT}")
    return Artifact(
        schema=Schema(tuple(Series(name, unit) for name, unit in meta["series"])),
        period_seconds=float(meta["period_seconds"]),
        horizons=tuple(int(steps) for steps in meta["horizons"]),
        season=int(meta["season"]),
        train_fraction=float(meta["train_fraction"]),
        taught=tuple(str(name) for name in meta["taught"]),
        shape=ModelShape(**meta["shape"]),
        run=str(meta["run"]),
        round=int(meta["round"]),
        nodes=tuple(str(node) for node in meta["nodes"]),
        created=str(meta["created"]),
        parent=None if meta["parent"] is None else str(meta["parent"]),
        arrays=arrays,
    )
