"""Submits runs to the SuperLink, one at a time: a new one, one that goes on with another, one whose ServerApp died."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from icosfl.aggregate.record import RunRecord, look, newest
from icosfl.aggregate.settings import CHECK, PURPOSE
from icosfl.config import run_config
from icosfl.errors import Busy, ConfigError, RunFailed, UserError
from icosfl.fleet.attempts import Attempt, note_attempt, note_given_up, read_attempts
from icosfl.fleet.awaiting import View, see
from icosfl.fleet.flower import COMMAND_SECONDS, UNKNOWN, Flower, RunStatus, Scalar, UnknownToFlower
from icosfl.fleet.resumption import AUTO, NEVER, NEWEST, Choice, choose, demand, resumed
from icosfl.train.settings import whole

POLL_SECONDS = 0.25
# A run has said its last word a moment before Flower holds it for over; one that goes on longer is another's.
ENDING_SECONDS = 10.0
# A submission waits for the end of a run and for Flower's command, and looks at records.
SUBMITTING_SECONDS = COMMAND_SECONDS + ENDING_SECONDS + 20.0

ROUNDS = "num-server-rounds"
RESUME_CURE = "icosfl train --resume goes on with it"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Site:
    """Where runs are submitted and recorded.

    Args:
        flower: The SuperLink.
        app: The directory with the app's pyproject.toml.
        runs_dir: Where runs have their records; None: nobody knows, so that no run can be gone on with.
    """

    flower: Flower
    app: Path
    runs_dir: Path | None


@dataclass(frozen=True, slots=True)
class Submission:
    """A run that was submitted.

    Args:
        run: Its number, by which it is known.
        flower_run: Flower's number of what was submitted: another one where the run goes on with an earlier one.
        round: The round after which it goes on, 0 for its beginning.
        rounds: How many rounds it has.
    """

    run: str
    flower_run: str
    round: int
    rounds: int

    @property
    def line(self) -> str:
        """What happened, in words."""
        if self.flower_run == self.run:
            return f"run {self.run} submitted"
        where = f"after round {self.round} of {self.rounds}" if self.round else "from its beginning"
        return f"run {self.run} goes on {where}, in Flower's run {self.flower_run}"


def submit(site: Site, overrides: Mapping[str, Scalar], resume: str, tell: Tell) -> Submission:
    """Submit a run, once no other is under way.

    Args:
        site: Where.
        overrides: Values that override the app's run configuration.
        resume: `AUTO`, `NEWEST`, `NEVER` or the number of a run; a run that is gone on with keeps its configuration.
        tell: Is told why an interrupted run is left, and of dead ones that were ended.

    Raises:
        Busy: another run is under way.
        UserError: there is no run to go on with, or an override is wrong.
        Unavailable: the SuperLink does not answer.
        RunFailed: the record of a run cannot be read or written.
    """
    app = run_config(site.app)
    with _alone(site.runs_dir):
        wait_for_turn(site, tell)
        choice = _choice(site, resume, {**app, **overrides})
        if choice.note:
            tell(choice.note)
        if choice.record is None:
            run = site.flower.submit(site.app, overrides)
            return Submission(run, run, 0, whole({**app, **overrides}, ROUNDS, 1))
        return _go_on(site, choice.record, app, automatic=False)


def _choice(site: Site, resume: str, wanted: Mapping[str, object]) -> Choice:
    if resume == NEVER or (resume == AUTO and (site.runs_dir is None or wanted.get(PURPOSE) == CHECK)):
        return Choice()
    if site.runs_dir is None:
        raise UserError("it is not known where runs have their records", cure="name their directory: --runs-dir")
    if resume == AUTO:
        return _found(site.flower, site.runs_dir, wanted)
    if resume == NEWEST:
        return Choice(demand(newest(site.runs_dir)))
    if not resume.isdecimal():
        raise ConfigError(f"resume: {resume!r} is not {AUTO}, {NEWEST}, {NEVER} or a run", cure="use one of these")
    return Choice(demand(look(site.runs_dir / resume)))


def _found(flower: Flower, runs_dir: Path, wanted: Mapping[str, object]) -> Choice:
    try:
        record = newest(runs_dir)
        return choose(record, wanted, stopped=record is not None and was_stopped(flower, record))
    except RunFailed as error:  # a damaged record: nobody asked for that run
        return Choice(note=f"{error.message}: a new run begins")


def was_stopped(flower: Flower, record: RunRecord) -> bool:
    """Whether somebody ended the run, other than we who found it dead; one that Flower does not know was not.

    Raises:
        Unavailable: the SuperLink does not answer.
        RunFailed: the record cannot be read.
    """
    if record.state != "interrupted":
        return False
    flower_run = see(record.directory).flower_run
    try:
        return _by_hand(flower.run_status(flower_run), flower_run, record.directory)
    except UserError:
        return False


def _by_hand(status: RunStatus, flower_run: str, directory: Path) -> bool:
    return status.stopped and flower_run not in read_attempts(directory).given_up


def _go_on(site: Site, record: RunRecord, app: Mapping[str, object], *, automatic: bool) -> Submission:
    flower_run = site.flower.submit(site.app, resumed(record, app))
    note_attempt(record.directory, Attempt(flower_run, automatic, record.round))
    return Submission(record.run, flower_run, record.round, whole(record.config, ROUNDS, 1))


@dataclass(frozen=True, slots=True)
class Reviver:
    """Has a run go on whose ServerApp died.

    Args:
        site: Where; it has a `runs_dir`.
        directory: The record of the run.
        most: How many times in a row that is done with nobody asking for it, while no round is completed.
        tell: Is told of other dead runs that were ended.
    """

    site: Site
    directory: Path
    most: int
    tell: Tell

    def __call__(self, view: View, why: str) -> str:
        """Submit the run again; returns what was done, "" if somebody else did it.

        Args:
            view: How the run was found.
            why: What happened to it.

        Raises:
            RunFailed: it was stopped by hand, died too often, or cannot be gone on with.
            Busy: another run is under way.
            Unavailable: the SuperLink does not answer.
        """
        with _alone(self.site.runs_dir):
            now = see(self.directory)
            if now.flower_run != view.flower_run or now.alive:
                return ""
            record = self._record(why)
            done = read_attempts(self.directory).in_vain(record.round)
            self._end(view, record)
            if done >= self.most:
                again = f" and was resumed {done} times" if done else ""
                raise RunFailed(f"run {record.run}: {why} after round {record.round}{again}", cure=RESUME_CURE)
            wait_for_turn(self.site, self.tell)
            went = _go_on(self.site, record, run_config(self.site.app), automatic=True)
            return (
                f"run {record.run}: {why}; {went.line.removeprefix(f'run {record.run} ')} ({done + 1} of {self.most})"
            )

    def _record(self, why: str) -> RunRecord:
        record = look(self.directory)
        if record is None or not record.resumable or record.config.get(PURPOSE) == CHECK:
            raise RunFailed(
                f"the run ended without a word ({why})", cure="`flwr log` on the controller has its last output"
            )
        return record

    def _end(self, view: View, record: RunRecord) -> None:
        """Have Flower end what it still holds for running.

        Raises:
            RunFailed: somebody ended it by hand: they had their reason.
        """
        try:
            status = self.site.flower.run_status(view.flower_run)
        except UnknownToFlower:
            status = UNKNOWN
        if _by_hand(status, view.flower_run, self.directory):
            raise RunFailed(f"run {record.run} was stopped after round {record.round}", cure=RESUME_CURE)
        if not status.over:
            note_given_up(self.directory, view.flower_run)
            self.site.flower.stop(view.flower_run)


def wait_for_turn(site: Site, tell: Tell, timeout: float | None = None) -> None:
    """Block until no run is under way: two at once would train the same nodes and overwrite each other's model.

    One that Flower still holds for running, but whose ServerApp is gone, is ended; one that lives never is.

    Args:
        site: Where.
        tell: Is told which were ended.
        timeout: Seconds at most; None: `ENDING_SECONDS`.

    Raises:
        Busy: there is still one.
        Unavailable: the SuperLink does not answer.
        RunFailed: the record of a run cannot be read or written.
    """
    deadline = time.monotonic() + (ENDING_SECONDS if timeout is None else timeout)
    while runs := site.flower.open_runs():
        late = time.monotonic() >= deadline
        dead = {run: directory for run in runs if (directory := _left_by(site.runs_dir, run, late=late)) is not None}
        for flower_run, directory in dead.items():
            note_given_up(directory, flower_run)
            site.flower.stop(flower_run)
            tell(f"the ServerApp of run {directory.name} died; Flower's run {flower_run} was ended")
        if late and not dead:
            flower_run, status = next(iter(runs.items()))
            stop = f"FLWR_HOME={site.flower.home} flwr stop {flower_run} {site.flower.connection}"
            raise Busy(
                f"run {flower_run} is under way ({status.status})",
                cure=f"wait for its end, or end it on the controller: {stop}",
            )
        if not dead:
            time.sleep(POLL_SECONDS)


def _left_by(runs_dir: Path | None, flower_run: str, *, late: bool) -> Path | None:
    """The record that one of Flower's runs left when its ServerApp died; None while it may live, or is not ours.

    A run that has said its last word is given until `late` for its end.
    """
    directory = _record_of(runs_dir, flower_run) if runs_dir is not None else None
    if directory is None:
        return None
    view = see(directory)
    gone = view.died or (late and bool(view.now) and not view.alive)
    return directory if flower_run in view.before or (flower_run == view.flower_run and gone) else None


def _record_of(runs_dir: Path, flower_run: str) -> Path | None:
    own = runs_dir / flower_run
    if own.is_dir():
        return own
    present = (path for path in runs_dir.glob("[!.]*") if path.is_dir())
    return next((path for path in present if _went_on_in(path, flower_run)), None)


def _went_on_in(directory: Path, flower_run: str) -> bool:
    try:
        view = see(directory)
    except RunFailed:
        return False  # damaged: it went on in none that anybody could know
    return flower_run in {view.flower_run, *view.before}


@contextmanager
def _alone(runs_dir: Path | None) -> Iterator[None]:
    """Submit while nobody else on this controller does.

    Raises:
        Busy: somebody else has been submitting for too long.
        RunFailed: the directory cannot be made or read.
    """
    if runs_dir is None:
        yield
        return
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(runs_dir, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunFailed(f"{runs_dir}: cannot be used: {error.strerror}", cure="run this as the fleet's user") from error
    try:
        _lock(handle, runs_dir)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, runs_dir: Path) -> None:
    deadline = time.monotonic() + SUBMITTING_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise Busy(
                    f"somebody else has been submitting a run to {runs_dir} for {SUBMITTING_SECONDS:g} s",
                    cure="wait for them, then train again",
                ) from None
            time.sleep(POLL_SECONDS)
        else:
            return
