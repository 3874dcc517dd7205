"""Flower's command line: which nodes are online, submit a run, how a run stands.

All of this side that depends on Flower's version (1.30) is here; what it answers is read from its JSON only.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from icosfl.config import search_path
from icosfl.errors import RunFailed, Unavailable, UserError

# Nothing is reported to anyone, and what is said is UTF-8 wherever it is said.
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}

COMMAND_SECONDS = 60.0

_FINISHED = "finished:"
_UNREACHABLE = "unavailable"

Scalar = bool | int | float | str


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How a run stands: pending, starting, running, or finished:completed, finished:failed, finished:stopped."""

    status: str
    details: str

    @property
    def over(self) -> bool:
        """Whether nothing will come of the run any more."""
        return self.status.startswith(_FINISHED)

    def __str__(self) -> str:
        return f"{self.status.removeprefix(_FINISHED)}: {self.details}" if self.details else self.status


@dataclass(frozen=True, slots=True)
class Flower:
    """The `flwr` command of this Python environment, for one SuperLink.

    Args:
        home: Flower's home, with the connection in its `config.toml`.
        connection: The connection's name there.
    """

    home: Path
    connection: str

    def online_nodes(self) -> int:
        """How many SuperNodes the SuperLink holds for online; one that was killed counts for up to a minute.

        Raises:
            Unavailable: the SuperLink does not answer.
        """
        nodes = self._ask("supernode", "list", self.connection).get("nodes")
        return sum(_text(node, "status") == "online" for node in _dicts(nodes))

    def submit(self, app: Path, overrides: Mapping[str, Scalar]) -> str:
        """Submit the app in the directory `app` with values that override its run configuration; returns the run's id.

        Raises:
            UserError: the app or an override is wrong.
            Unavailable: the SuperLink does not answer.
        """
        with tempfile.TemporaryDirectory(prefix="icosfl-") as scratch:
            file = Path(scratch) / "overrides.toml"
            file.write_text(tomli_w.dumps(dict(overrides)), encoding="utf-8")
            answer = self._ask("run", str(app), self.connection, "--run-config", str(file))
        return _text(answer, "run-id")

    def open_runs(self) -> dict[str, RunStatus]:
        """The runs that are not over, by their ids.

        Raises:
            Unavailable: the SuperLink does not answer.
        """
        runs = {_text(run, "run-id"): _status(run) for run in _dicts(self._ask("ls", self.connection).get("runs"))}
        return {run_id: status for run_id, status in runs.items() if not status.over}

    def run_status(self, run_id: str) -> RunStatus:
        """How a run stands.

        Raises:
            Unavailable: the SuperLink does not answer.
            UserError: it knows no such run.
        """
        runs = _dicts(self._ask("ls", self.connection, "--run-id", run_id).get("runs"))
        if not runs:
            raise _strange("`flwr ls` lists no run")
        return _status(runs[0])

    def _ask(self, *arguments: str) -> dict[str, object]:
        command = ["flwr", *arguments, "--format", "json"]
        environment = {**ENVIRONMENT, "PATH": search_path(), "FLWR_HOME": str(self.home)}
        try:
            done = subprocess.run(  # noqa: S603 (a fixed program, arguments without a shell)
                command, env=environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
            )
        except FileNotFoundError as error:
            raise UserError("the program flwr is missing", cure="run `make setup`, or site.yml") from error
        except subprocess.TimeoutExpired as error:
            raise self._unavailable(f"`flwr {arguments[0]}` took longer than {COMMAND_SECONDS:.0f} s") from error
        answer = _answer(done.stdout)
        if answer is None:
            raise _strange(_last_line(done.stderr or done.stdout) or f"exit code {done.returncode}")
        if answer.get("success") is not True:
            raise self._refused(_text(answer, "error-message"))
        return answer

    def _refused(self, message: str) -> UserError | Unavailable:
        said = _last_line(message)
        if _UNREACHABLE in said:
            return self._unavailable("it cannot be reached")
        return UserError(f"Flower refuses: {said}", cure="correct the run configuration or the connection")

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(
            f"the SuperLink of connection {self.connection} does not answer: {why}",
            cure="look at `icosfl status`; site.yml starts it",
        )


def _answer(output: str) -> dict[str, object] | None:
    """The JSON object at the end of what `flwr` printed."""
    start = output.find("{")
    try:
        answer = json.loads(output[start:]) if start >= 0 else None
    except json.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) else None


def _status(run: Mapping[str, object]) -> RunStatus:
    details = _text(run, "status-details")
    return RunStatus(_text(run, "status"), "" if details == "N/A" else details)


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise _strange(f"{key} is missing")
    return value


def _dicts(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _strange("a list is missing")
    return value


def _strange(what: str) -> RunFailed:
    return RunFailed(f"`flwr` answers otherwise than expected: {what}", cure="use the locked environment (flwr 1.30)")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
