"""A SuperLink for tests of who submits runs: it lists, takes and stops them, and nothing runs behind it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from icosfl.aggregate.progress import Event, ProgressLog, RoundDone, Started
from icosfl.aggregate.record import hold, write_config
from icosfl.config import run_config
from icosfl.fleet.flower import Node, RunStatus, Scalar, UnknownToFlower

PROJECT = Path(__file__).parents[2]
APP = run_config(PROJECT)
RUNNING = RunStatus("running", "")
STOPPED = RunStatus("finished:stopped", "")


@dataclass
class MadeUpFlower:
    """Stands where `icosfl.fleet.flower.Flower` does.

    Args:
        runs: How each of Flower's runs stands, by number.
        known: The SuperNodes.
        submitted: With which overrides each run was submitted, by number.
    """

    runs: dict[str, RunStatus] = field(default_factory=dict)
    known: list[Node] = field(default_factory=list)
    submitted: dict[str, Mapping[str, Scalar]] = field(default_factory=dict)
    home: Path = Path("/flwr")
    connection: str = "fleet"

    def nodes(self) -> tuple[Node, ...]:
        """The SuperNodes."""
        return tuple(self.known)

    def open_runs(self) -> dict[str, RunStatus]:
        """The runs that are not over."""
        return {run: status for run, status in self.runs.items() if not status.over}

    def run_status(self, run_id: str) -> RunStatus:
        """How a run stands."""
        if run_id not in self.runs:
            raise UnknownToFlower("Flower refuses: Run ID not found")
        return self.runs[run_id]

    def submit(self, app: Path, overrides: Mapping[str, Scalar]) -> str:
        """Take a run, which runs at once."""
        assert app == PROJECT
        run = str(100 + len(self.submitted))
        self.runs[run], self.submitted[run] = RUNNING, dict(overrides)
        return run

    def stop(self, run_id: str) -> None:
        """End a run."""
        self.runs[run_id] = STOPPED


def round_done(number: int, of: int = 3) -> RoundDone:
    """A round of a run."""
    return RoundDone("now", number, of, ("a",), (), 0.5, 10, 3.0, "d", {})


def record(runs_dir: Path, run: str, *events: Event, **changes: object) -> Path:
    """The record of a run that began with the app's configuration and these changes, and then said all this."""
    directory = runs_dir / run
    write_config(directory, APP | {key.replace("_", "-"): value for key, value in changes.items()})
    log = ProgressLog(directory)
    for event in (Started("now", run, 3, 2), *events):
        log.append(event)
    return directory


def living(directory: Path) -> AbstractContextManager[None]:
    """A ServerApp that is at the run of this record for as long as the block lasts."""
    return hold(directory)
