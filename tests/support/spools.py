"""Spools for tests, and what a disk does to them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icosfl.bridge.spool import Spool, SpoolLimits
from icosfl.schema import Schema
from support.store_contract import SCHEMA

LIMITS = SpoolLimits(1 << 20, "always", 1.0)


def opened(directory: Path, schema: Schema = SCHEMA, limits: SpoolLimits = LIMITS) -> Spool:
    """A spool in this directory."""
    return Spool(directory, schema, limits)


def times_in(spool: Spool, max_rows: int = 7) -> dict[int, list[int]]:
    """The times of all records that are not forgotten, by number, read piece by piece."""
    found: dict[int, list[int]] = {}
    while records := spool.read(max(found, default=0), max_rows):
        found |= {record.number: record.rows.times.tolist() for record in records}
    return found


def files_in(directory: Path) -> list[Path]:
    """The files that hold records, oldest first."""
    return sorted(directory.glob("*.spool"))


class Disk:
    """What `os` does with files: what it should, until a test says otherwise.

    Attributes:
        room: How many bytes may still be written; None: any number.
        broken: The calls that fail with EIO; with fsync fdatasync fails, too.
        unreadable: Bytes of every file that cannot be read.
        fsyncs: How many were asked for.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self.broken: set[str] = set()
        self.unreadable = range(0)
        self.fsyncs = 0
        self._pread, self._pwrite, self._ftruncate = os.pread, os.pwrite, os.ftruncate
        self._fsync, self._fdatasync = os.fsync, os.fdatasync

    def pread(self, descriptor: int, size: int, place: int) -> bytes:
        self._fail("pread")
        if range(max(place, self.unreadable.start), min(place + size, self.unreadable.stop)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._pread(descriptor, size, place)

    def pwrite(self, descriptor: int, data: bytes, place: int) -> int:
        self._fail("pwrite")
        if self.room is None:
            return self._pwrite(descriptor, data, place)
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self._pwrite(descriptor, data[: self.room], place)
        self.room -= count
        return count

    def fsync(self, descriptor: int) -> None:
        self.fsyncs += 1
        self._fail("fsync")
        self._fsync(descriptor)

    def fdatasync(self, descriptor: int) -> None:
        self.fsyncs += 1
        self._fail("fsync")
        self._fail("fdatasync")
        self._fdatasync(descriptor)

    def ftruncate(self, descriptor: int, size: int) -> None:
        self._fail("ftruncate")
        self._ftruncate(descriptor, size)

    def _fail(self, call: str) -> None:
        if call in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@contextmanager
def disk_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """The disk under all spools, for the length of the block."""
    disk = Disk()
    with monkeypatch.context() as patch:
        for call in ("pread", "pwrite", "fsync", "fdatasync", "ftruncate"):
            patch.setattr(os, call, getattr(disk, call))
        yield disk
