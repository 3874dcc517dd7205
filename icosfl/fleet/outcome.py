"""What bringing a host into a state did, or would do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from icosfl.fleet.process_status import Status


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A file before and after, without secrets; "" where there is none."""

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done, or in check mode what would be, by the services' names.

    `outdated` are all services of the host that run by an older definition than the one on disk and await `converge`.
    `written` are the paths of directories and files that were made or changed; `rewritten` shows them and the
    process manager's own files. `statuses` are of the services asked for.
    """

    started: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    rewritten: tuple[Rewritten, ...] = ()
    statuses: tuple[Status, ...] = field(default=(), compare=False)

    @property
    def changed(self) -> bool:
        """Whether anything was or would be changed."""
        return self != Outcome()

    def result(self) -> dict[str, Any]:
        """Return it as the result of an Ansible module."""
        return {
            "changed": self.changed,
            **{
                name: list(getattr(self, name))
                for name in ("started", "restarted", "stopped", "removed", "outdated", "written")
            },
            "services": [
                {"name": each.name, "state": each.state, "pid": each.pid, "uptime_seconds": each.uptime_seconds}
                for each in self.statuses
            ],
            "diff": [
                {"before_header": each.path, "after_header": each.path, "before": each.before, "after": each.after}
                for each in self.rewritten
            ],
        }
