"""The bridge's write-ahead log: rows that it has acknowledged, on disk until the store keeps them through a kill.

Appends of many threads share one write and one fsync: each leaves its rows with the pending ones and queues for the
right to commit; the one that gets it commits all that are pending, and the others find theirs done.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Lock
from typing import Literal

from icosfl.bridge import spool_format
from icosfl.bridge.spool_files import NO_ROOM, SpoolFiles
from icosfl.bridge.spool_format import Found
from icosfl.bridge.spool_segment import Segment
from icosfl.errors import SpoolFailed, SpoolFull, SpoolTooSmall, Unavailable
from icosfl.schema import Rows, Schema
from icosfl.store.memory import check_width

logger = logging.getLogger(__name__)

_SEGMENT_BYTES = 4 << 20
_PROBE_BYTES = 4096

_TRIES = 8
"""How often a disk may refuse a read until what it does not read is given up."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """How much the spool holds, and when it is on the disk and not only with the kernel.

    Args:
        max_bytes: What the files of records may take. Up to three damaged ones that were set aside come on top, and
            while the spool is opened one that is written anew.
        fsync: Before each append returns, after `fsync_seconds`, or when the kernel likes.
        fsync_seconds: For `interval`: when the last fsync is as long ago, the next append or `wait` brings another.
            Rows are with the kernel only for longer when neither comes, as in a long call of the store.
    """

    max_bytes: int
    fsync: Literal["always", "interval", "never"]
    fsync_seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """Rows that were appended together, and their number: greater than those of all appended before."""

    number: int
    rows: Rows


class _Append:
    """An append on its way: `number` once it is committed, `error` once it is known not to be."""

    def __init__(self, rows: Rows) -> None:
        self.rows = len(rows)
        self.time = int(rows.times[0])
        self.payload = spool_format.payload_of(rows)
        self.size = spool_format.size_of(self.payload)
        self.number: int | None = None
        self.error: Unavailable | None = None


class Spool:
    """Rows in numbered records on disk, in the order of appending; thread-safe.

    What `append` has returned for outlives a kill of the process, and a power cut as far as the limits' `fsync` says.
    A file whose disk reported an error is written no more: the next append begins another.

    Attributes:
        damaged: How many stretches were damaged when it was opened, and records that could not be read since.
        forgotten: The newest record that it need not have any more.
        last: The newest record.
        read_trouble: Why records cannot be read at the moment; empty while they can.

    Args:
        directory: Where its files lie. One process at a time may use it.
        schema: The series of its rows. Records of another schema that are found there are read by name and unit.
        limits: How much it holds, and when it is on the disk.

    Raises:
        RunFailed: the directory cannot be used, or another process uses it.
    """

    def __init__(self, directory: Path, schema: Schema, limits: SpoolLimits) -> None:
        self._directory = directory
        self._schema = schema
        self._limits = limits
        self._most = limits.max_bytes - len(spool_format.header_of(schema))
        self._files = SpoolFiles(directory, schema, min(_SEGMENT_BYTES, limits.max_bytes // 8))
        self._committing = Lock()  # held while files are written, made and removed; taken before _state
        self._state = Condition()  # held while what is pending or in the files changes, and while they are read
        self._pending: list[_Append] = []
        self._closed = False
        self._trouble = ""
        self._needs = 0  # so many bytes within max_bytes would end the trouble; 0 when it is another
        self._synced_at = time.monotonic()
        self._refusals = 0  # reads in a row that the disk refused
        self.read_trouble = ""
        self.damaged = self._files.damaged
        self.last = self._files.last
        first = self._files.first_after(0)
        self.forgotten = (first.oldest or 1) - 1 if first else self.last
        if self._files.newest is None:
            self._note_trouble(self._refusal(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        if self.records:
            logger.info("%s: %d records are there from before", directory, self.records)

    @property
    def bytes(self) -> int:
        """What its files take."""
        with self._state:
            return self._files.bytes

    @property
    def is_filling(self) -> bool:
        """Whether more than half of its room is taken."""
        return 2 * self.bytes > self._limits.max_bytes

    @property
    def records(self) -> int:
        """How many records it has that are not forgotten."""
        with self._state:
            return self._files.records_after(self.forgotten)

    @property
    def oldest_time(self) -> int | None:
        """The time, in ns since the epoch, of the oldest record that is not forgotten; None when there is none."""
        with self._state:
            first = self._files.first_after(self.forgotten)
            return first.time_after(self.forgotten) if first else None

    @property
    def trouble(self) -> str:
        """Why it takes no records; empty while it does."""
        return self._trouble

    def append(self, rows: Rows) -> int:
        """Take rows and return their record's number once they are as durable as the limits say.

        Raises:
            SpoolFull: there is no room; nothing of the rows stays.
            SpoolTooSmall: there will never be room for so many rows at once; nothing of them stays.
            SpoolFailed: the disk refuses, or the spool is closed; nothing of the rows stays.
            SchemaMismatch: the rows' width is not the schema's.
        """
        check_width(rows, self._schema)
        if not len(rows):
            return self.last
        mine = _Append(rows)
        with self._state:
            self._pending.append(mine)
        with self._committing:
            if mine.number is None and mine.error is None:
                self._commit()
        if mine.number is None:
            raise mine.error or SpoolFailed(
                f"spool: {self._directory}: a write was broken off", cure="send the rows again; see the log for why"
            )
        return mine.number

    def _commit(self) -> None:
        """Write all that is pending, as far as there is room, and tell each append what became of it."""
        with self._state:
            taken, self._pending = self._pending, []
        fits = self._that_fit(taken)
        if not fits:
            return
        try:
            segment, records = self._write(fits)
        except OSError as error:
            for append in fits:
                append.error = self._refusal(error)
            self._note_trouble(self._refusal(error))
            return
        with self._state:
            segment.note(records)
            self.last = records[-1].number
            self._state.notify_all()
        for append, record in zip(fits, records, strict=True):
            append.number = record.number
        if self._fits_again():
            self._note_trouble(None)

    def _that_fit(self, taken: list[_Append]) -> list[_Append]:
        fits = []
        room = self._most - self.bytes
        for append in taken:
            if self._closed:
                append.error = SpoolFailed(f"spool: {self._directory} is closed", cure="start the bridge again")
            elif append.size <= room:
                fits.append(append)
                room -= append.size
            elif append.size > self._most:  # no trouble of the spool's: it would be in it for ever
                append.error = SpoolTooSmall(
                    f"spool: {self._directory} will never have room for {append.size} bytes at once",
                    cure="send smaller batches, or raise max_bytes of icosfl_spool",
                )
            else:
                append.error = SpoolFull(
                    f"spool: {self._directory} has no room for {append.size} bytes within {self._limits.max_bytes}",
                    cure="see why the store takes nothing: icosfl status; or raise max_bytes of icosfl_spool",
                )
                self._note_trouble(append.error, append.size)
        return fits

    def _fits_again(self) -> bool:
        """Whether there is room for what there was none for."""
        return self.bytes + self._needs <= self._most

    def _write(self, appends: list[_Append]) -> tuple[Segment, list[Found]]:
        """Write records to the newest file, or to a new one; raises `OSError`, and then nothing of them stays."""
        with self._state:
            segment = self._files.to_write(self.last + 1)
        records: list[Found] = []
        encoded: list[bytes] = []
        start = segment.end
        for number, append in enumerate(appends, self.last + 1):
            records.append(Found(number, start, start + append.size, append.rows, append.time))
            encoded.append(segment.record(number, append.payload))
            start += append.size
        due = self._limits.fsync == "always" or self._is_due()
        has_unsynced = segment.unsynced
        try:
            segment.write(b"".join(encoded), sync=due)
        except OSError:
            if has_unsynced and not segment.unsynced:  # those before them were not synced either
                self._tell_unsynced()
            raise
        if due:
            self._sync()
        return segment, records

    def _is_due(self) -> bool:
        """Whether an fsync is; in trouble each write needs one, to prove that it is over."""
        if self._limits.fsync != "interval":
            return False
        return bool(self._trouble) or time.monotonic() - self._synced_at >= self._limits.fsync_seconds

    def _sync(self) -> None:
        """Have on the disk what is still with the kernel."""
        self._synced_at = time.monotonic()
        try:
            self._files.sync()
        except OSError:
            self._tell_unsynced()

    def _tell_unsynced(self) -> None:
        logger.exception("%s: records of the last seconds may not outlive a power cut", self._directory)

    def _refusal(self, error: OSError) -> Unavailable:
        text = f"spool: {self._directory}: {error.strerror}"
        if error.errno in NO_ROOM:
            return SpoolFull(text, cure="make room on its disk")
        return SpoolFailed(text, cure="see whether its disk is whole and mounted for writing")

    def _note_trouble(self, error: Unavailable | None, needs: int = 0) -> None:
        trouble = str(error) if error else ""
        if trouble and not self._trouble:
            logger.error("no records are taken: %s", trouble)
        elif self._trouble and not trouble:
            logger.info("%s: records are taken again", self._directory)
        self._trouble, self._needs = trouble, needs

    def read(self, after: int, max_rows: int) -> tuple[Record, ...]:
        """Committed records with numbers > `after` that are not forgotten, in order, of about `max_rows` rows together.

        At least one if there is one. A record that cannot be read any more has no rows; that the disk refuses to read
        it must have come again and again.

        Raises:
            SpoolFailed: the disk refuses; another try may help.
        """
        with self._state:
            after = max(after, self.forgotten)
            segment = self._files.first_after(after)
            if segment is None:
                self._note_read(None)
                return ()
            try:
                data, numbers = segment.chunk(after, max_rows, patch=self._refusals >= _TRIES)
            except OSError as error:
                failed = SpoolFailed(f"spool: {segment.path}: {error.strerror}", cure="see whether its disk is whole")
                self._note_read(failed)
                raise failed from error
            self._note_read(None)
        found = {record.number: record for record in segment.scan(data).found}
        if len(found) < len(numbers):
            self.damaged += len(numbers) - len(found)
            logger.error("%s is damaged: %d records cannot be read", segment.path, len(numbers) - len(found))
        return tuple(Record(number, _rows(segment, data, found.get(number), self._schema)) for number in numbers)

    def _note_read(self, error: SpoolFailed | None) -> None:
        self._refusals = self._refusals + 1 if error else 0
        self.read_trouble = str(error or "")

    def wait(self, after: int, timeout: float) -> bool:
        """Block until a record > `after` is committed, at most `timeout` seconds, less when it is closed.

        When none comes it uses the pause for what is due: an fsync, a look whether the disk has room again.

        Returns:
            Whether there is one.
        """
        with self._state:
            came = self._state.wait_for(lambda: self._closed or self._has(after), timeout)
            if came:
                return self._has(after)
        with self._committing:
            self._tend()
        return False

    def _has(self, after: int) -> bool:
        return self._files.first_after(max(after, self.forgotten)) is not None

    def _tend(self) -> None:
        if self._closed:
            return
        if self._is_due():
            self._sync()
        if self._trouble and not self._needs:
            try:
                with self._state:
                    segment = self._files.to_write(self.last + 1)
                segment.probe(_PROBE_BYTES, sync=self._limits.fsync != "never")
            except OSError:
                return
            self._note_trouble(None)

    def forget(self, upto: int) -> None:
        """Let go of the records with numbers <= `upto`: they are safe elsewhere.

        Their files go once all records of a file are forgotten; until then a restart brings them back.
        """
        with self._committing, self._state:
            if self._closed:
                return
            self.forgotten = max(self.forgotten, min(upto, self.last))
            try:
                self._files.free(self.forgotten, self.last + 1)
            except OSError as error:
                logger.warning("%s: forgotten records cannot be removed: %s", self._directory, error)
            if self._needs and self._fits_again():
                self._note_trouble(None)

    def close(self) -> None:
        """Let go of the directory; appends that come later fail, and who waits returns."""
        with self._committing:
            if self._closed:
                return
            if self._limits.fsync != "never":
                self._sync()
            with self._state:
                self._closed = True
                self._files.close()
                self._state.notify_all()


def _rows(segment: Segment, data: bytes, record: Found | None, schema: Schema) -> Rows:
    if record is None:
        return Rows.empty(len(schema))
    rows = spool_format.rows_at(data, record, len(segment.schema))
    return spool_format.placed(rows, segment.schema, schema)
