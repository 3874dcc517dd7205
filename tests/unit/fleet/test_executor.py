from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.appio_pb2 import PullPendingTasksRequest, PullPendingTasksResponse
from flwr.proto.task_pb2 import Task

from icosfl.errors import ConfigError, RunFailed
from icosfl.fleet import executor
from icosfl.fleet.executor import AttentiveStub, WarmPlugin
from icosfl.fleet.starter import Starter

ADDRESS = "127.0.0.1:9094"
TASK = Task(task_id=7)


class NotingStarter(Starter):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        super().__init__(0)
        self.started: list[Sequence[str]] = []
        self.prepared = 0
        self.at_work = False
        self.left_over = False

    def prepare(self) -> bool:
        self.prepared += 1
        return True

    def start(self, arguments: Sequence[str]) -> int:
        self.started.append(list(arguments))
        return 1

    def look(self) -> bool:
        return self.at_work

    @property
    def overtaken(self) -> bool:
        return self.left_over


class Channel:
    """Answers each look for tasks with the next of these answers, and with none after the last."""

    def __init__(self, *answers: Sequence[Task]) -> None:
        self.answers = list(answers)
        self.looks = 0

    def unary_unary(self, *_: object, **__: object) -> Callable[[object], PullPendingTasksResponse]:
        def call(_: object) -> PullPendingTasksResponse:
            self.looks += 1
            return PullPendingTasksResponse(tasks=self.answers.pop(0) if self.answers else [])

        return call


def plugin(starter: Starter, **settings: Any) -> WarmPlugin:
    def no_run(number: int) -> Any:
        raise AssertionError(number)

    whole = {"insecure": True, "root_certificates_path": None, **settings}
    return WarmPlugin(starter, appio_api_address=ADDRESS, get_run=no_run, **whole)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(executor, "FLOWERS_SECONDS", 0.05)


def stub(starter: Starter, channel: Channel) -> AttentiveStub:
    return AttentiveStub(starter, channel)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "more"),
    [
        ({}, ["--insecure"]),
        ({"insecure": False}, []),
        ({"insecure": False, "root_certificates_path": "/ca.crt"}, ["--root-certificates", "/ca.crt"]),
        ({"runtime_dependency_install": True}, ["--insecure", "--allow-runtime-dependency-installation"]),
    ],
)
def test_a_client_app_gets_the_arguments_that_flowers_executor_gives(settings: dict[str, Any], more: list[str]) -> None:
    starter = NotingStarter()
    plugin(starter, **settings).launch_task("secret", TASK)

    always = ["--clientappio-api-address", ADDRESS, "--token", "secret", "--parent-pid", str(os.getpid())]
    assert starter.started == [always + more]


def test_a_task_is_taken_only_once_it_can_be_started() -> None:
    starter = NotingStarter()

    assert plugin(starter).select_task([]) is None
    assert starter.prepared == 0
    assert plugin(starter).select_task([TASK, Task(task_id=8)]) == TASK
    assert starter.prepared == 1


def test_an_idle_executor_looks_as_seldom_as_flowers() -> None:
    channel = Channel()

    assert not stub(NotingStarter(), channel).PullPendingTasks(PullPendingTasksRequest()).tasks
    assert channel.looks == 1


def test_while_a_run_is_on_it_looks_until_a_task_is_there() -> None:
    channel = Channel([TASK], [], [], [TASK])
    looking = stub(NotingStarter(), channel)
    looking.PullPendingTasks(PullPendingTasksRequest())

    assert list(looking.PullPendingTasks(PullPendingTasksRequest()).tasks) == [TASK]
    assert channel.looks == 4


def test_but_no_longer_than_flower_would_have_slept() -> None:
    channel = Channel([TASK])
    looking = stub(NotingStarter(), channel)
    looking.PullPendingTasks(PullPendingTasksRequest())

    assert not looking.PullPendingTasks(PullPendingTasksRequest()).tasks
    assert channel.looks > 3


def test_while_a_client_app_is_at_work_there_is_nothing_to_look_for() -> None:
    channel = Channel([TASK])
    starter = NotingStarter()
    looking = stub(starter, channel)
    looking.PullPendingTasks(PullPendingTasksRequest())
    starter.at_work = True
    looking.PullPendingTasks(PullPendingTasksRequest())

    assert channel.looks == 2


def test_it_ends_when_a_client_app_has_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    starter = NotingStarter()

    def broken() -> bool:
        raise RunFailed("ClientApp 1 ended with signal 9")

    monkeypatch.setattr(starter, "look", broken)
    with pytest.raises(RunFailed):
        stub(starter, Channel()).PullPendingTasks(PullPendingTasksRequest())


def test_it_ends_when_no_run_has_been_on_for_long_and_a_client_app_waits_for_a_message_that_never_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel = Channel([TASK])
    starter = NotingStarter()
    looking = stub(starter, channel)
    looking.PullPendingTasks(PullPendingTasksRequest())
    starter.left_over = True

    assert not looking.PullPendingTasks(PullPendingTasksRequest()).tasks
    monkeypatch.setattr(executor, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(RunFailed, match="a run that is over"):
        looking.PullPendingTasks(PullPendingTasksRequest())


def test_a_secret_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "secret"
    given = ["--plugin-type=clientapp", f"--appio-api-address={ADDRESS}", f"--superexec-auth-secret-file={missing}"]

    with pytest.raises(ConfigError, match=str(missing)):
        executor.run(executor.parser().parse_args(given))


def test_it_starts_no_server_apps() -> None:
    with pytest.raises(SystemExit):
        executor.parser().parse_args(["--plugin-type=serverapp", f"--appio-api-address={ADDRESS}"])
