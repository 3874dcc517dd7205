"""`python -m icosfl.fleet.rounds`: submits a federated run and waits for its steps, on the controller's host.

Each call prints one JSON line on standard output: the event that was waited for with its words in `line`, or what
went wrong in `error` and `cure`; the exit code is then the error's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from icosfl.aggregate.progress import Event, Failed, Finished, Ready, RoundDone, read_progress
from icosfl.config import run_config
from icosfl.errors import ConfigError, IcosflError, NotReady, RunFailed, Unavailable
from icosfl.fleet.flower import Flower, RunStatus, Scalar
from icosfl.train.settings import TrainSettings

POLL_SECONDS = 0.25
# How long the progress file may stand still before the SuperLink is asked whether the run still lives.
STATUS_SECONDS = 10.0
# A SuperNode that lost its SuperLink tries again at the latest after 20 s.
NODES_SECONDS = 30.0
# A run has said its last word a moment before Flower holds it for over; one that goes on longer is another's.
ENDING_SECONDS = 10.0

Wanted = Callable[[Event], bool]


def wait_for(
    wanted: Wanted,
    directory: Path,
    status: Callable[[], RunStatus],
    timeout: float,
    look_every: float = STATUS_SECONDS,
) -> Event:
    """Block until the run in `directory` has told a wanted event.

    Args:
        wanted: Whether an event is the one.
        directory: Where the run writes its progress.
        status: Asks the SuperLink how the run stands; used while the progress stands still.
        timeout: Seconds at most.
        look_every: Seconds of standing still after which the status is asked for.

    Raises:
        RunFailed: the run failed, died, ended without the event, or took too long.
    """
    deadline = time.monotonic() + timeout
    told, next_look = 0, time.monotonic() + look_every
    over: RunStatus | None = None
    while True:
        events = read_progress(directory)
        found = _found(events, wanted)
        if found is not None:
            return found
        if over is not None:
            raise RunFailed(
                f"the run ended without a word ({over})", cure="`flwr log` on the controller has its last output"
            )
        now = time.monotonic()
        if now >= deadline:
            raise _too_long(events, timeout)
        if len(events) != told:
            told, next_look = len(events), now + look_every
        elif now >= next_look:
            over, next_look = _ended(status), time.monotonic() + look_every
        if over is None:
            time.sleep(POLL_SECONDS)


def _found(events: Sequence[Event], wanted: Wanted) -> Event | None:
    """The wanted event, or None while it may still come.

    Raises:
        RunFailed: the run says that it failed.
    """
    for event in events:
        if wanted(event):
            return event
        if isinstance(event, Failed):
            raise RunFailed(event.reason, cure=event.cure)
    return None


def _ended(status: Callable[[], RunStatus]) -> RunStatus | None:
    try:
        found = status()
    except Unavailable:
        return None  # a SuperLink that is being restarted; the run may well go on
    return found if found.over else None


def _too_long(events: Sequence[Event], timeout: float) -> RunFailed:
    last = events[-1].line if events else "nothing"
    return RunFailed(
        f"nothing came of the run within {timeout:g} s; the last word was: {last}",
        cure="look at `icosfl status`, then train again",
    )


def wait_for_nodes(online: Callable[[], int], expected: int, least: int, timeout: float) -> int:
    """Block until as many SuperNodes are online as are expected, or the time is over; returns how many are.

    Args:
        online: Asks the SuperLink.
        expected: How many there should be.
        least: How many a run needs, whatever is expected.
        timeout: Seconds at most.

    Raises:
        NotReady: there are still fewer than a run needs.
        Unavailable: the SuperLink still does not answer.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        try:
            count = online()
        except Unavailable:
            if late:
                raise
        else:
            if count >= expected or (late and count >= least):
                return count
            if late:
                raise NotReady(
                    f"{count} of {expected} SuperNodes are online, and a run needs {least}",
                    cure="look at `icosfl status`; site.yml starts the missing",
                )
        time.sleep(POLL_SECONDS)


def wait_for_turn(open_runs: Callable[[], Mapping[str, RunStatus]], cure: str, timeout: float) -> None:
    """Block until no run is under way: two at once would train the same nodes and overwrite each other's model.

    Args:
        open_runs: Asks the SuperLink which runs are not over.
        cure: What to do about one that is not; `{run}` stands for its id.
        timeout: Seconds at most.

    Raises:
        NotReady: there is still one.
        Unavailable: the SuperLink does not answer.
    """
    deadline = time.monotonic() + timeout
    while runs := open_runs():
        if time.monotonic() >= deadline:
            run_id, status = next(iter(runs.items()))
            raise NotReady(f"run {run_id} is under way ({status.status})", cure=cure.replace("{run}", run_id))
        time.sleep(POLL_SECONDS)


def parse_overrides(pairs: Sequence[str], file: Path | None) -> dict[str, Scalar]:
    """Values that override the run configuration: those of a TOML file, then KEY=VALUE pairs.

    A pair's value is read as TOML (3, 0.01, true, "text"); what is none is a text.

    Raises:
        ConfigError: a pair has no key, the file cannot be read, or a value is a list or a table.
    """
    values: dict[str, object] = _table(file) if file is not None else {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found or not key.strip():
            raise ConfigError(f"{pair!r} is no KEY=VALUE", cure="write for example num-server-rounds=5")
        values[key.strip()] = _toml_value(text.strip())
    return {key: _scalar(key, value) for key, value in values.items()}


def _table(file: Path) -> dict[str, object]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", cure="name an existing file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}", cure="correct the file") from error


def _toml_value(text: str) -> object:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _scalar(key: str, value: object) -> Scalar:
    if not isinstance(value, (bool, int, float, str)):
        raise ConfigError(f"{key}: must be a number, a text, true or false, not {value!r}", cure="correct the value")
    return value


def _submit(options: argparse.Namespace) -> dict[str, object]:
    flower = _flower(options)
    overrides = parse_overrides(options.config, options.config_file)
    settings = TrainSettings.from_run_config({**run_config(options.app), **overrides})
    online = wait_for_nodes(flower.online_nodes, options.expect_nodes, settings.min_nodes, options.timeout)
    stop = f"FLWR_HOME={options.flwr_home} flwr stop {{run}} {options.connection}"
    wait_for_turn(flower.open_runs, f"wait for its end, or end it on the controller: {stop}", ENDING_SECONDS)
    run_id = flower.submit(options.app, overrides)
    line = f"run {run_id} submitted, {online} of {options.expect_nodes} SuperNodes online"
    return {"run_id": run_id, "online": online, "rounds": settings.num_server_rounds, "line": line}


def _await(options: argparse.Namespace) -> dict[str, object]:
    directory = options.runs_dir / options.run_id
    flower = _flower(options)
    event = wait_for(_wanted(options), directory, lambda: flower.run_status(options.run_id), options.timeout)
    return {"run_id": options.run_id, **asdict(event), "line": event.line}


def _wanted(options: argparse.Namespace) -> Wanted:
    if options.ready:
        return lambda event: isinstance(event, Ready)
    if options.finish:
        return lambda event: isinstance(event, Finished)
    return lambda event: isinstance(event, RoundDone) and event.round == options.round


def _flower(options: argparse.Namespace) -> Flower:
    return Flower(options.flwr_home, options.connection)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m icosfl.fleet.rounds", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--connection", required=True, help="name of the SuperLink in Flower's config.toml")
    common.add_argument("--flwr-home", required=True, type=Path, help="Flower's home, which holds config.toml")

    submit = verbs.add_parser("submit", parents=[common], help="check the federation and submit a run")
    submit.add_argument("--app", required=True, type=Path, help="directory with the app's pyproject.toml")
    submit.add_argument("--expect-nodes", required=True, type=int, help="SuperNodes that should be online")
    submit.add_argument("--timeout", type=float, default=NODES_SECONDS, metavar="SECONDS", help="to wait for them")
    submit.add_argument("--config", action="append", default=[], metavar="KEY=VALUE", help="override one value")
    submit.add_argument("--config-file", type=Path, metavar="TOML", help="override the values of a file")
    submit.set_defaults(run=_submit)

    wait = verbs.add_parser("await", parents=[common], help="wait for a step of a run")
    wait.add_argument("--run-id", required=True)
    wait.add_argument("--runs-dir", required=True, type=Path, help="where runs write their progress")
    wait.add_argument("--timeout", required=True, type=float, metavar="SECONDS")
    step = wait.add_mutually_exclusive_group(required=True)
    step.add_argument("--ready", action="store_true", help="until the nodes have been asked")
    step.add_argument("--round", type=int, help="until this round's average is saved")
    step.add_argument("--finish", action="store_true", help="until the model is handed out")
    wait.set_defaults(run=_await)
    return parser


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def answer(arguments: Sequence[str] | None = None) -> dict[str, object]:
    """Do what the arguments ask for; returns what was waited for, with its words in `line`.

    Raises:
        IcosflError: why nothing came of it.
    """
    options = _parser().parse_args(arguments)
    result: dict[str, object] = options.run(options)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        _say(answer(arguments))
    except IcosflError as error:
        _say({"error": error.message, "cure": error.cure, "line": str(error)})
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
