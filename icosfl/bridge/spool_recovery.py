"""What a kill, a power cut or a bad disk left of the spool's files, made whole again when the spool is opened."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from icosfl.bridge import spool_format
from icosfl.bridge.spool_format import Found, Header, Scan
from icosfl.bridge.spool_segment import Segment, read_pages, sync_directory
from icosfl.schema import Schema

logger = logging.getLogger(__name__)

_FRESH = ".new"
_DAMAGED = ".damaged"

_KEPT_COPIES = 3
"""Damaged files that stay for a person to look at; older ones go, so that a bad disk does not fill."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A file of the spool with its whole records, and how many stretches of it could not be read."""

    segment: Segment
    damaged: int


def recover(path: Path, schema: Schema) -> Recovered:
    """Open a file of the spool. A record that was half written is cut off; damage is left out, the file as it was kept.

    What the disk does not read is damage, too. Without a whole header, records are those of `schema` that prove to be
    so.

    Raises:
        OSError: the file cannot be opened or written.
    """
    data, readable = _read(path)
    header = spool_format.read_header(data)
    found_in = header or Header(schema, 0)
    scan = spool_format.scan(data, found_in.size, spool_format.seed_of(found_in.schema), len(found_in.schema))
    half_header = header is None and spool_format.header_of(schema).startswith(data)
    if half_header:
        scan = Scan((), (), 0)
    if scan.end < len(data) or half_header:
        logger.warning("%s: the last %d bytes are of a record half written: cut off", path, len(data) - scan.end)
    damaged = len(scan.damaged) if readable else max(len(scan.damaged), 1)
    if damaged:
        logger.error("%s is damaged in %d places: what is whole is kept", path, damaged)
    if not readable:
        logger.error("%s: the disk does not read some of it: see whether it is whole", path)
    whole = header is not None and not damaged
    if not whole:
        try:
            return Recovered(_rewritten(path, found_in.schema, data, scan.found, keep=damaged > 0), damaged)
        except OSError as error:
            logger.warning("%s cannot be written anew and stays as it is: %s", path, error.strerror)
    descriptor = os.open(path, os.O_RDWR)
    segment = Segment(descriptor, path, found_in.schema, found_in.size, scan.end)
    segment.trusted = whole
    if whole and scan.end < len(data):
        segment.cut_back()
    segment.note(scan.found)
    return Recovered(segment, damaged)


def set_aside(path: Path) -> None:
    """Rename a file of the spool so that it is one no more and a person can look at it.

    Raises:
        OSError: the file system refuses.
    """
    path.replace(_aside(path))
    _limit_copies(path.parent)


def remove_unfinished(directory: Path) -> None:
    """Delete what a kill left of a file that was being written anew.

    Raises:
        OSError: the file system refuses.
    """
    for fresh in directory.glob(f"*{_FRESH}"):
        fresh.unlink()


def _read(path: Path) -> tuple[bytes, bool]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        try:
            data = os.pread(descriptor, size, 0)
        except OSError:
            return read_pages(descriptor, 0, size)
        return data, True
    finally:
        os.close(descriptor)


def _rewritten(path: Path, schema: Schema, data: bytes, found: tuple[Found, ...], *, keep: bool) -> Segment:
    """A file at `path` that has these records of `data` and nothing else; the one from before may be set aside."""
    header = spool_format.header_of(schema)
    fresh = path.with_name(f"{path.name}{_FRESH}")
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    segment = Segment(descriptor, path, schema, len(header), 0)
    try:
        segment.write(header + b"".join(data[record.start : record.end] for record in found))
        os.fsync(descriptor)
        if keep:
            aside = _aside(path)
            aside.unlink(missing_ok=True)
            aside.hardlink_to(path)  # a copy would have to be read from a disk that may not read
            _limit_copies(path.parent)
        fresh.replace(path)
    except OSError:
        segment.close()
        fresh.unlink(missing_ok=True)
        raise
    place = len(header)
    for record in found:
        size = record.end - record.start
        segment.note([replace(record, start=place, end=place + size)])
        place += size
    try:
        sync_directory(path.parent)
    except OSError:
        segment.trusted = False  # a power cut may bring the other one back, without what was written since
    return segment


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}{_DAMAGED}")


def _limit_copies(directory: Path) -> None:
    copies = sorted(directory.glob(f"*{_DAMAGED}"), key=lambda copy: copy.stat().st_ctime_ns)
    for copy in copies[:-_KEPT_COPIES]:
        copy.unlink()
