"""From values to what JSON can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


def plain(value: object) -> Any:
    """Return the value in dicts, lists and scalars: fields and properties of dataclasses by name.

    Times become ISO 8601, paths texts, and numbers that are not finite None.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in _names(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (datetime, Path)):
        return value.isoformat() if isinstance(value, datetime) else str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def _names(value: Any) -> list[str]:
    fields = [field.name for field in dataclasses.fields(value)]
    return fields + [name for name, item in vars(type(value)).items() if isinstance(item, property)]
