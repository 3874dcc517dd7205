"""`python -m icosfl.fleet.executor`: in place of `flower-superexec --plugin-type=clientapp`, with the same options.

It is Flower's own executor, `run_superexec`, with the two classes that it takes as arguments: a plugin that starts
ClientApps from a warm process (`icosfl.fleet.starter`), and a stub that looks for a message more often than once in a
second while a run is on. When a ClientApp is killed or breaks off, so that nobody will reply to its message, the
executor ends, and with it its SuperNode (`icosfl.fleet.together`): the process manager starts both anew.

All of this depends on Flower's version (1.30): later ones have neither these arguments nor ClientApps of this kind.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import grpc
from flwr.common.args import add_args_runtime_dependency_install
from flwr.common.constant import ExecPluginType
from flwr.common.typing import Run
from flwr.proto.appio_pb2 import PullPendingTasksRequest, PullPendingTasksResponse
from flwr.proto.clientappio_pb2_grpc import ClientAppIoStub
from flwr.proto.task_pb2 import Task
from flwr.supercore.auth import add_superexec_auth_secret_args, load_superexec_auth_secret
from flwr.supercore.grpc_health import add_args_health
from flwr.supercore.superexec.plugin import ExecPlugin
from flwr.supercore.superexec.run_superexec import run_superexec
from flwr.supercore.utils import disable_process_dumping

from icosfl.errors import ConfigError, IcosflError, RunFailed
from icosfl.fleet.starter import IDLE_SECONDS, Starter, adopt_orphans
from icosfl.logs import set_up_logging

# Flower looks for a message once in a second. While a run is on, LOOK_SECONDS is the time between two looks.
FLOWERS_SECONDS = 1.0
LOOK_SECONDS = 0.2

# A run counts as on for so long after its last message was at work.
ATTENTIVE_SECONDS = 30.0

# When a run ends while a SuperNode takes a message of it, Flower's ClientApp waits for the rest of it for ever. Only
# the SuperNode's end is an end of that; it is brought about once no run has been on for so long.
PATIENCE_SECONDS = 300.0

logger = logging.getLogger(__name__)


class WarmPlugin(ExecPlugin):
    """Starts a ClientApp for each message, warm where it can.

    Args:
        starter: What starts them.
        appio_api_address: Where the SuperNode takes their calls.
        insecure: Whether without TLS.
        root_certificates_path: The file of the CA's certificate, with TLS.
        get_run: Not needed.
        runtime_dependency_install: Whether an app's dependencies may be installed for it.
    """

    def __init__(  # noqa: PLR0913, PLR0917 (as Flower calls it)
        self,
        starter: Starter,
        appio_api_address: str,
        insecure: bool,
        root_certificates_path: str | None,
        get_run: Callable[[int], Run],
        runtime_dependency_install: bool = False,
    ) -> None:
        super().__init__(appio_api_address, insecure, root_certificates_path, get_run, runtime_dependency_install)
        self._starter = starter

    def select_run_id(self, candidate_run_ids: Sequence[int]) -> int | None:
        """The first of the runs."""
        return next(iter(candidate_run_ids), None)

    def select_task(self, candidate_tasks: Sequence[Task]) -> Task | None:
        """The first of the tasks, as soon as it can be started: once claimed, it must say within 30 s that it lives."""
        if not candidate_tasks:
            return None
        self._starter.prepare()
        return candidate_tasks[0]

    def launch_task(self, token: str, task: Task) -> None:  # noqa: ARG002 (as Flower calls it)
        """Start the ClientApp that the token is for."""
        arguments = ["--clientappio-api-address", self.appio_api_address, "--token", token]
        arguments += ["--parent-pid", str(os.getpid())]
        if self.insecure:
            arguments += ["--insecure"]
        elif self.root_certificates_path:
            arguments += ["--root-certificates", self.root_certificates_path]
        if self.runtime_dependency_install:
            arguments += ["--allow-runtime-dependency-installation"]
        self._starter.start(arguments)


class AttentiveStub(ClientAppIoStub):
    """Looks for tasks more often than Flower's executor asks it to, while a run is on, and at the ClientApps each time.

    Args:
        starter: What starts the ClientApps.
        channel: To the SuperNode.
    """

    def __init__(self, starter: Starter, channel: grpc.Channel) -> None:
        super().__init__(channel)
        self._starter = starter
        self._quiet_since = -ATTENTIVE_SECONDS
        self._pull = self.PullPendingTasks
        self.PullPendingTasks = cast(
            "grpc.UnaryUnaryMultiCallable[PullPendingTasksRequest, PullPendingTasksResponse]", self._pull_soon
        )

    def _pull_soon(self, request: PullPendingTasksRequest) -> PullPendingTasksResponse:
        """The tasks that are there; while a run is on, the next one that comes within a second.

        Raises:
            RunFailed: a ClientApp has not ended in peace, or one never will.
        """
        until = time.monotonic() + FLOWERS_SECONDS
        while True:
            now = time.monotonic()
            at_work = self._starter.look()
            response: PullPendingTasksResponse = self._pull(request)
            if response.tasks or at_work:
                self._quiet_since = now
                return response
            if self._starter.overtaken and now > self._quiet_since + PATIENCE_SECONDS:
                raise RunFailed(
                    "a ClientApp still waits for a message of a run that is over", cure="the service restarts"
                )
            if now > until or now > self._quiet_since + ATTENTIVE_SECONDS:
                return response
            time.sleep(LOOK_SECONDS)


def run(given: argparse.Namespace) -> None:
    """Be the executor until it is told to stop.

    Raises:
        ConfigError: the secret cannot be read.
        RunFailed: a ClientApp has not ended in peace.
    """
    try:
        secret = load_superexec_auth_secret(given.superexec_auth_secret_file)
    except ValueError as error:
        raise ConfigError(f"--superexec-auth-secret-file: {error}", cure="run site.yml") from error
    adopt_orphans()
    starter = Starter(given.warm_seconds)
    try:
        run_superexec(
            plugin_class=cast("type[ExecPlugin]", partial(WarmPlugin, starter)),
            stub_class=cast("type[ClientAppIoStub]", partial(AttentiveStub, starter)),
            appio_api_address=given.appio_api_address,
            insecure=given.insecure,
            root_certificates_path=given.root_certificates,
            superexec_auth_secret=secret,
            parent_pid=given.parent_pid,
            health_server_address=given.health_server_address,
            runtime_dependency_install=given.runtime_dependency_install,
        )
    finally:
        starter.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    disable_process_dumping(strict=False)
    set_up_logging("info")
    logging.getLogger("flwr").propagate = False  # it has a handler of its own
    try:
        run(parser().parse_args(arguments))
    except IcosflError as error:
        logger.error("%s", error)  # noqa: TRY400 (the message says it all)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """The options, as `flower-superexec` has them, and one more."""
    options = argparse.ArgumentParser(prog="python -m icosfl.fleet.executor", description=__doc__)
    kinds = (ExecPluginType.CLIENT_APP,)
    options.add_argument("--plugin-type", choices=kinds, required=True, help="what the executor starts")
    options.add_argument("--appio-api-address", required=True, help="where the SuperNode takes its calls: host:port")
    options.add_argument("--insecure", action="store_true", help="call it without TLS")
    options.add_argument("--root-certificates", help="the file of the CA's certificate, with TLS")
    options.add_argument("--parent-pid", type=int, help="end when this process ends")
    help_text = "how long an idle warm process stays; 0: ClientApps start cold (default: %(default)s)"
    options.add_argument("--warm-seconds", type=float, default=IDLE_SECONDS, help=help_text)
    add_superexec_auth_secret_args(options)
    add_args_health(options)
    add_args_runtime_dependency_install(options)
    return options


if __name__ == "__main__":
    sys.exit(main())
