"""What a host says of itself in one go, so that asking it over SSH costs one call: made on the host, read elsewhere."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
from pydantic import TypeAdapter

from icosfl.config import run_config
from icosfl.errors import DataError, IcosflError
from icosfl.fleet.outlook import Outlook, ask
from icosfl.fleet.place import Place
from icosfl.fleet.plain import plain
from icosfl.fleet.status import HostStatus, look_at
from icosfl.fleet.watch import Reading, Watched, needed_rows, no_reading, open_node, settings_of

PAGES = ("status", "outlook", "reading")
OTHER_RELEASE = "bring the host to this release: icosfl up"


@dataclass(frozen=True, slots=True)
class Report:
    """What a host says of itself; None for what it was not asked.

    Args:
        status: Its services, its store and its model.
        outlook: Its forecasts.
        reading: What its store holds.
    """

    status: HostStatus | None = None
    outlook: Outlook | None = None
    reading: Reading | None = None


def make(place: Place, pages: Collection[str], planned: Collection[str], app: Path) -> Report:
    """Ask this machine's own host.

    Args:
        place: The host.
        pages: What of it, of `PAGES`.
        planned: The names of the services that it is meant to have.
        app: Where the Flower app lies, whose run configuration says how many rows training needs.

    Raises:
        ConfigError: the run configuration is wrong.
    """
    return Report(
        look_at(place, planned) if "status" in pages else None,
        ask(place) if "outlook" in pages else None,
        _reading(place, app) if "reading" in pages else None,
    )


def _reading(place: Place, app: Path) -> Reading:
    settings = settings_of(place, run_config(app))
    try:
        with open_node(place) as store:
            return Watched(place, settings, store).read(datetime.now(UTC))
    except IcosflError as error:
        return no_reading(place.name, needed_rows(place, settings), str(error))


def to_plain(report: Report) -> Any:
    """Return the report in dicts, lists and scalars."""
    return plain(report)


def from_plain(value: object) -> Report:
    """Return the report that a host sent.

    Raises:
        DataError: the host speaks another release's language.
    """
    try:
        return TypeAdapter(Report).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"not what this release understands: {place}: {first['msg']}", cure=OTHER_RELEASE) from error
