"""Runs the fleet's playbooks through ansible-runner: every event becomes a step for a display and a line of a log.

Only this module knows ansible-runner.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from icosfl.config import search_path
from icosfl.errors import RunFailed
from icosfl.fleet.events import Failure, HostRecap, Step, Tally, interpret, strip_colour
from icosfl.fleet.guarded import translated
from icosfl.fleet.interrupts import Interrupts
from icosfl.fleet.inventory import environment_of

LOGS_KEPT = 20
POLL_SECONDS = 0.25
INTERRUPTED = 130


class Display(Protocol):
    """Shows a playbook as it runs."""

    def show(self, step: Step, tally: Tally) -> None:
        """Show a step; the tally has counted it already."""

    def tick(self) -> None:
        """Move what turns: called a few times a second, from the thread that runs the playbook."""


@dataclass(frozen=True, slots=True)
class PlaybookResult:
    """How a playbook ended.

    Args:
        playbook: Its name, for example `site`.
        status: ok, failed or interrupted.
        hosts: How many tasks ended how, by host; empty when the playbook broke before its end.
        failures: Why hosts stopped; host "" stands for the playbook itself.
        lines: What its tasks said to a person.
        reports: What its last task that says something to a program said, by host.
        seconds: How long it ran.
        log: Ansible's whole output; None when there is nothing to look up.
    """

    playbook: str
    status: Literal["ok", "failed", "interrupted"]
    hosts: tuple[HostRecap, ...]
    failures: tuple[Failure, ...]
    lines: tuple[str, ...]
    seconds: float
    log: Path | None
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The process exit code that this result means."""
        return {"ok": 0, "failed": RunFailed.exit_code, "interrupted": INTERRUPTED}[self.status]

    @property
    def changed(self) -> int:
        """How many tasks changed something."""
        return sum(host.changed for host in self.hosts)


@dataclass(slots=True)
class _Run:
    """One playbook while it runs: takes ansible-runner's events and keeps what they amount to."""

    display: Display
    log: IO[str]
    tally: Tally = field(default_factory=Tally)
    interrupts: Interrupts = field(default_factory=Interrupts)
    loose: list[str] = field(default_factory=list)

    def take(self, event: dict[str, Any]) -> bool:
        """Take one event; false tells ansible-runner not to keep it as a file."""
        text = strip_colour(str(event.get("stdout") or "")).replace("\r", "")
        if text:
            with suppress(OSError):  # a full disk: the playbook itself says so
                self.log.write(text + "\n")
                self.log.flush()
        if event.get("event") == "verbose":
            self.loose.append(text)
        elif self.interrupts.pid is None and event.get("pid"):
            self.interrupts.pid = int(event["pid"])
        step = interpret(event)
        if step is not None:
            self.tally.add(step)
            self.display.show(step, self.tally)
        return False

    def stop(self) -> bool:
        """Whether ansible-runner shall kill the playbook now."""
        self.display.tick()
        return self.interrupts.kill()


@dataclass(frozen=True, slots=True)
class Playbook:
    """Which playbook to run on what.

    Args:
        name: Of `playbooks/<name>.yml` in the project.
        inventory: The hosts.
        project: The directory that holds site.yml.
        variables: Extra variables.
        limit: A pattern of hosts; None means all.
        keep_logs: False removes all logs of this inventory when it ends well, for it removes all else.
    """

    name: str
    inventory: Path
    project: Path
    variables: Mapping[str, Any] = field(default_factory=dict)
    limit: str | None = None
    keep_logs: bool = True

    @property
    def file(self) -> Path:
        """The playbook's file."""
        return self.project / "playbooks" / f"{self.name}.yml"


def run_playbook(playbook: Playbook, display: Display) -> PlaybookResult:
    """Run a playbook and return how it ended.

    Ansible's output goes to a log file under the project's `.state`, not to the terminal.

    Raises:
        RunFailed: there is no such playbook, the log cannot be written, ansible-runner cannot work, or it was killed.
    """
    if not playbook.file.is_file():
        raise RunFailed(f"{playbook.file} does not exist", cure="run icosfl in a complete checkout")
    log = _log_file(playbook)
    started = time.monotonic()
    with translated(log), _private_log(log) as stream:
        run = _Run(display, stream)
        with run.interrupts.caught(), tempfile.TemporaryDirectory(prefix="icosfl-") as private:
            code = _ansible(playbook, private, run)
    status: Literal["ok", "failed", "interrupted"] = "ok" if code == 0 else "failed"
    if run.interrupts.count:
        status = "interrupted"
    if status == "ok" and not playbook.keep_logs:
        _remove(log.parent, playbook.project / ".state")
    return PlaybookResult(
        playbook=playbook.name,
        status=status,
        hosts=run.tally.recap,
        failures=_failures(run) if status == "failed" else (),
        lines=tuple(run.tally.lines),
        seconds=time.monotonic() - started,
        log=log if log.exists() else None,
        reports=dict(run.tally.reports),
    )


def _ansible(playbook: Playbook, private: str, run: _Run) -> int:
    import ansible_runner

    result = ansible_runner.run(
        private_data_dir=private,
        project_dir=str(playbook.project),
        playbook=str(playbook.file),
        inventory=str(playbook.inventory),
        extravars=dict(playbook.variables),
        limit=playbook.limit,
        quiet=True,
        event_handler=run.take,
        cancel_callback=run.stop,
        settings={"pexpect_timeout": POLL_SECONDS},
        envvars={
            "PATH": search_path(),
            "ANSIBLE_CONFIG": str(playbook.project / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would turn it off
        },
    )
    if result.rc is None and not run.interrupts.count:
        raise RunFailed(f"somebody killed ansible-playbook while it ran {playbook.name}", cure="run the command again")
    return INTERRUPTED if result.rc is None else int(result.rc)


def _failures(run: _Run) -> tuple[Failure, ...]:
    if run.tally.failures:
        return tuple(run.tally.failures)
    text = "\n".join(line for line in run.loose if line.strip())
    start = max(text.rfind("[ERROR]"), text.rfind("ERROR!"), 0)
    message = "\n".join(text[start:].splitlines()[:8]) or "Ansible ended without a word"
    return (Failure("", run.tally.play, run.tally.task, message.removeprefix("[ERROR]: ")),)


@contextmanager
def _private_log(path: Path) -> Iterator[IO[str]]:
    """Write a file that only its owner may read, for Ansible's output may tell more than it should."""
    path.touch(mode=0o600)
    stream = path.open("w", encoding="utf-8")
    try:
        yield stream
    finally:
        with suppress(OSError):
            stream.close()


def _log_file(playbook: Playbook) -> Path:
    folder = playbook.project / ".state" / environment_of(playbook.inventory) / "ansible"
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob(f"{playbook.name}-*.log"))[: -(LOGS_KEPT - 1)]:
            old.unlink(missing_ok=True)  # another command may tidy up, too
    return folder / f"{playbook.name}-{stamp}.log"


def _remove(logs: Path, root: Path) -> None:
    """Remove the logs, and the folders above them up to `root` that are empty then."""
    shutil.rmtree(logs)
    for folder in (logs.parent, root):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
