"""What a process manager says about a service, the same words for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NOT_DEFINED = "NOT DEFINED"

_UP = frozenset({"STARTING", "RUNNING"})
_DOWN = frozenset({"STOPPED", "FATAL", NOT_DEFINED})


@dataclass(frozen=True, slots=True)
class Status:
    """What a process manager says about a service, in supervisord's words.

    `state` is one of STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL UNKNOWN, or NOT DEFINED when the
    manager does not know it. `pid` and `uptime_seconds` are 0 unless it is up. `reason` says why it is not, as far
    as the manager knows.
    """

    name: str
    state: str
    pid: int = 0
    uptime_seconds: int = 0
    reason: str = ""

    @property
    def up(self) -> bool:
        """Whether its process lives (it may not answer yet)."""
        return self.state in _UP

    @property
    def down(self) -> bool:
        """Whether it has no process and will not get one by itself."""
        return self.state in _DOWN

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Status:
        """Read one answer of `getProcessInfo`."""
        state, pid = str(info["statename"]), int(info["pid"])
        uptime = max(0, int(info["now"]) - int(info["start"])) if state in _UP else 0
        return cls(str(info["name"]), state, pid, uptime, "" if state in _UP else str(info["spawnerr"]))
