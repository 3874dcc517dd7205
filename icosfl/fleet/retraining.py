"""`python -m icosfl.fleet.retraining --config retraining.toml`: the service that trains by the fleet's schedule.

What it does, and why, is decided by `icosfl.fleet.schedule`; here it is done: runs are submitted and awaited by
`icosfl.fleet.rounds`, each in a process of its own, which SIGTERM ends at once. A run that was begun is noted before
it is awaited, so that a service that was killed goes on awaiting it. Any other run under way is waited for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

import tomli_w
from pydantic import TypeAdapter

from icosfl.aggregate.record import RunRecord, is_alive, newest
from icosfl.aggregate.settings import CHECK, PURPOSE
from icosfl.config import RetrainingConfig, load
from icosfl.errors import Busy, IcosflError, RunFailed, Unavailable
from icosfl.fleet.flower import Flower
from icosfl.fleet.resumption import NEVER
from icosfl.fleet.schedule import (
    Decision,
    Kind,
    Memory,
    Outcome,
    Run,
    Schedule,
    begun,
    checked,
    decide,
    ended,
    summary,
    taken_in,
)
from icosfl.fleet.submission import was_stopped
from icosfl.fleet.together import die_with
from icosfl.logs import set_up_logging
from icosfl.train.files import write_atomically

STATE_FILE = "state.json"

# What whoever ends the service may send to all its processes, before this one knows of it.
_TOLD_TO_END = {-signal.SIGTERM, -signal.SIGINT}

logger = logging.getLogger("icosfl.fleet.retraining")  # not __main__, as which it runs

_MEMORY: TypeAdapter[Memory] = TypeAdapter(Memory)


@dataclass(frozen=True, slots=True)
class LastWord:
    """What a run said at its end, and the skill of its model; of a check None where it came to no verdict."""

    line: str
    skill: float | None


class Stopped(Exception):
    """The service was told to end."""


class Rounds(Protocol):
    """Begins runs and awaits them; both end early, with `Stopped`, when the service is told to end."""

    def begin(self, kind: Kind, resume: str) -> str:
        """Submit a run, or go on with the run `resume`; returns the number of its record."""

    def wait(self, run: str) -> LastWord:
        """Wait until a run is over."""

    def is_alive(self, run: str) -> bool:
        """Whether a ServerApp is at the run."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What a look at the service's file finds.

    Args:
        line: What is next and what was last, in words.
        looked: When the service was last at its schedule, or at a run that it awaits, seconds since 1970.
    """

    line: str
    looked: float


class StateFile:
    """The service's memory on disk, whole at any time, with a line for people.

    Args:
        path: The file; it is made by the first `save`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved = b""

    def read(self) -> Memory:
        """What the service remembered last; an empty memory where there is no sound file."""
        try:
            return _MEMORY.validate_python(json.loads(self._path.read_bytes())["memory"])
        except FileNotFoundError:
            return Memory()
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read, so what was before is taken from runs' records: %s", self._path, error)
            return Memory()

    def save(self, memory: Memory, line: str) -> None:
        """Keep what the service remembers; where nothing changed only the file's time does.

        Raises:
            CheckpointError: the file cannot be written.
        """
        content = json.dumps({"line": line, "memory": _MEMORY.dump_python(memory, mode="json")}, indent=1).encode()
        if content != self._saved or not self._path.exists():
            write_atomically(self._path, content)
            self._saved = content
        else:
            os.utime(self._path)

    def touch(self) -> None:
        """Note that the service lives, and changes nothing; without a file there is nothing to note."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._path)


def read_note(path: Path) -> Noted:
    """What the service last said of itself.

    Args:
        path: Its state file.

    Raises:
        Unavailable: there is no such file, or none that can be read.
    """
    try:
        return Noted(str(json.loads(path.read_bytes())["line"]), path.stat().st_mtime)
    except FileNotFoundError as error:
        raise Unavailable("it has not looked at its schedule yet", cure="see its log, and icosfl status") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(
            f"{path}: cannot be read: {error}", cure="see its log; without the file it begins anew"
        ) from error


@dataclass(frozen=True, slots=True)
class _Quiet:
    run: str
    since: float
    stopped: bool


class Records:
    """The newest training run by its record, and since when it is known to be interrupted.

    Args:
        runs_dir: Where runs have their records.
        was_stopped: Whether somebody ended an interrupted run on purpose; asked at each look until somebody did.
        clock: The time in seconds since 1970.
    """

    def __init__(self, runs_dir: Path, was_stopped: Callable[[RunRecord], bool], clock: Callable[[], float]) -> None:
        self._runs_dir = runs_dir
        self._was_stopped = was_stopped
        self._clock = clock
        self._quiet: _Quiet | None = None

    def newest(self) -> Run | None:
        """The newest training run, whoever began it.

        Raises:
            RunFailed: a record cannot be read.
            Unavailable: the SuperLink does not say whether an interrupted run was ended on purpose.
        """
        record = newest(self._runs_dir)
        if record is None or record.state != "interrupted":
            self._quiet = None
        else:
            if self._quiet is None or self._quiet.run != record.run:
                self._quiet = _Quiet(record.run, self._clock(), stopped=False)
            if not self._quiet.stopped and self._was_stopped(record):
                self._quiet = replace(self._quiet, stopped=True)
        return _run(record, self._quiet) if record is not None else None


def _run(record: RunRecord, quiet: _Quiet | None) -> Run:
    spoke = datetime.fromisoformat(record.time).timestamp() if record.time else 0.0
    resumable = record.resumable and not (quiet is not None and quiet.stopped)
    return Run(record.run, record.state, spoke, record.last_word, resumable, quiet.since if quiet is not None else 0.0)


class RoundsCommand:
    """Runs by `python -m icosfl.fleet.rounds`, in a process for each call, so that an idle service stays small.

    Args:
        config: How runs are submitted.
        lives: Is called every `look_seconds` while a call lasts.
    """

    def __init__(self, config: RetrainingConfig, lives: Callable[[], None] = lambda: None) -> None:
        self._config = config
        self._lives = lives
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False

    def stop(self) -> None:
        """End the call that is under way, and refuse others; for another thread."""
        self._stopped = True
        child = self._child
        if child is not None:
            child.terminate()

    def begin(self, kind: Kind, resume: str) -> str:
        """Submit a run, or go on with the run `resume`; returns the number of its record.

        Raises:
            Busy: another run is under way, or being submitted.
            RunFailed: it cannot be submitted.
            Stopped: the service was told to end.
        """
        config = self._config
        values = {**config.run_config, PURPOSE: CHECK} if kind == CHECK else config.run_config
        answer = self._call(
            "submit",
            f"--app={config.app_dir}",
            f"--expect-nodes={config.nodes}",
            f"--timeout={config.nodes_timeout_seconds}",
            f"--runs-dir={config.runs_dir}",
            f"--names-file={config.names_file}",
            f"--resume={resume or NEVER}",
            *(f"--config={key}={_toml(value)}" for key, value in values.items()),
        )
        return str(answer["run_id"])

    def wait(self, run: str) -> LastWord:
        """Wait until a run is over.

        Raises:
            RunFailed: it failed, or is not over within the time that is set.
            Stopped: the service was told to end.
        """
        config = self._config
        answer = self._call(
            "await",
            "--finish",
            f"--app={config.app_dir}",
            f"--run-id={run}",
            f"--runs-dir={config.runs_dir}",
            f"--timeout={config.run_timeout_seconds}",
        )
        skill = answer.get("skill")
        return LastWord(
            str(answer["line"]).partition("\n")[0], float(skill) if isinstance(skill, (int, float)) else None
        )

    def is_alive(self, run: str) -> bool:
        """Whether a ServerApp is at the run.

        Raises:
            RunFailed: its record cannot be read.
        """
        return is_alive(self._config.runs_dir / run)

    def _call(self, verb: str, *arguments: str) -> Mapping[str, object]:
        own = os.getpid()
        command = [sys.executable, "-m", "icosfl.fleet.rounds", verb]
        command += [f"--connection={self._config.connection}", f"--flwr-home={self._config.flwr_home}", *arguments]
        with subprocess.Popen(  # noqa: S603 (this very package, arguments without a shell)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # what happens meanwhile is on standard error: in the service's log
            text=True,
            preexec_fn=lambda: die_with(own),  # noqa: PLW1509 (the only other thread waits for a signal)
        ) as child:
            self._child = child
            if self._stopped:  # since the last look
                child.terminate()
            said = self._said_by(child)
        self._child = None
        if child.returncode in _TOLD_TO_END or (self._stopped and child.returncode):
            raise Stopped
        return _answer(verb, said, child.returncode)

    def _said_by(self, child: subprocess.Popen[str]) -> str:
        """What a call says until its end; meanwhile this service says that it lives."""
        while True:
            try:
                return child.communicate(timeout=self._config.look_seconds)[0]
            except subprocess.TimeoutExpired:
                self._lives()


def _answer(verb: str, said: str, code: int) -> Mapping[str, object]:
    lines = said.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RunFailed(f"`rounds {verb}` ended with code {code} and without an answer", cure="run icosfl doctor")
    if "error" in answer:
        kind = Busy if answer.get("busy") else RunFailed
        raise kind(str(answer["error"]), cure=str(answer.get("cure", "")))
    return answer


def _toml(value: object) -> str:
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


class Retraining:
    """The loop: look, decide, do, and note.

    Args:
        schedule: When to train and to check.
        state: The service's memory on disk.
        look: The newest training run.
        rounds: Begins and awaits runs.
        stop: Set when the service is told to end.
        look_seconds: How long it waits at most before it looks again.
        clock: The time in seconds since 1970.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (what it stands between)
        self,
        schedule: Schedule,
        state: StateFile,
        look: Callable[[], Run | None],
        rounds: Rounds,
        stop: threading.Event,
        look_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._schedule = schedule
        self._state = state
        self._look = look
        self._rounds = rounds
        self._stop = stop
        self._look_seconds = look_seconds
        self._clock = clock
        self._memory = state.read()
        self._said = ""

    def run(self) -> None:
        """Train by the schedule until the service is told to end.

        Raises:
            CheckpointError: the memory cannot be kept.
        """
        while not self._stop.is_set():
            try:
                self.step()
            except Stopped:
                return
            except (RunFailed, Unavailable) as error:
                self._say(f"cannot look at the runs: {error}")
                self._stop.wait(self._look_seconds)

    def step(self) -> None:
        """Look once, and do what is due, or wait until something is; at most until the next look.

        Raises:
            RunFailed: the runs' records cannot be read.
            Unavailable: the SuperLink does not say what became of a run.
            CheckpointError: the memory cannot be kept.
            Stopped: the service was told to end.
        """
        run = self._look()
        self._memory = taken_in(self._memory, run)
        now = self._clock()
        decision = decide(now, self._memory, run, self._schedule)
        self._note(decision)
        match decision.act:
            case "wait":
                until = decision.until if decision.until is not None else now + self._look_seconds
                self._stop.wait(min(max(until - now, 0.0), self._look_seconds))
            case "await":
                self._await()
            case "resume":
                self._begin("train", decision.run)
            case "train" | "check":
                self._begin(decision.act, "")

    def _begin(self, kind: Kind, resume: str) -> None:
        try:
            run = self._rounds.begin(kind, resume)
        except Busy as error:
            self._say(f"{kind} waits: {error}")
            self._stop.wait(self._look_seconds)
            return
        except IcosflError as error:
            self._end(kind, Outcome(resume, self._clock(), good=False, words=str(error)), None)
            return
        self._memory = begun(self._memory, kind, run)
        self._keep(f"run {run} is under way, begun by the schedule: {kind}")

    def _await(self) -> None:
        under_way = self._memory.under_way
        if under_way is None:
            return
        try:
            word = self._rounds.wait(under_way.run)
        except IcosflError as error:
            if self._rounds.is_alive(under_way.run):
                self._say(f"run {under_way.run} goes on: {error}")
                self._stop.wait(self._look_seconds)
                return
            self._end(under_way.kind, Outcome(under_way.run, self._clock(), good=False, words=str(error)), None)
            return
        self._end(under_way.kind, Outcome(under_way.run, self._clock(), good=True, words=word.line), word.skill)

    def _end(self, kind: Kind, outcome: Outcome, skill: float | None) -> None:
        if kind == CHECK:
            self._memory = checked(self._memory, outcome, skill, self._schedule)
        else:
            self._memory = ended(self._memory, outcome)
        self._keep(f"{kind}: {'' if outcome.good else 'failed: '}{outcome.words}")

    def _note(self, decision: Decision) -> None:
        line = summary(self._memory, decision, self._schedule)
        self._state.save(self._memory, line)
        due = f"; next: {decision.then}" if decision.then else ""
        self._say(f"{decision.act}{f' {decision.run}' if decision.run else ''}: {decision.why}{due}")

    def _keep(self, words: str) -> None:
        self._state.save(self._memory, words)
        self._say(words)

    def _say(self, words: str) -> None:
        if words != self._said:
            self._said = words
            logger.info("%s", words)


def serve(config: RetrainingConfig) -> None:
    """Train by the schedule until SIGTERM or SIGINT.

    Raises:
        ConfigError: the schedule is wrong.
        CheckpointError: the memory cannot be kept.
    """
    schedule = Schedule.of(config.schedule)
    stop, state = threading.Event(), StateFile(config.state_dir / STATE_FILE)
    rounds = RoundsCommand(config, state.touch)
    # A thread is told, for a handler would run in the middle of something that must not be entered twice.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def await_signal() -> None:
        os.read(told, 1)
        stop.set()
        rounds.stop()

    threading.Thread(target=await_signal, daemon=True).start()
    flower = Flower(config.flwr_home, config.connection)
    records = Records(config.runs_dir, lambda record: was_stopped(flower, record), time.time)
    Retraining(schedule, state, records.newest, rounds, stop, config.look_seconds).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m icosfl.fleet.retraining", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file, rendered by the role retraining")
    options = parser.parse_args(arguments)
    set_up_logging("info")
    try:
        config = load(options.config, RetrainingConfig)
        set_up_logging(config.log_level)
        serve(config)
    except IcosflError as error:
        logger.error("%s", error)  # noqa: TRY400 (the message says it all)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
