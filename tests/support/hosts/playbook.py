"""Playbooks of this project, run on a fleet as an operator runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.hosts.machine import PROJECT

SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a playbook came to."""

    code: int
    output: str

    def counts(self, host: str) -> dict[str, int]:
        """What the recap says of a host: ok, changed, unreachable, failed and so on."""
        (line,) = re.findall(rf"^{re.escape(host)} +: (.*)$", self.output, re.MULTILINE)
        return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}

    def said(self, host: str) -> str:
        """What the play was told when it failed on a host: its problems, a line each."""
        return "\n".join(re.findall(rf"^(?:\[ERROR\]: .*?: )?({re.escape(host)}: .*)$", self.output, re.MULTILINE))


def run(playbook: str, inventory: Path, *options: str) -> Ran:
    """Run a playbook to its end."""
    done = subprocess.run(
        _command(playbook, inventory, *options),
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        env=_environment(),
        timeout=SECONDS,
    )
    return Ran(done.returncode, done.stdout)


def cut_off(playbook: str, inventory: Path, log: Path, when: Callable[[], bool], *options: str) -> str:
    """Run a playbook and end all of its processes with SIGKILL as soon as something is so; returns what it said."""
    with log.open("w", encoding="utf-8") as output:
        running = psutil.Popen(
            _command(playbook, inventory, *options),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env=_environment(),
        )
        deadline = time.monotonic() + SECONDS
        try:
            while not when():
                assert running.poll() is None, f"it ended before it was cut off:\n{log.read_text(encoding='utf-8')}"
                assert time.monotonic() < deadline, f"it went on for too long:\n{log.read_text(encoding='utf-8')}"
                time.sleep(0.1)
        finally:
            # Ansible's workers have sessions of their own: a signal to the group would leave them working
            for process in _family(running):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            running.wait()
    return log.read_text(encoding="utf-8")


def _family(process: psutil.Popen) -> list[psutil.Process]:
    """A process and all that descend from it; none when it has ended by itself."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _command(playbook: str, inventory: Path, *options: str) -> list[str]:
    return ["ansible-playbook", str(PROJECT / playbook), "-i", str(inventory), *options]


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # pytest may run without our programs on it
    return {**os.environ, "PATH": path, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
