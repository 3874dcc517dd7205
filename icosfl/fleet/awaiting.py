"""Waits for a step of a run, notices at once when its ServerApp died, and has it go on if somebody can do that."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icosfl.aggregate.progress import (
    Event,
    Failed,
    Finished,
    Ready,
    Resumed,
    RoundDone,
    Started,
    Stopped,
    Waiting,
    read_progress,
)
from icosfl.aggregate.record import is_alive
from icosfl.errors import RunFailed, Unavailable
from icosfl.fleet.attempts import read_attempts
from icosfl.fleet.flower import UNKNOWN, RunStatus, UnknownToFlower

POLL_SECONDS = 0.25
# How long the progress file may stand still before the SuperLink is asked whether the run still lives.
STATUS_SECONDS = 10.0
# A ServerApp whose run is over for Flower ends within seconds.
ENDING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a run.

    Args:
        flower_run: Flower's number of the run that it goes on in now, or shall.
        events: All that it said.
        now: What it said since it goes on in that one; nothing before that began.
        alive: Whether a ServerApp was at it just before it was read.
    """

    flower_run: str
    events: Sequence[Event]
    now: Sequence[Event]
    alive: bool

    @property
    def died(self) -> bool:
        """Whether its ServerApp began and is gone, without a last word."""
        return bool(self.now) and not self.alive and not isinstance(self.now[-1], (Failed, Finished))

    @property
    def before(self) -> frozenset[str]:
        """Flower's numbers of the runs that it was in earlier; their ServerApps are gone: only one can be at it."""
        return frozenset(filter(None, map(_begins, self.events))) - {self.flower_run}


Step = Callable[[View], Event | None]
Status = Callable[[str], RunStatus]
Revive = Callable[[View, str], str]
Tell = Callable[[str], None]


def see(directory: Path) -> View:
    """What is known of the run with this record.

    Raises:
        RunFailed: the record cannot be read.
    """
    view = _look(directory)
    return _look(directory) if view.died else view  # it may have begun between the first two steps of a look


def _look(directory: Path) -> View:
    alive = is_alive(directory)  # before its events are read: one that ends in between has said its last word in them
    noted = [attempt.flower_run for attempt in read_attempts(directory).submitted]
    events = read_progress(directory)
    begun = [(place, _begins(event)) for place, event in enumerate(events) if _begins(event)]
    if noted and noted[-1] not in {flower_run for _, flower_run in begun}:
        return View(noted[-1], events, (), alive)
    place, flower_run = begun[-1] if begun else (len(events), directory.name)
    return View(flower_run, events, events[place:], alive)


def _begins(event: Event) -> str:
    """Flower's number of the run that begins here, "" where none does."""
    if isinstance(event, Resumed):
        return event.flower_run
    return event.run if isinstance(event, Started) else ""


def until_ready(view: View) -> Event | None:
    """Wanted: the nodes have been asked, or the run goes on after a round with those that were asked before."""
    later = (Ready, RoundDone, Stopped, Finished)
    for event in view.now:
        if isinstance(event, later) or (isinstance(event, Resumed) and event.round):
            return event
    return None


def until_round(number: int) -> Step:
    """Wanted: this round's average is saved, or no further rounds come."""

    def step(view: View) -> Event | None:
        done = [event for event in view.events if isinstance(event, RoundDone) and event.round == number]
        over = [event for event in view.events if isinstance(event, (Stopped, Finished))]
        return done[-1] if done else over[0] if over else None

    return step


def until_finish(view: View) -> Event | None:
    """Wanted: the model is handed out."""
    return next((event for event in view.events if isinstance(event, Finished)), None)


def await_end(directory: Path, there: Path, timeout: float) -> bool:
    """Block until a file is there that a ServerApp may write last, or it has ended; returns whether the file is there.

    Args:
        directory: The record of the run.
        there: The file.
        timeout: Seconds at most.

    Raises:
        RunFailed: the record cannot be read.
    """
    deadline = time.monotonic() + timeout
    while is_alive(directory) and not there.exists() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return there.exists()


def wait_for(  # noqa: PLR0913 (the last three have defaults)
    step: Step,
    directory: Path,
    status: Status,
    timeout: float,
    *,
    revive: Revive | None = None,
    tell: Tell = lambda _: None,
    look_every: float | None = None,
) -> Event:
    """Block until the run in `directory` has told a wanted event.

    Args:
        step: Finds it in what is known of the run.
        directory: Where the run writes its progress.
        status: Asks the SuperLink how one of Flower's runs stands; used while the progress stands still.
        timeout: Seconds at most; anew each time that the run was made to go on.
        revive: Has a run whose ServerApp died go on; returns what it did, "" if somebody else did. None: nobody can.
        tell: Is told of what happens meanwhile, in lines.
        look_every: Seconds of standing still after which the status is asked for; None: `STATUS_SECONDS`.

    Raises:
        RunFailed: the run failed, died for good, ended without the event, or took too long.
        IcosflError: it died, and `revive` says why it stays dead.
    """
    wait = _Wait(directory, status, timeout, STATUS_SECONDS if look_every is None else look_every, tell)
    while True:
        view = see(directory)
        wait.listen(view)
        found = step(view)
        if found is not None:
            return found
        why = wait.death(view)
        if why:
            _revive(revive, view, why, tell, wait)
        time.sleep(POLL_SECONDS)


def _revive(revive: Revive | None, view: View, why: str, tell: Tell, wait: _Wait) -> None:
    if revive is None:
        raise RunFailed(f"the run ended without a word ({why})", cure="icosfl train --resume goes on with it")
    try:
        line = revive(view, why)
    except Unavailable:
        wait.refuse_if_late(view)  # a SuperLink that is being restarted, too
        return
    if line:
        tell(line)
    wait.begin_anew()


class _Wait:
    """What is remembered from one look at a run to the next."""

    def __init__(self, directory: Path, status: Status, timeout: float, look_every: float, tell: Tell) -> None:
        self._directory = directory
        self._status = status
        self._timeout = timeout
        self._look_every = look_every
        self._tell = tell
        self._heard: int | None = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Give the run all the time again."""
        now = time.monotonic()
        self._deadline = now + self._timeout
        self._next_look = now + self._look_every
        self._over: RunStatus | None = None
        self._over_since = now

    def listen(self, view: View) -> None:
        """Tell of nodes that are waited for, and note whether the run stands still."""
        if self._heard is None:  # what was said before this wait is known
            self._heard = len(view.events)
        new = view.events[self._heard :]
        for event in new:
            if isinstance(event, Waiting):
                self._tell(event.line)
        if new:
            self._heard = len(view.events)
            self._next_look = time.monotonic() + self._look_every

    def death(self, view: View) -> str:
        """Why the run does not go on by itself, "" while it may.

        Raises:
            RunFailed: it failed, or took too long.
        """
        last = view.now[-1] if view.now else None
        if isinstance(last, Failed):
            if self._was_cut_off(view):
                return "its ServerApp was cut off from the SuperLink for too long"
            raise RunFailed(last.reason, cure=last.cure)
        if view.died:
            return "its ServerApp died"
        if self._over is not None:
            return self._ended(view, self._over)
        self.refuse_if_late(view)
        now = time.monotonic()
        if now >= self._next_look:
            self._over, self._over_since = self._asked(view), now
            self._next_look = time.monotonic() + self._look_every
        return ""

    def refuse_if_late(self, view: View) -> None:
        """Raise RunFailed when the time is over."""
        if time.monotonic() >= self._deadline:
            last = view.events[-1].line if view.events else "nothing"
            raise RunFailed(
                f"nothing came of the run within {self._timeout:g} s; the last word was: {last}",
                cure="look at `icosfl status`, then train again",
            )

    def _ended(self, view: View, over: RunStatus) -> str:
        """Flower held the run for over before this look, which found nothing more."""
        if not view.alive:
            return str(over)
        if time.monotonic() - self._over_since > ENDING_SECONDS:
            raise RunFailed(
                f"run {self._directory.name} is over for Flower ({over}), but its ServerApp still runs",
                cure="end the process flwr-serverapp on the controller, then: icosfl train --resume",
            )
        return ""

    def _asked(self, view: View) -> RunStatus | None:
        try:
            found = self._status(view.flower_run)
        except Unavailable:
            return None  # a SuperLink that is being restarted; the run may well go on
        except UnknownToFlower:
            return UNKNOWN
        return found if found.over else None

    def _was_cut_off(self, view: View) -> bool:
        over = self._asked(view)
        return over is not None and over.cut_off
