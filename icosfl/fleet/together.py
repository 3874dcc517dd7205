"""`python -m icosfl.fleet.together -- PROGRAM ARGUMENTS… -- PROGRAM ARGUMENTS…`: programs that live and die together.

A SuperNode and its executor need it: when the executor, or the ClientApp that it started, is ended while a message is
at work, Flower 1.30's SuperNode waits for that reply for ever, stays listed as online, and takes no other message. So
the end of one program ends the others, and the process manager starts all of them anew.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence

from icosfl.errors import ConfigError, IcosflError, RunFailed
from icosfl.logs import set_up_logging

GRACE_SECONDS = 5.0

_SEPARATOR = "--"
_PR_SET_PDEATHSIG = 1

logger = logging.getLogger(__name__)


def split(arguments: Sequence[str]) -> list[list[str]]:
    """The programs with their arguments, each after a `--`.

    Raises:
        ConfigError: there is none, or one is empty.
    """
    programs: list[list[str]] = []
    for argument in arguments:
        if argument == _SEPARATOR:
            programs.append([])
        elif programs:
            programs[-1].append(argument)
        else:
            raise ConfigError(f"{argument!r} stands before the first {_SEPARATOR}", cure="put -- before each program")
    if not programs or not all(programs):
        raise ConfigError("a program is missing", cure="put -- before each program")
    return programs


async def run(programs: Sequence[Sequence[str]], grace: float = GRACE_SECONDS) -> None:
    """Run the programs until this process is told to stop, or until one of them ends; then end the others.

    Args:
        programs: Each with its arguments.
        grace: Seconds that a program has to end after SIGTERM, before SIGKILL.

    Raises:
        RunFailed: a program ended by itself; the message says which, and how.
        ConfigError: a program cannot be started.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    started: list[Process] = []
    try:
        for program in programs:
            started.append(await _start(program))  # noqa: PERF401 (what has started must end, if the next cannot)
        ended = await _first_end(started, stop)
        if ended is not None:
            raise RunFailed(f"{programs[ended][0]} ended with {_how(started[ended])}", cure="its log says why")
    finally:
        await asyncio.gather(*(_end(process, grace) for process in started))


async def _start(program: Sequence[str]) -> Process:
    own = os.getpid()
    try:
        return await asyncio.create_subprocess_exec(*program, preexec_fn=lambda: die_with(own))
    except OSError as error:
        raise ConfigError(f"{program[0]} cannot be started: {error.strerror}", cure="run site.yml") from error


async def _first_end(processes: Sequence[Process], stop: asyncio.Event) -> int | None:
    """The index of the program that ended, or None when this process was told to stop."""
    waits = [asyncio.ensure_future(process.wait()) for process in processes]
    stopping = asyncio.ensure_future(stop.wait())
    done, pending = await asyncio.wait([*waits, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if stopping in done:
        return None
    return next(index for index, wait in enumerate(waits) if wait in done)


async def _end(process: Process, grace: float) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), grace)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def die_with(parent: int) -> None:
    """Runs in a new process: Linux kills it when its parent dies, even by SIGKILL.

    Args:
        parent: The parent's process id, asked before.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _how(process: Process) -> str:
    code = process.returncode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m icosfl.fleet.together", description=__doc__)
    parser.add_argument("programs", nargs=argparse.REMAINDER, help="-- PROGRAM ARGUMENTS… for each")
    set_up_logging("info")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] != [_SEPARATOR]:
            parser.parse_args(given)
        asyncio.run(run(split(given)))
    except IcosflError as error:
        logger.error("%s", error)  # noqa: TRY400 (the message says it all)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
