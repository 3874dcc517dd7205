"""`python -m icosfl.fleet.rounds`: submits a federated run and waits for its steps, on the controller's host.

Each call prints one JSON line on standard output: what was waited for with its words in `line`, or what went wrong in
`error` and `cure`, with `busy` where another run is in the way; the exit code is then the error's. What happens
meanwhile is told on standard error, and in `told`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from icosfl.aggregate.names import write_names
from icosfl.aggregate.progress import Event, Finished, RoundDone, Stopped
from icosfl.aggregate.report import REPORT_FILE
from icosfl.aggregate.settings import RESUME, RunSettings
from icosfl.config import run_config
from icosfl.errors import Busy, ConfigError, IcosflError
from icosfl.fleet.attendance import Attendance, attendance, wait_for_nodes
from icosfl.fleet.awaiting import Step, await_end, until_finish, until_ready, until_round, wait_for
from icosfl.fleet.flower import Flower, Scalar
from icosfl.fleet.registry import read_names
from icosfl.fleet.resumption import AUTO, NEVER, NEWEST
from icosfl.fleet.submission import Reviver, Site, submit

# A SuperNode that lost its SuperLink tries again at the latest after 20 s.
NODES_SECONDS = 30.0
# How often in a row a run whose ServerApp died is resumed while it completes no round.
MOST_RESUMES = 3
# How long a run that is over may draw its report.
REPORT_SECONDS = 20.0

Tell = Callable[[str], None]


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


def _submit(options: argparse.Namespace, tell: Tell) -> dict[str, object]:
    flower = _flower(options)
    overrides, resume = _wanted(options)
    settings = RunSettings.from_run_config({**run_config(options.app), **overrides})
    found = wait_for_nodes(lambda: _look(flower, options), settings.train.min_nodes, options.timeout, tell)
    if options.runs_dir is not None:
        write_names(options.runs_dir, found.names)
    done = submit(Site(flower, options.app, options.runs_dir), overrides, resume, tell)
    return {
        "run_id": done.run,
        "flower_run": done.flower_run,
        "online": found.online,
        "missing": list(found.missing),
        "round": done.round,
        "rounds": done.rounds,
        "line": f"{done.line}, {found.line}",
    }


def _wanted(options: argparse.Namespace) -> tuple[dict[str, Scalar], str]:
    """The overrides, and which run to go on with.

    Raises:
        ConfigError: an override is wrong.
    """
    overrides = parse_overrides(options.config, options.config_file)
    named = overrides.pop(RESUME, "")
    if options.fresh:
        return {**overrides, "warm-start": False}, NEVER
    return overrides, str(named) or options.resume


def _look(flower: Flower, options: argparse.Namespace) -> Attendance:
    keys = read_names(options.names_file) if options.names_file is not None else {}
    return attendance(flower.nodes(), keys, options.expect_nodes)


def _await(options: argparse.Namespace, tell: Tell) -> dict[str, object]:
    directory, flower = options.runs_dir / options.run_id, _flower(options)
    revive = None
    if options.app is not None:
        revive = Reviver(Site(flower, options.app, options.runs_dir), directory, options.resumes, tell)
    event = wait_for(_step(options), directory, flower.run_status, options.timeout, revive=revive, tell=tell)
    report = directory / REPORT_FILE
    answer = {"run_id": options.run_id, **asdict(event), "line": _line(event, options.round)}
    if isinstance(event, Finished) and await_end(directory, report, REPORT_SECONDS):
        answer |= {"page": str(report), "line": f"{event.line}\nreport on the controller: {report}"}
    return answer


def _step(options: argparse.Namespace) -> Step:
    if options.ready:
        return until_ready
    return until_finish if options.finish else until_round(options.round)


def _line(event: Event, wanted: int | None) -> str:
    """The event in words; of the rounds that an early stop saves only the first tells of it."""
    if wanted is None or isinstance(event, RoundDone):
        return event.line
    if isinstance(event, Stopped) and wanted == event.round + 1:
        return event.line
    return f"round {wanted}: not needed"


def _flower(options: argparse.Namespace) -> Flower:
    return Flower(options.flwr_home, options.connection)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m icosfl.fleet.rounds", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--connection", required=True, help="name of the SuperLink in Flower's config.toml")
    common.add_argument("--flwr-home", required=True, type=Path, help="Flower's home, which holds config.toml")

    send = verbs.add_parser("submit", parents=[common], help="check the federation and submit a run")
    send.add_argument("--app", required=True, type=Path, help="directory with the app's pyproject.toml")
    send.add_argument("--expect-nodes", required=True, type=int, help="SuperNodes that should be online")
    send.add_argument("--timeout", type=float, default=NODES_SECONDS, metavar="SECONDS", help="to wait for them")
    send.add_argument("--config", action="append", default=[], metavar="KEY=VALUE", help="override one value")
    send.add_argument("--config-file", type=Path, metavar="TOML", help="override the values of a file")
    send.add_argument("--runs-dir", type=Path, help="where runs write their progress; without it none is gone on with")
    send.add_argument("--names-file", type=Path, help="names and keys of the SuperNodes; without it they are numbers")
    send.add_argument(
        "--resume",
        default=AUTO,
        metavar="RUN",
        help=f"go on with this run, or with the {NEWEST}; {NEVER}; by default {AUTO}: with the newest if it is the "
        "wanted one and was interrupted",
    )
    send.add_argument("--fresh", action="store_true", help="go on with no run and from no model")
    send.set_defaults(run=_submit)

    wait = verbs.add_parser("await", parents=[common], help="wait for a step of a run")
    wait.add_argument("--run-id", required=True)
    wait.add_argument("--runs-dir", required=True, type=Path, help="where runs write their progress")
    wait.add_argument("--timeout", required=True, type=float, metavar="SECONDS")
    wait.add_argument("--app", type=Path, help="the app, so that a run goes on whose ServerApp died; else it fails")
    wait.add_argument("--resumes", type=int, default=MOST_RESUMES, help="how often in a row, with no round between")
    step = wait.add_mutually_exclusive_group(required=True)
    step.add_argument("--ready", action="store_true", help="until the nodes have been asked")
    step.add_argument("--round", type=int, help="until this round's average is saved")
    step.add_argument("--finish", action="store_true", help="until the model is handed out")
    wait.set_defaults(run=_await)
    return parser


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def _complain(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def answer(arguments: Sequence[str] | None = None, tell: Tell = lambda _: None) -> dict[str, object]:
    """Do what the arguments ask for; returns what was waited for, with its words in `line`.

    Args:
        arguments: As on the command line.
        tell: Is told, line by line and as it happens, of missing hosts and of runs that were resumed.

    Raises:
        IcosflError: why nothing came of it.
    """
    options = _parser().parse_args(arguments)
    told: list[str] = []

    def both(line: str) -> None:
        told.append(line)
        tell(line)

    result: dict[str, object] = options.run(options, both)
    return {**result, "told": told}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        _say(answer(arguments, _complain))
    except IcosflError as error:
        busy = {"busy": True} if isinstance(error, Busy) else {}
        _say({"error": error.message, "cure": error.cure, "line": str(error), **busy})
        _complain(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
