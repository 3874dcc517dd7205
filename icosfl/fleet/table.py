"""A mapping from outside, read key by key: a read says what it expects, and names owner and key when it is not so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from icosfl.errors import ConfigError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HIGHEST_PORT = 65535


class Table:
    """A mapping that is read key by key and remembers which keys nobody asked for.

    Args:
        owner: Whose it is, for messages.
        value: The mapping.

    Every reader raises ConfigError when the value is missing or of another kind.
    """

    def __init__(self, owner: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{owner}: expected a mapping, got {type(value).__name__}")
        self.owner = owner
        self._values: dict[str, Any] = {str(key): each for key, each in value.items()}
        self._read: set[str] = set()

    def error(self, key: str, problem: str, cure: str = "") -> ConfigError:
        """Return the error that names the owner and a key."""
        return ConfigError(f"{self.owner}: {key} {problem}", cure=cure)

    def has(self, key: str) -> bool:
        """Return whether a key has a value; it counts as read."""
        self._read.add(key)
        return self._values.get(key) is not None

    def get(self, key: str, wanted: str, default: object = None) -> Any:
        """Read any value; without a default it must be there."""
        if self.has(key):
            return self._values[key]
        if default is None:
            raise self.error(key, "is missing", f"expected {wanted}")
        return default

    def text(self, key: str, default: str | None = None) -> str:
        """Read a text."""
        value = self.get(key, "a text", default)
        if not isinstance(value, str):
            raise self.error(key, f"is {value!r}", "expected a text")
        return str(value)  # not Ansible's tagged subclass of str

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Read a list of texts; numbers among them become texts."""
        value = self.get(key, "a list of texts", default)
        if not isinstance(value, list | tuple) or not all(isinstance(each, str | int | float) for each in value):
            raise self.error(key, f"is {value!r}", "expected a list of texts")
        return tuple(str(each) for each in value)

    def paths(self, key: str) -> tuple[str, ...]:
        """Read a list of absolute paths; none when the key is missing."""
        paths = self.texts(key, ())
        for path in paths:
            if not path.startswith("/") or ".." in path.split("/"):
                raise self.error(key, f"has {path!r}", "expected absolute paths without ..")
        return paths

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Read true or false."""
        value = self.get(key, "true or false", default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {value!r}", "expected true or false")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """Read a mapping; empty when the key is missing."""
        value = self.get(key, "a mapping", {})
        if not isinstance(value, Mapping):
            raise self.error(key, f"is {value!r}", "expected a mapping")
        return {str(name): each for name, each in value.items()}

    def integer(self, key: str) -> int:
        """Read a whole number, 0 or more."""
        value = self.get(key, "a whole number")
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.error(key, f"is {value!r}", "expected a whole number, 0 or more")
        return int(value)

    def seconds(self, key: str) -> float:
        """Read a number of seconds above 0."""
        value = self.get(key, "a number of seconds")
        try:
            seconds = float(value)
        except (TypeError, ValueError):
            seconds = 0.0
        if isinstance(value, bool) or not 0 < seconds < float("inf"):
            raise self.error(key, f"is {value!r}", "expected a number of seconds above 0")
        return seconds

    def environment(self, key: str) -> dict[str, str]:
        """Read variables by name."""
        variables = self.mapping(key)
        for name, value in variables.items():
            if not _VARIABLE.fullmatch(name):
                raise self.error(f"{key}.{name}", "is not the name of a variable", "expected letters, digits and _")
            if isinstance(value, bool) or not isinstance(value, str | int | float):
                raise self.error(f"{key}.{name}", f"is a {type(value).__name__}", "expected a text; quote it")
        return {name: str(value) for name, value in variables.items()}

    def ports(self, key: str) -> dict[str, int]:
        """Read ports by name."""
        return {label: self.port(f"{key}.{label}", value) for label, value in self.mapping(key).items()}

    def refuse_the_rest(self) -> None:
        """Raise for a key that nobody read."""
        unknown = sorted(set(self._values) - self._read)
        if unknown:
            raise self.error(unknown[0], "is unknown", f"known keys: {', '.join(sorted(self._read))}")

    def port(self, key: str, value: object, lowest: int = 1) -> int:
        """Check a port that stands at a key."""
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _HIGHEST_PORT:
            raise self.error(key, f"is {value!r}", f"expected a port, {lowest} to {_HIGHEST_PORT}")
        return int(value)
