"""Flower's command line and Control API: which nodes there are and may be, submit and stop a run, how runs stand.

All of this side that depends on Flower's version (1.30) is here. Each call of the command costs two seconds of
processor time, so it only submits, which means building the app; what it answers is read from its JSON. All else goes
through the API that the command uses, too.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from icosfl.config import search_path
from icosfl.errors import RunFailed, Unavailable, UserError

# Nothing is reported to anyone, and what is said is UTF-8 wherever it is said.
ENVIRONMENT = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}

COMMAND_SECONDS = 60.0
CALL_SECONDS = 10.0

_FINISHED = "finished:"
_STOPPED = "finished:stopped"
_NOT_HEARD = "heartbeat"
_UNREACHABLE = "unavailable"
_KEY_IN_USE = "already in use"

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

    @property
    def stopped(self) -> bool:
        """Whether somebody ended the run."""
        return self.status == _STOPPED

    @property
    def cut_off(self) -> bool:
        """Whether the SuperLink gave the run up, because it did not hear of its ServerApp any more, or forgot it."""
        return self.over and (_NOT_HEARD in self.details.lower() or self == UNKNOWN)

    def __str__(self) -> str:
        return f"{self.status.removeprefix(_FINISHED)}: {self.details}" if self.details else self.status


# How a run stands that the SuperLink does not know any more: its database was lost, and with it the run's end.
UNKNOWN = RunStatus("finished:failed", "the SuperLink does not know it")


@dataclass(frozen=True, slots=True)
class Node:
    """A SuperNode that the SuperLink knows.

    Args:
        node_id: Flower's number of it.
        status: registered (never seen), online or offline.
        public_key: Its key, as PEM.
    """

    node_id: int
    status: str
    public_key: str

    @property
    def online(self) -> bool:
        """Whether it takes part; one that was killed counts as online for up to a minute."""
        return self.status == "online"


class UnknownToFlower(UserError):
    """A run or a SuperNode that the SuperLink does not know, or not any more."""


class KeyRevoked(UserError):
    """A SuperNode's key that was unregistered once: Flower never takes it again."""


@dataclass(frozen=True, slots=True)
class Flower:
    """One SuperLink, by the `flwr` command of this Python environment and by its Control API.

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
        return sum(node.online for node in self.nodes())

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
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._control() as control:
            found = control.ListRuns(ListRunsRequest(), timeout=CALL_SECONDS).run_dict
        runs = {str(number): _status(run) for number, run in found.items()}
        return {run_id: status for run_id, status in runs.items() if not status.over}

    def run_status(self, run_id: str) -> RunStatus:
        """How a run stands.

        Raises:
            Unavailable: the SuperLink does not answer.
            UnknownToFlower: it knows no such run.
            UserError: `run_id` is no number.
        """
        from flwr.proto.control_pb2 import ListRunsRequest

        number = _number(run_id)
        with self._control() as control:
            found = control.ListRuns(ListRunsRequest(run_id=number), timeout=CALL_SECONDS).run_dict
        return _status(found[number])

    def stop(self, run_id: str) -> None:
        """End a run; one that is over already stays as it is.

        Raises:
            Unavailable: the SuperLink does not answer.
            UserError: it knows no such run.
            RunFailed: it does not end it.
        """
        from flwr.proto.control_pb2 import StopRunRequest

        try:
            with self._control() as control:
                done = control.StopRun(StopRunRequest(run_id=_number(run_id)), timeout=CALL_SECONDS).success
        except UserError:
            done = self.run_status(run_id).over
            if not done:
                raise
        if not done:
            raise RunFailed(f"Flower does not end run {run_id}", cure="look at the SuperLink's log")

    def nodes(self) -> tuple[Node, ...]:
        """The SuperNodes that are registered, whether they are online or not.

        Raises:
            Unavailable: the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListNodesRequest

        with self._control() as control:
            found = control.ListNodes(ListNodesRequest(), timeout=CALL_SECONDS).nodes_info
        return tuple(
            Node(int(node.node_id), str(node.status), node.public_key.decode())
            for node in found
            if node.status != "unregistered"
        )

    def register(self, public_key: str) -> None:
        """Let the SuperNode with this key (PEM) take part from now on; one that may already stays as it is.

        Raises:
            KeyRevoked: the key was unregistered once.
            UserError: the SuperLink refuses the key.
            Unavailable: the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest

        try:
            with self._control() as control:
                control.RegisterNode(RegisterNodeRequest(public_key=public_key.encode()), timeout=CALL_SECONDS)
        except UserError as error:
            if _KEY_IN_USE not in error.message:
                raise
            if public_key not in {node.public_key for node in self.nodes()}:
                raise KeyRevoked("this key was unregistered once", cure="let the node make a new one") from error

    def unregister(self, node_id: int) -> None:
        """Refuse a SuperNode from now on.

        Raises:
            UserError: the SuperLink knows no such node.
            Unavailable: the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        with self._control() as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node_id), timeout=CALL_SECONDS)

    @contextlib.contextmanager
    def _control(self) -> Iterator[Any]:
        """Flower's Control API at the connection's address; its errors are translated."""
        import grpc
        from flwr.proto.control_pb2_grpc import ControlStub

        address, root = self._where()
        credentials = grpc.ssl_channel_credentials(root)
        try:
            with grpc.secure_channel(address, credentials) as channel:
                yield ControlStub(channel)
        except grpc.RpcError as error:
            code, details = error.code(), str(error.details())
            if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise self._unavailable(_last_line(details)) from error
            kind = UnknownToFlower if code == grpc.StatusCode.NOT_FOUND else UserError
            raise kind(f"Flower refuses: {details}", cure="look at the SuperLink's log") from error

    def _where(self) -> tuple[str, bytes]:
        """The address of the connection, and the CA certificate that its SuperLink is known by."""
        file = self.home / "config.toml"
        cure = "site.yml writes it"
        try:
            connection = tomllib.loads(file.read_text(encoding="utf-8"))["superlink"][self.connection]
            return str(connection["address"]), Path(connection["root-certificates"]).read_bytes()
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{file} or its root-certificates cannot be read: {error}", cure=cure) from error
        except (KeyError, TypeError) as error:
            raise UserError(f"{file} has no connection {self.connection} with TLS", cure=cure) from error

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


def _status(run: Any) -> RunStatus:
    told = run.status
    return RunStatus(f"{told.status}:{told.sub_status}" if told.sub_status else told.status, told.details)


def _number(run_id: str) -> int:
    if not run_id.isdecimal():
        raise UserError(f"{run_id!r} is no number of a run", cure="use one that `flwr ls` lists")
    return int(run_id)


def _text(data: Mapping[str, object], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str):
        raise _strange(f"{key} is missing")
    return value


def _strange(what: str) -> RunFailed:
    return RunFailed(f"`flwr` answers otherwise than expected: {what}", cure="use the locked environment (flwr 1.30)")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
