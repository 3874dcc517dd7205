"""Which SuperNodes are online when a run is about to begin, and which hosts are missing, by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from icosfl.errors import NotReady, Unavailable
from icosfl.fleet.flower import Node

POLL_SECONDS = 0.5

# Flower's words for a node that does not take part, in ours.
_WORDS = {"registered": "never came"}

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Attendance:
    """Who is there.

    Args:
        online: How many SuperNodes are online.
        expected: How many there should be.
        missing: Those that are not, each with how it stands: `worker-3 (offline)`.
        names: The hosts of the nodes that the SuperLink knows, by their numbers.
    """

    online: int
    expected: int
    missing: tuple[str, ...]
    names: Mapping[int, str]

    @property
    def line(self) -> str:
        """Who is there, in words."""
        return f"{self.online} of {self.expected} SuperNodes are online{self._without}"

    @property
    def _without(self) -> str:
        if self.online >= self.expected:
            return ""
        unknown = self.expected - self.online - len(self.missing)
        others = [f"{unknown} more that nobody registered"] if unknown > 0 else []
        return f"; missing: {', '.join([*self.missing, *others])}"

    def refusal(self, least: int) -> NotReady:
        """Why a run that needs at least so many cannot begin."""
        return NotReady(
            f"{self.online} of {self.expected} SuperNodes are online, and a run needs {least}{self._without}",
            cure="look at `icosfl status`; site.yml starts the missing",
        )


def attendance(nodes: Iterable[Node], keys: Mapping[str, str], expected: int) -> Attendance:
    """Who is there.

    Args:
        nodes: What the SuperLink knows.
        keys: The key of each SuperNode that was registered, by its name; a node without a name here has its number.
        expected: How many should be online.
    """
    known = {node.public_key: node for node in nodes}
    names = {known[key].node_id: name for name, key in keys.items() if key in known}
    missing = [
        f"{names.get(node.node_id, f'node {node.node_id}')} ({_WORDS.get(node.status, node.status)})"
        for node in known.values()
        if not node.online
    ]
    missing += [f"{name} (not registered)" for name, key in keys.items() if key not in known]
    return Attendance(sum(node.online for node in known.values()), expected, tuple(sorted(missing)), names)


def wait_for_nodes(look: Callable[[], Attendance], least: int, timeout: float, tell: Tell) -> Attendance:
    """Block until as many SuperNodes are online as are expected, or the time is over; returns who is there.

    Args:
        look: Asks the SuperLink.
        least: How many a run needs, whatever is expected.
        timeout: Seconds at most.
        tell: Is told who is missing while they are waited for, and again when that changes.

    Raises:
        NotReady: there are still fewer than a run needs.
        Unavailable: the SuperLink still does not answer.
    """
    deadline = time.monotonic() + timeout
    told = ""
    while True:
        late = time.monotonic() >= deadline
        try:
            found = look()
        except Unavailable:
            if late:
                raise
        else:
            if found.online >= found.expected or (late and found.online >= least):
                return found
            if late:
                raise found.refusal(least)
            if found.line != told:
                told = found.line
                tell(f"waiting: {told}")
        time.sleep(POLL_SECONDS)
