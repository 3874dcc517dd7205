"""One file of the spool: written at its end only, read anywhere, and an index of its records in memory."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from pathlib import Path

from icosfl.bridge import spool_format
from icosfl.bridge.spool_format import Found
from icosfl.schema import Schema

_SUFFIX = ".spool"
_PAGE = 4096


class Segment:
    """An open file of the spool. Who calls sees to it that only one thread writes, and that nobody reads a closed one.

    Args:
        descriptor: The file, open for reading and writing.
        path: Where it lies; its name says which number its first record has.
        schema: The series of its records.
        start: Where its records begin.
        end: Where the next record is written.

    Attributes:
        trusted: Whether records may be written to it.
        unsynced: Whether some of it may be with the kernel only.
    """

    def __init__(self, descriptor: int, path: Path, schema: Schema, start: int, end: int) -> None:
        self.path = path
        self.schema = schema
        self.first = number_in(path)
        self.last = self.first - 1
        self.end = end
        self.trusted = True
        self.unsynced = False
        self._seed = spool_format.seed_of(schema)
        self._descriptor = descriptor
        self._start = start
        self._numbers = array("Q")
        self._starts = array("Q")
        self._ends = array("Q")
        self._rows = array("Q")  # so many rows up to and with this record
        self._times = array("q")

    @classmethod
    def create(cls, directory: Path, first: int, schema: Schema) -> Segment:
        """Make a file for the records from number `first` on. One that lies there has no record, and is replaced.

        Raises:
            OSError: the file system refuses; no file is left.
        """
        path = directory / f"{first:020d}{_SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        header = spool_format.header_of(schema)
        segment = cls(descriptor, path, schema, len(header), 0)
        try:
            segment.write(header)
            os.fsync(descriptor)
            sync_directory(directory)
        except OSError:
            segment.remove()
            raise
        return segment

    def write(self, data: bytes, *, sync: bool = False) -> None:
        """Write at the end, and have it on the disk if asked to; all of it or nothing.

        A file whose disk did not do as asked is not trusted any more: after a failed fsync the kernel may forget what
        it holds and report no error for it again, so that a later fsync proves nothing.

        Raises:
            OSError: the file system refuses; what was there before is there still.
        """
        written = False
        try:
            place, left = self.end, memoryview(data)
            while left:
                count = os.pwrite(self._descriptor, left, place)
                place, left = place + count, left[count:]
            self.unsynced = True
            if sync:
                self.sync()
            written = True
        finally:
            if not written:
                self.cut_back()
        self.end = place

    def cut_back(self) -> None:
        """Drop what lies behind the end; a file where that fails is not trusted any more."""
        try:
            os.ftruncate(self._descriptor, self.end)
        except OSError:
            # What lies behind the end may be whole records that were refused. The next file begins with the number of
            # the first of them, so that `keep_before` drops them when the spool is opened again.
            self.trusted = False

    def sync(self) -> None:
        """Have on the disk what was written.

        Raises:
            OSError: it cannot be said whether it is; asking again would not tell.
        """
        self.unsynced = False
        try:
            os.fdatasync(self._descriptor)  # with the size, which is needed to read the data; times are not
        except OSError:
            self.trusted = False
            raise

    def probe(self, size: int, *, sync: bool) -> None:
        """Try whether `size` bytes could be written, and be on the disk if asked to.

        Raises:
            OSError: they could not.
        """
        end = self.end
        try:
            self.write(bytes(size), sync=sync)
        finally:
            self.end = end
            self.cut_back()

    def note(self, records: Iterable[Found]) -> None:
        """Take records that are in the file into the index, in the order of numbers; older ones are passed over."""
        for record in records:
            if record.number > self.last:
                self._numbers.append(record.number)
                self._starts.append(record.start)
                self._ends.append(record.end)
                self._rows.append(record.rows + (self._rows[-1] if self._rows else 0))
                self._times.append(record.time)
                self.last = record.number

    def keep_before(self, number: int) -> None:
        """Drop records with this number and greater ones: a later file has those that count."""
        place = bisect_left(self._numbers, number)
        if place == len(self._numbers):
            return
        self.end = self._starts[place]
        for index in (self._numbers, self._starts, self._ends, self._rows, self._times):
            del index[place:]
        self.last = self._numbers[-1] if place else self.first - 1
        self.cut_back()

    def records_after(self, number: int) -> int:
        """How many records have a greater number."""
        return len(self._numbers) - bisect_right(self._numbers, number)

    @property
    def oldest(self) -> int | None:
        """The number of its first record; None when it has none."""
        return self._numbers[0] if self._numbers else None

    def time_after(self, number: int) -> int | None:
        """The time in ns of the first record with a greater number; None when there is none."""
        place = bisect_right(self._numbers, number)
        return self._times[place] if place < len(self._times) else None

    def chunk(self, after: int, max_rows: int, *, patch: bool = False) -> tuple[bytes, array[int]]:
        """Bytes of records with numbers > `after`, up to `max_rows` rows but at least one record; and their numbers.

        Args:
            after: The number before the first.
            max_rows: How many rows.
            patch: Give zeros for what the disk does not read.

        Raises:
            OSError: the file cannot be read.
        """
        place = bisect_right(self._numbers, after)
        before = self._rows[place - 1] if place else 0
        end = max(bisect_right(self._rows, before + max_rows), place + 1)
        start, size = self._starts[place], self._ends[end - 1] - self._starts[place]
        if patch:
            data, _ = read_pages(self._descriptor, start, size)
        else:
            data = os.pread(self._descriptor, size, start)
        return data, self._numbers[place:end]

    def scan(self, data: bytes, start: int = 0) -> spool_format.Scan:
        """Find the records in bytes of this file."""
        return spool_format.scan(data, start, self._seed, len(self.schema))

    def record(self, number: int, payload: bytes) -> bytes:
        """A record for this file."""
        return spool_format.record_of(number, payload, self._seed)

    def begin_anew(self, first: int) -> None:
        """Drop all records; the next one gets the number `first`. It takes no room on the disk, and no numbers go back.

        Raises:
            OSError: the file system refuses.
        """
        path = self.path.with_name(f"{first:020d}{_SUFFIX}")
        self.path = self.path.rename(path)
        sync_directory(path.parent)
        os.ftruncate(self._descriptor, self._start)
        self.first, self.last, self.end = first, first - 1, self._start
        for index in (self._numbers, self._starts, self._ends, self._rows, self._times):
            del index[:]

    def remove(self) -> None:
        """Close and delete the file.

        Raises:
            OSError: the file system refuses; the file is closed.
        """
        self.close()
        self.path.unlink()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_pages(descriptor: int, start: int, size: int) -> tuple[bytes, bool]:
    """Bytes of a file, read page by page: one that the disk does not read is tried twice, and is zeros then.

    Returns:
        The bytes, and whether all could be read.
    """
    pages = []
    whole = True
    end = start + size
    while start < end:
        count = min(_PAGE - start % _PAGE, end - start)
        page = _page(descriptor, start, count) or _page(descriptor, start, count)
        if page is None:
            whole = False
            page = bytes(count)
        pages.append(page)
        start += count
    return b"".join(pages), whole


def _page(descriptor: int, start: int, size: int) -> bytes | None:
    try:
        return os.pread(descriptor, size, start)
    except OSError:
        return None


def sync_directory(directory: Path) -> None:
    """Have on the disk which files a directory has.

    Raises:
        OSError: it cannot be said whether it is.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def paths_in(directory: Path) -> list[Path]:
    """The spool's files in a directory, in the order of their numbers."""
    return sorted(path for path in directory.glob(f"*{_SUFFIX}") if path.stem.isdecimal())


def number_in(path: Path) -> int:
    """The number that the first record of a file has, by the file's name."""
    return int(path.stem)
