"""`python -m icosfl.fleet.warm`: a process that has loaded what ClientApps load, and becomes one whenever it is asked.

Flower 1.30 starts a program for each message, and each loads Flower, NumPy and torch anew: two to six seconds of a
core, at each round, on each node. This process loads them once. Its parent is the executor (`icosfl.fleet.starter`),
which asks over a socket; for each request it forks, twice, so that the ClientApp is the executor's child and outlives
this process. It ends when the executor does, or when nothing was asked of it for a while: an idle node holds no torch.

It loads in stages and serves between them, so that the first message of a run, which only asks how the node stands,
need not wait for torch. Only its main thread ever runs: a fork takes no other thread along. A ClientApp begins without
the modules of the installed icosfl: it imports those of the app that the SuperLink sent.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from icosfl.errors import RunFailed

READY = b"ready"
STARTED = b"started "  # and the process id
REQUEST_BYTES = 65536

# What a ClientApp does not hear: Flower would end it with exit code 0 and no reply, and its SuperNode would wait for it
# for ever. SIGINT is heard: by it Flower ends a ClientApp whose executor has ended.
UNHEARD = frozenset({signal.SIGTERM, signal.SIGQUIT})

# What ClientApps load, in the order in which they need it.
STAGES = (
    ("flwr.supernode.cli", "icosfl.train.client_app", "icosfl.store.dataclay", "icosfl.store.memory"),
    ("icosfl.train.evaluation", "icosfl.train.loop", "icosfl.train.model"),
)

_OURS = "icosfl"


def serve(connection: socket.socket, stages: Sequence[Sequence[str]], idle_seconds: float) -> list[str] | None:
    """Load the stages and fork at each request; returns in each ClientApp, and once more at the end.

    Args:
        connection: To the executor: sequenced packets.
        stages: The modules to load, and to serve after each.
        idle_seconds: How long to wait for a request.

    Returns:
        The arguments of the ClientApp that this process has become; None: it is over.

    Raises:
        RunFailed: this process must not fork: what it loaded has started a thread, or there is no more memory.
        ImportError: a module cannot be loaded.
    """
    remaining = list(stages)
    connection.settimeout(idle_seconds)
    while True:
        if remaining:
            for name in remaining.pop(0):
                importlib.import_module(name)
            _check_threads()
            gc.collect()
            gc.freeze()  # the collector would write to all pages that a ClientApp shares with this process
        try:
            connection.send(READY)
            request = connection.recv(REQUEST_BYTES)
        except OSError:  # the executor is gone, or it is idle
            return None
        if not request:
            return None
        if _is_client_app(connection):
            return [str(argument) for argument in json.loads(request)]


def main() -> int:
    """Run the process, and each ClientApp that it becomes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m icosfl.fleet.warm", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="the number of the socket that the executor opened")
    parser.add_argument("--idle-seconds", type=float, required=True, help="how long to wait for a request")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with socket.socket(fileno=given.socket) as connection:
        arguments = serve(connection, STAGES, given.idle_seconds)
    if arguments is not None:
        _run(arguments)
    return 0


def _check_threads() -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise RunFailed(f"{threads} threads run after loading: not to be forked", cure="ClientApps start cold")


def _is_client_app(connection: socket.socket) -> bool:
    """Fork: true in the ClientApp, which has told the executor, false in this process."""
    sys.stdout.flush()
    sys.stderr.flush()
    between = os.fork()
    if between:
        _, status = os.waitpid(between, 0)
        if status:
            raise RunFailed("a ClientApp could not be forked", cure="look at the memory and the tasks of the service")
        return False
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    try:
        connection.send(STARTED + str(os.getpid()).encode())
    except OSError:  # the executor has given this one up, and starts another
        os._exit(1)
    return True


def _run(arguments: list[str]) -> NoReturn:
    """Be a ClientApp, as Flower's program for it is one, and end as forked processes do.

    The interpreter is not taken down: that would copy all pages that are shared with the warm process, and takes
    longer than a small model's training. Nothing waits for it: a ClientApp's reply is sent before it returns.
    """
    from flwr.supernode.cli import flwr_clientapp

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, UNHEARD)
    sys.argv = ["flwr-clientapp", *arguments]
    _forget()
    with contextlib.suppress(KeyError):
        sys.modules["numpy"].random.seed()  # or each ClientApp would draw the same numbers
    code = 1
    try:
        flwr_clientapp()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forget() -> None:
    """Forget this project's modules: those of the app are imported instead."""
    for name in list(sys.modules):
        if name.partition(".")[0] == _OURS:
            del sys.modules[name]


if __name__ == "__main__":
    sys.exit(main())
