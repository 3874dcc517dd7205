"""The spool's directory: held by one process, with its files in the order of their records' numbers."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from itertools import zip_longest
from pathlib import Path

from icosfl.bridge.spool_recovery import recover, remove_unfinished, set_aside
from icosfl.bridge.spool_segment import Segment, number_in, paths_in
from icosfl.errors import RunFailed
from icosfl.schema import Schema

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_BROKEN = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)
"""What a bad disk answers, and a file system that finds itself damaged."""

_WORTH_ROTATING = 32 << 10

logger = logging.getLogger(__name__)


class SpoolFiles:
    """The files of a spool. Who calls sees to it that calls that change something do not overlap.

    The newest file stays even when it has no record: its name says which number comes next.

    Args:
        directory: Where they lie.
        schema: The series of records that are written.
        segment_bytes: The size from which a file gets no more records.

    Attributes:
        damaged: How many stretches could not be read when the files were opened.

    Raises:
        RunFailed: the directory cannot be used, or another process uses it.
    """

    def __init__(self, directory: Path, schema: Schema, segment_bytes: int) -> None:
        self.directory = directory
        self.damaged = 0
        self._schema = schema
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            self._open()
        except BlockingIOError as error:
            self.close()
            raise RunFailed(
                f"spool: another process uses {directory}",
                cure="stop the other bridge, or give this one another directory",
            ) from error
        except OSError as error:
            self.close()
            raise self._unusable(error) from error

    def _open(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        remove_unfinished(self.directory)
        paths = paths_in(self.directory)
        for path, following in zip_longest(paths, paths[1:]):
            segment = self._opened(path)
            if segment is None:
                continue
            self._segments.append(segment)
            if following:  # it was begun when records from its number on had been refused
                segment.keep_before(number_in(following))
        self._tell_dropped()
        if not self._segments:
            try:
                self.to_write(1)
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise

    def _opened(self, path: Path) -> Segment | None:
        """One file with what is whole in it; None when nothing of it could be had, not even room for an empty one."""
        try:
            recovered = recover(path, self._schema)
        except OSError as error:
            if error.errno not in _BROKEN:
                raise
            logger.exception("%s cannot be opened: it is set aside, its records are lost", path)
        else:
            self.damaged += recovered.damaged
            return recovered.segment
        self.damaged += 1
        set_aside(path)
        try:
            return Segment.create(self.directory, number_in(path), self._schema)  # so that no number comes again
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return None

    def _tell_dropped(self) -> None:
        kept = set(self._schema.series)
        found = {series for segment in self._segments if segment.oldest for series in segment.schema.series}
        if dropped := sorted(f"{series.name} [{series.unit}]" for series in found - kept):
            logger.warning("%s: records from before have series that are dropped: %s", self.directory, dropped)

    def _unusable(self, error: OSError) -> RunFailed:
        place = error.filename or self.directory
        if error.errno in _BROKEN:
            cure = f"see whether its disk is whole; or move {place} away, whose records are lost then"
        else:
            cure = "make the directory and its files readable and writable for this user"
        return RunFailed(f"spool: {place}: {error.strerror}", cure=cure)

    @property
    def bytes(self) -> int:
        """What the files take."""
        return sum(segment.end for segment in self._segments)

    @property
    def last(self) -> int:
        """The number of the newest record that there was ever; 0 for none."""
        return max((segment.last for segment in self._segments), default=0)

    @property
    def newest(self) -> Segment | None:
        """The newest file; None when there was never room for one."""
        return self._segments[-1] if self._segments else None

    def records_after(self, number: int) -> int:
        """How many records have a greater number."""
        return sum(segment.records_after(number) for segment in self._segments)

    def first_after(self, number: int) -> Segment | None:
        """The file of the first record with a greater number; None when there is none."""
        return next((segment for segment in self._segments if segment.records_after(number)), None)

    def to_write(self, first: int) -> Segment:
        """The file that the next record, with the number `first`, is written to: the newest, or a new one.

        Raises:
            OSError: the file system refuses to make one.
        """
        newest = self.newest
        if newest and newest.trusted and newest.schema == self._schema and newest.end < self._segment_bytes:
            return newest
        segment = Segment.create(self.directory, first, self._schema)
        replaced = [old for old in self._segments if old.path == segment.path]  # it had no record
        self._segments = [old for old in self._segments if old.path != segment.path] + [segment]
        for old in replaced:
            old.close()
        return segment

    def sync(self) -> None:
        """Have on the disk what is still with the kernel.

        Raises:
            OSError: it cannot be said whether it is.
        """
        for segment in self._segments:
            if segment.unsynced:
                segment.sync()

    def free(self, upto: int, following: int) -> None:
        """Remove the files whose records have numbers <= `upto`, all of them; `following` is the next record's number.

        Raises:
            OSError: the file system refuses.
        """
        while len(self._segments) > 1 and self._segments[0].last <= upto:
            self._segments.pop(0).remove()
        newest = self.newest
        worth = min(_WORTH_ROTATING, self._segment_bytes // 2)
        if newest and newest.last <= upto and newest.end > worth:
            newest.begin_anew(following)

    def close(self) -> None:
        """Close the files and let go of the directory."""
        for segment in self._segments:
            segment.close()
        self._segments = []
        os.close(self._lock)
