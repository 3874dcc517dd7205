from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet.together import split

WAIT = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(__import__('os').getpid())); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"


class Couple:
    """Two programs under `icosfl.fleet.together`, each of which notes its process id."""

    def __init__(self, directory: Path, *codes: str) -> None:
        self.files = [directory / f"pid-{index}" for index in range(len(codes))]
        command = [sys.executable, "-m", "icosfl.fleet.together"]
        for code, file in zip(codes, self.files, strict=True):
            command += ["--", sys.executable, "-c", code, str(file)]
        self.launcher = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.pids = [self._pid(file) for file in self.files]

    @staticmethod
    def _pid(file: Path) -> int:
        end = time.monotonic() + 20
        while not (file.exists() and file.read_text()):
            assert time.monotonic() < end, "the program did not start"
            time.sleep(0.02)
        return int(file.read_text())

    def gone(self) -> bool:
        """Whether all programs end, and soon."""
        end = time.monotonic() + 20
        while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in self.pids):
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def couple(tmp_path: Path) -> Iterator[Couple]:
    both = Couple(tmp_path, WAIT, WAIT)
    yield both
    both.launcher.kill()
    both.launcher.communicate()


@pytest.mark.parametrize("which", [0, 1])
def test_when_one_program_is_killed_the_other_ends_and_the_launcher_says_who_began(couple: Couple, which: int) -> None:
    os.kill(couple.pids[which], signal.SIGKILL)

    assert couple.launcher.wait(20) == RunFailed.exit_code
    assert couple.gone()
    assert couple.launcher.stderr is not None
    assert "ended with signal 9" in couple.launcher.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_the_launcher_stops_both(couple: Couple, number: signal.Signals) -> None:
    couple.launcher.send_signal(number)

    assert couple.launcher.wait(20) == 0
    assert couple.gone()


def test_killing_the_launcher_kills_both(couple: Couple) -> None:
    couple.launcher.kill()

    assert couple.gone()


def test_a_program_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    couple = Couple(tmp_path, WAIT, STUBBORN)

    couple.launcher.terminate()

    assert couple.launcher.wait(20) == 0
    assert couple.gone()
    couple.launcher.communicate()


def test_a_program_that_cannot_be_started_ends_those_that_were(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "icosfl.fleet.together", "--", "sleep", "60", "--", str(tmp_path / "none")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == ConfigError.exit_code
    assert "cannot be started: No such file" in done.stderr


def test_programs_stand_each_behind_two_dashes() -> None:
    assert split(["--", "a", "--x=1", "--", "b"]) == [["a", "--x=1"], ["b"]]


@pytest.mark.parametrize("arguments", [[], ["--"], ["a", "--", "b"], ["--", "a", "--"]])
def test_a_missing_program_is_an_error(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        split(arguments)
