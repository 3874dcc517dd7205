from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import tomli_w

from icosfl.aggregate import record
from icosfl.aggregate.progress import Failed, Finished, ProgressLog, Started
from icosfl.config import RetrainingConfig, load
from icosfl.errors import Busy, RunFailed, Unavailable
from icosfl.fleet.hops import schedule as ask_schedule
from icosfl.fleet.retraining import (
    STATE_FILE,
    LastWord,
    Records,
    Retraining,
    RoundsCommand,
    StateFile,
    Stopped,
    read_note,
)
from icosfl.fleet.schedule import Kind, Memory, Outcome, Run, Schedule, UnderWay, begun, ended

HOUR, DAY = 3600.0, 86400.0
NOON = datetime(2030, 5, 1, 12, tzinfo=UTC).timestamp()
EVERY_DAY = Schedule(DAY, None, HOUR, 0.1, 2, retry=300, retry_most=6000, grace=120)
LOOK_SECONDS = 30.0


class MadeUpTime(threading.Event):
    """A clock that goes only while somebody waits, and tells the service to end when it is late enough."""

    def __init__(self, end: float, now: float = NOON) -> None:
        super().__init__()
        self.now, self.end = now, end

    def __call__(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now += timeout
        if self.now >= self.end:
            self.set()
        return self.is_set()


class MadeUpRounds:
    """Runs that take ten minutes; each failure is used up by one of them, each skill by one check."""

    def __init__(self, clock: MadeUpTime) -> None:
        self.clock = clock
        self.done: list[tuple[float, str]] = []
        self.skills: list[float | None] = []
        self.refusals: list[Exception] = []
        self.failures: list[Exception] = []
        self.alive: set[str] = set()
        self.ends: Callable[[], None] = lambda: None

    def begin(self, kind: Kind, resume: str) -> str:
        self.done.append(((self.clock.now - NOON) / HOUR, f"resume {resume}" if resume else kind))
        if self.refusals:
            raise self.refusals.pop(0)
        return resume or str(len(self.done))

    def wait(self, run: str) -> LastWord:
        self.clock.now += 600
        if self.failures:
            raise self.failures.pop(0)
        self.ends()
        return LastWord(f"run {run} finished", self.skills.pop(0) if self._checks(run) and self.skills else 0.5)

    def _checks(self, run: str) -> bool:
        return run.isdecimal() and int(run) <= len(self.done) and self.done[int(run) - 1][1] == "check"

    def is_alive(self, run: str) -> bool:
        return run in self.alive


class Bench:
    """The service, with all that it stands between made up."""

    def __init__(self, directory: Path, hours: float, schedule: Schedule = EVERY_DAY) -> None:
        self.time = MadeUpTime(NOON + hours * HOUR)
        self.rounds = MadeUpRounds(self.time)
        self.newest: Run | None = None
        self.path = directory / STATE_FILE
        self.schedule = schedule

    def run(self) -> list[tuple[float, str]]:
        """Until the end; returns what was begun, each with its hour."""
        service = Retraining(
            self.schedule, StateFile(self.path), lambda: self.newest, self.rounds, self.time, LOOK_SECONDS, self.time
        )
        service.run()
        return [(round(hour, 2), what) for hour, what in self.rounds.done]

    def remembered(self) -> Memory:
        return StateFile(self.path).read()

    def remembers(self, memory: Memory) -> None:
        StateFile(self.path).save(memory, "made up")


class TestTheLoop:
    def test_it_trains_and_checks_at_their_times(self, tmp_path: Path) -> None:
        begun_at = Bench(tmp_path, 26).run()

        assert begun_at[0] == (0.0, "train")
        assert begun_at[1:3] == [(1.17, "check"), (2.33, "check")]  # an hour after the end of what was before
        assert [hour for hour, what in begun_at if what == "train"] == [0.0, 24.17]

    def test_it_trains_when_the_skill_was_too_low_twice_in_a_row_and_counts_anew(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 7)
        bench.rounds.skills = [0.05, 0.5, 0.05, None, 0.0, 0.0]

        begun_at = bench.run()

        assert [what for _, what in begun_at] == ["train", *["check"] * 5, "train"]
        assert bench.remembered().skills == ()

    def test_what_cannot_be_begun_is_tried_again_later_and_later(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 1)
        bench.rounds.refusals = [Unavailable("the SuperLink does not answer")] * 3

        begun_at = bench.run()

        assert begun_at == [(0.0, "train"), (0.08, "train"), (0.25, "train"), (0.58, "train")]
        assert bench.remembered().failures == 0

    @pytest.mark.parametrize("newest", [None, Run("5", "interrupted", NOON - DAY, "", resumable=True, quiet_since=0)])
    def test_another_run_in_the_way_is_waited_for_and_is_no_failure(self, tmp_path: Path, newest: Run | None) -> None:
        bench = Bench(tmp_path, 0.1)
        bench.newest = newest
        bench.rounds.ends = lambda: setattr(bench, "newest", None)
        bench.rounds.refusals = [Busy("run 50 is under way (running)")] * 2

        begun_at = bench.run()

        assert [hour for hour, _ in begun_at][:3] == [0.0, 0.01, 0.02]
        assert (bench.remembered().failures, bench.remembered().trained) == (0, NOON + 60 + 600)

    def test_a_run_that_fails_is_remembered_with_its_reason(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 0.2)
        bench.rounds.failures = [Unavailable("two nodes are missing", cure="start them")]

        bench.run()

        memory = bench.remembered()
        assert (memory.failures, memory.under_way) == (1, None)
        assert memory.training == Outcome("1", NOON + 600, good=False, words="two nodes are missing (start them)")

    def test_a_wait_that_ends_before_its_run_is_no_failure(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 0.5)
        bench.rounds.alive = {"1"}
        bench.rounds.failures = [Unavailable("nothing came of it within an hour")]

        assert bench.run() == [(0.0, "train")]
        assert bench.remembered().failures == 0

    def test_a_service_that_was_killed_awaits_the_run_that_it_had_begun(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 0.5)
        bench.remembers(begun(Memory(), "train", "77"))

        assert bench.run() == []
        assert bench.remembered().training == Outcome("77", NOON + 600, good=True, words="run 77 finished")

    def test_an_interrupted_run_of_somebody_elses_is_gone_on_with_after_a_while(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 0.1)
        bench.newest = Run("5", "interrupted", NOON - DAY, "round 1/3", resumable=True, quiet_since=NOON)
        bench.remembers(ended(Memory(), Outcome("4", NOON - HOUR / 2, good=True, words="")))
        bench.rounds.ends = lambda: setattr(bench, "newest", None)

        assert bench.run() == [(0.03, "resume 5")]

    def test_nothing_is_begun_while_somebody_elses_run_is_under_way(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, 30)
        bench.newest = Run("5", "alive", NOON, "round 1/3")

        assert bench.run() == []

    def test_it_says_what_it_does_and_each_thing_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "icosfl.fleet.retraining")

        Bench(tmp_path, 1).run()

        assert [entry.getMessage() for entry in caplog.records] == [
            "train: no training is on record",
            "run 1 is under way, begun by the schedule: train",
            "await 1: it was begun here",
            "train: run 1 finished",
            "wait: check: it is due every 1h; next: check 2030-05-01 13:10 UTC, training 2030-05-02 12:10 UTC",
        ]


class TestTheStateFile:
    def test_what_is_kept_comes_back(self, tmp_path: Path) -> None:
        memory = Memory(
            training=Outcome("1", NOON, good=True, words="well"),
            trained=NOON,
            check=Outcome("2", NOON, good=False, words="ill"),
            check_failures=2,
            skills=(0.1, -3.0),
            under_way=UnderWay("check", "3"),
        )

        StateFile(tmp_path / "s.json").save(memory, "the line")

        assert StateFile(tmp_path / "s.json").read() == memory
        assert read_note(tmp_path / "s.json").line == "the line"

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"memory": {"trained": "soon"}}', '{"memory": 3}'])
    def test_a_damaged_one_is_said_and_begun_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
    ) -> None:
        (tmp_path / "s.json").write_text(content)

        assert StateFile(tmp_path / "s.json").read() == Memory()
        assert "cannot be read" in caplog.text

    def test_what_did_not_change_is_not_written_again_but_looked_at(self, tmp_path: Path) -> None:
        file, path = StateFile(tmp_path / "s.json"), tmp_path / "s.json"
        file.save(Memory(), "a")
        number = path.stat().st_ino
        os.utime(path, (1, 1))

        file.save(Memory(), "a")

        assert path.stat().st_ino == number
        assert path.stat().st_mtime > 1

    def test_verify_answers_with_the_line_and_refuses_one_that_is_old_or_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "s.json"
        with pytest.raises(Unavailable, match="has not looked at its schedule yet"):
            ask_schedule(path, 60)
        StateFile(path).save(Memory(), "next: training tomorrow")
        assert ask_schedule(path, 60) == "next: training tomorrow"

        os.utime(path, (time.time() - 100, time.time() - 100))

        with pytest.raises(Unavailable, match="100 s ago, at most 60 s"):
            ask_schedule(path, 60)

    def test_a_sign_of_life_makes_the_file_young_and_changes_nothing_in_it(self, tmp_path: Path) -> None:
        file, path = StateFile(tmp_path / "s.json"), tmp_path / "s.json"
        file.touch()
        assert not path.exists()
        file.save(begun(Memory(), "train", "7"), "a")
        os.utime(path, (1, 1))

        file.touch()

        assert read_note(path).looked > time.time() - 60
        assert file.read() == begun(Memory(), "train", "7")


class TestRecords:
    def test_an_interrupted_run_is_quiet_since_it_was_first_seen(self, tmp_path: Path) -> None:
        clock = MadeUpTime(NOON + DAY)
        records = Records(tmp_path, lambda _: False, clock)
        assert records.newest() is None
        ProgressLog(tmp_path / "7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
        record.write_config(tmp_path / "7", {"purpose": "train"})

        first = records.newest()
        clock.wait(60)

        assert first == Run("7", "interrupted", NOON - HOUR, "run 7 started: 3 rounds, at least 1 nodes", True, NOON)
        assert records.newest() == first

    def test_one_that_somebody_stopped_is_not_to_be_gone_on_with(self, tmp_path: Path) -> None:
        asked = []
        records = Records(tmp_path, lambda found: bool(asked.append(found.run)) or True, MadeUpTime(NOON))
        ProgressLog(tmp_path / "7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
        record.write_config(tmp_path / "7", {"purpose": "train"})

        looks = [records.newest(), records.newest()]

        assert [look.resumable for look in looks if look] == [False, False]
        assert asked == ["7"]

    def test_one_that_somebody_stops_a_while_after_it_died_is_not_to_be_gone_on_with_either(
        self, tmp_path: Path
    ) -> None:
        answers = iter([False, True])
        records = Records(tmp_path, lambda _: next(answers), MadeUpTime(NOON))
        ProgressLog(tmp_path / "7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
        record.write_config(tmp_path / "7", {"purpose": "train"})

        looks = [records.newest(), records.newest(), records.newest()]

        assert [look.resumable for look in looks if look] == [True, False, False]

    def test_one_is_quiet_since_it_was_first_seen_though_the_superlink_was_away_then(self, tmp_path: Path) -> None:
        clock = MadeUpTime(NOON + DAY)
        answers = iter([Unavailable("away"), None])

        def asked(_: record.RunRecord) -> bool:
            if (trouble := next(answers)) is not None:
                raise trouble
            return False

        records = Records(tmp_path, asked, clock)
        ProgressLog(tmp_path / "7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
        with pytest.raises(Unavailable, match="away"):
            records.newest()
        clock.wait(60)

        found = records.newest()

        assert (found.quiet_since if found else 0) == NOON

    def test_one_that_is_held_is_alive_and_one_that_failed_is_not_interrupted(self, tmp_path: Path) -> None:
        records = Records(tmp_path, nobody_asks, MadeUpTime(NOON))
        ProgressLog(tmp_path / "7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))

        with record.hold(tmp_path / "7"):
            alive = records.newest()
        ProgressLog(tmp_path / "7").append(Failed("2030-05-01T11:30:00+00:00", "too few nodes", ""))

        assert (alive.state if alive else "") == "alive"
        failed = records.newest()
        assert (failed.state if failed else "", failed.quiet_since if failed else 1) == ("failed", 0)


def nobody_asks(found: record.RunRecord) -> bool:
    raise AssertionError(f"somebody asked who ended run {found.run}")


def configuration(directory: Path) -> Path:
    """The service's file, as the role renders it; there is no SuperLink."""
    path = directory / "retraining.toml"
    schedule = {"train_every": "", "train_at": "", "check_every": "1h", "drift_skill": 0.0, "drift_windows": 3}
    schedule |= {"retry_seconds": 300.0, "retry_most_seconds": 600.0, "grace_seconds": 120.0}
    values = {
        "schedule": schedule,
        "app_dir": str(Path(__file__).parents[3]),
        "flwr_home": str(directory / "flwr"),
        "connection": "fleet",
        "runs_dir": str(directory / "runs"),
        "state_dir": str(directory / "state"),
        "names_file": str(directory / "names.json"),
        "nodes": 2,
        "nodes_timeout_seconds": 1.0,
        "run_timeout_seconds": 100.0,
        "look_seconds": 30.0,
        "run_config": {"window": "20s", "seed": 7, "warm-start": False},
        "log_level": "info",
    }
    path.write_text(tomli_w.dumps(values))
    return path


class TestTheCommand:
    """Runs by the real `icosfl.fleet.rounds`."""

    @pytest.fixture
    def rounds(self, tmp_path: Path) -> RoundsCommand:
        return RoundsCommand(load(configuration(tmp_path), RetrainingConfig))

    def test_the_word_of_a_run_that_is_over_is_its_last(self, rounds: RoundsCommand, tmp_path: Path) -> None:
        finished = finished_event()
        ProgressLog(tmp_path / "runs/7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
        ProgressLog(tmp_path / "runs/7").append(finished)

        assert rounds.wait("7") == LastWord(finished.line, 0.2)

    def test_what_cannot_be_submitted_says_why(self, rounds: RoundsCommand) -> None:
        with pytest.raises(RunFailed, match=r"config\.toml") as caught:
            rounds.begin("check", "")

        assert caught.value.cure == "site.yml writes it"

    def test_it_says_that_it_lives_for_as_long_as_it_awaits_a_run(self, rounds: RoundsCommand, tmp_path: Path) -> None:
        config = replace(load(configuration(tmp_path), RetrainingConfig), look_seconds=0.05)
        signs: list[float] = []
        log = ProgressLog(tmp_path / "runs/7")
        log.append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))

        def live() -> None:
            signs.append(time.monotonic())
            if len(signs) == 3:
                log.append(finished_event())

        with record.hold(tmp_path / "runs/7"):
            over = RoundsCommand(config, live).wait("7")

        assert over.skill == 0.2
        assert len(signs) >= 3

    @pytest.mark.parametrize(("said", "kind"), [({"busy": True}, Busy), ({}, RunFailed)])
    def test_another_run_in_the_way_is_told_from_a_failure(
        self,
        rounds: RoundsCommand,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        said: dict[str, bool],
        kind: type[Exception],
    ) -> None:
        script = tmp_path / "rounds"
        script.write_text(f"#!/bin/sh\necho '{json.dumps({'error': 'run 50', 'cure': 'wait', **said})}'\nexit 11\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

        with pytest.raises(kind, match="run 50"):
            rounds.begin("train", "")

    def test_nothing_is_begun_once_it_was_told_to_end(self, rounds: RoundsCommand) -> None:
        rounds.stop()

        with pytest.raises(Stopped):
            rounds.begin("train", "")

    def test_a_call_that_is_ended_before_the_service_is_told_ends_the_service_and_is_no_failure(
        self, rounds: RoundsCommand, tmp_path: Path
    ) -> None:
        ProgressLog(tmp_path / "runs/7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
        own = psutil.Process()
        before = set(own.children())

        def end() -> None:
            deadline = time.monotonic() + 30
            while not (found := set(own.children()) - before) and time.monotonic() < deadline:
                time.sleep(0.01)
            for child in found:
                child.terminate()

        ender = threading.Thread(target=end)
        with record.hold(tmp_path / "runs/7"):
            ender.start()
            with pytest.raises(Stopped):
                rounds.wait("7")
        ender.join()


class Process:
    """The service as its process manager starts it."""

    def __init__(self, directory: Path) -> None:
        self.state = directory / "state" / STATE_FILE
        command = [sys.executable, "-m", "icosfl.fleet.retraining", "--config", str(configuration(directory))]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)

    def until_it_says(self, words: str) -> None:
        """Wait until its file has these words."""
        deadline = time.monotonic() + 30
        while not (self.state.exists() and words in self.state.read_text()):
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.05)

    def child(self) -> psutil.Process:
        """The process that awaits a run."""
        deadline = time.monotonic() + 30
        while not (found := psutil.Process(self.process.pid).children()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return found[0]


@pytest.fixture
def under_way(tmp_path: Path) -> Iterator[Path]:
    """A directory in which run 7 is under way, begun by the service."""
    ProgressLog(tmp_path / "runs/7").append(Started("2030-05-01T11:00:00+00:00", "7", 3, 1))
    StateFile(tmp_path / "state" / STATE_FILE).save(begun(Memory(), "train", "7"), "made up")
    with record.hold(tmp_path / "runs/7"):
        yield tmp_path


class TestTheProcess:
    def test_its_sleep_ends_at_once_when_it_is_told_to_end(self, tmp_path: Path) -> None:
        service = Process(tmp_path)
        service.until_it_says("train one")

        service.process.send_signal(signal.SIGTERM)

        _, said = service.process.communicate(timeout=20)
        assert service.process.returncode == 0, said

    def test_what_awaits_a_run_ends_with_it_and_the_run_is_still_to_be_awaited(self, under_way: Path) -> None:
        service = Process(under_way)
        service.until_it_says("await run 7")
        child = service.child()

        service.process.send_signal(signal.SIGTERM)

        _, said = service.process.communicate(timeout=20)
        assert service.process.returncode == 0, said
        assert not child.is_running()
        assert StateFile(service.state).read().under_way == UnderWay("train", "7")

    def test_when_its_whole_process_group_is_told_to_end_the_run_is_still_to_be_awaited(self, under_way: Path) -> None:
        service = Process(under_way)
        service.until_it_says("await run 7")
        child = service.child()

        os.killpg(service.process.pid, signal.SIGTERM)

        _, said = service.process.communicate(timeout=20)
        assert service.process.returncode == 0, said
        assert not child.is_running()
        memory = StateFile(service.state).read()
        assert (memory.under_way, memory.failures) == (UnderWay("train", "7"), 0)

    def test_killed_it_leaves_nobody_behind_and_goes_on_awaiting(self, under_way: Path) -> None:
        service = Process(under_way)
        service.until_it_says("await run 7")
        child = service.child()

        service.process.kill()
        service.process.communicate(timeout=20)

        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()
        ProgressLog(under_way / "runs/7").append(finished_event())
        again = Process(under_way)
        again.until_it_says("last training")
        again.process.terminate()
        again.process.communicate(timeout=20)
        memory = json.loads(again.state.read_text())["memory"]
        assert (memory["training"]["run"], memory["training"]["good"]) == ("7", True)


def finished_event() -> Finished:
    return Finished("2030-05-01T12:00:00+00:00", 3, ("a",), (), "d" * 64, 60.0, 3, 0.2, None, "")
