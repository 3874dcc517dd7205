"""What a kill, a power cut or a bad disk left of the spool's files, made whole again when the spool is opened."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from icosfl.bridge import spool_format
from icosfl.bridge.spool_format import Found, Header, Scan
from icosfl.bridge.spool_segment import Segment, sync_directory
from icosfl.schema import Schema

logger = logging.getLogger(__name__)

_KEPT_COPIES = 3
"""Copies of damaged files that stay for a person to look at; older ones go, so that a bad disk does not fill."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A file of the spool with its whole records, and how many stretches of it could not be read."""

    segment: Segment
    damaged: int


def recover(path: Path, schema: Schema) -> Recovered:
    """Open a file of the spool. A record that was half written is cut off; damage is left out, a copy of it set aside.

    Without a whole header, records are those of `schema` that prove to be so.

    Raises:
        OSError: the file cannot be read or written.
    """
    data = path.read_bytes()
    header = spool_format.read_header(data)
    found_in = header or Header(schema, 0)
    scan = spool_format.scan(data, found_in.size, spool_format.seed_of(found_in.schema), len(found_in.schema))
    half_header = header is None and spool_format.header_of(schema).startswith(data)
    if half_header:
        scan = Scan((), (), 0)
    if scan.end < len(data) or half_header:
        logger.warning("%s: the last %d bytes are of a record half written: cut off", path, len(data) - scan.end)
    if scan.damaged:
        logger.error("%s is damaged in %d places: what is whole is kept", path, len(scan.damaged))
    whole = header is not None and not scan.damaged
    if not whole:
        try:
            if scan.damaged:
                _set_aside(path)
            return Recovered(_rewritten(path, found_in.schema, data, scan.found), len(scan.damaged))
        except OSError as error:
            logger.warning("%s cannot be written anew and stays as it is: %s", path, error.strerror)
    descriptor = os.open(path, os.O_RDWR)
    segment = Segment(descriptor, path, found_in.schema, found_in.size, scan.end)
    segment.trusted = whole
    if whole and scan.end < len(data):
        os.ftruncate(descriptor, scan.end)
    segment.note(scan.found)
    return Recovered(segment, len(scan.damaged))


def _rewritten(path: Path, schema: Schema, data: bytes, found: tuple[Found, ...]) -> Segment:
    """A file at `path` that has these records of `data` and nothing else."""
    header = spool_format.header_of(schema)
    fresh = path.with_name(f"{path.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(header)
            for record in found:
                file.write(data[record.start : record.end])
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync_directory(path.parent)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    whole = path.read_bytes()
    segment = Segment(os.open(path, os.O_RDWR), path, schema, len(header), len(whole))
    segment.note(segment.scan(whole, len(header)).found)
    return segment


def _set_aside(path: Path) -> None:
    shutil.copyfile(path, path.with_name(f"{path.name}.damaged"))
    copies = sorted(path.parent.glob("*.damaged"), key=lambda copy: copy.stat().st_mtime_ns)
    for copy in copies[:-_KEPT_COPIES]:
        copy.unlink()
