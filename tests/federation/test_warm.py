"""What dies with SIGKILL on a worker while a message is at work: the warm process, the ClientApp, the executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psutil
import pytest

from icosfl.aggregate.progress import RoundDone, read_progress
from support.dataclay_stack import DataclayStack
from support.flower_federation import Federation, running

pytestmark = [pytest.mark.timeout(420)]

# So much training that a ClientApp is still at it when what a test kills is dead.
EPOCHS = 600
# Seconds of a core that a ClientApp uses only when it trains: to be asked takes half of one.
BEGUN_SECONDS = 1.0

WORKER = "worker-2"

T = TypeVar("T")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("warm"), dataclay_stack) as federation:
        yield federation


def eventually(look: Callable[[], T | None], seconds: float = 90) -> T:
    """What `look` sees as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return seen


def executor(federation: Federation) -> psutil.Process:
    (found,) = (
        process
        for process in psutil.Process(federation.flower.services[WORKER].pid).children()
        if "icosfl.fleet.executor" in process.cmdline()
    )
    return found


def at_work(federation: Federation) -> tuple[psutil.Process, psutil.Process] | None:
    """The worker's warm process and the ClientApp that it became, once that trains."""
    processes = sorted(executor(federation).children(), key=lambda process: float(process.create_time()))
    if len(processes) < 2:
        return None
    warm, app = processes[0], processes[-1]
    return (warm, app) if app.cpu_times().user > BEGUN_SECONDS else None


def rounds_of(federation: Federation, run: str) -> list[RoundDone]:
    return [event for event in read_progress(federation.runs_dir / run) if isinstance(event, RoundDone)]


def first_train(federation: Federation, run: str) -> tuple[psutil.Process, psutil.Process]:
    """The worker's processes when the run's first round is at work there."""
    eventually(lambda: federation.flower.log_of(WORKER).count(f"[RUN {run}") >= 3)  # query in, reply out, task in
    return eventually(lambda: at_work(federation))


def test_a_run_does_not_notice_that_a_warm_process_is_killed(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    run = federation.submit(capsys, nodes=3, num_server_rounds=2, local_epochs=EPOCHS)
    starts = federation.flower.services[WORKER].starts

    warm, app = first_train(federation, run)
    warm.kill()

    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    assert [event.nodes for event in rounds_of(federation, run)] == [("worker-1", "worker-2")] * 2
    assert federation.flower.services[WORKER].starts == starts
    assert not app.is_running()
    assert "Start `flwr-clientapp` process" in federation.flower.log_of(WORKER)


@pytest.mark.parametrize("victim", ["ClientApp", "executor"])
def test_a_node_whose_client_app_or_executor_is_killed_ends_its_round_at_once_and_is_back_for_the_next_run(
    federation: Federation, capsys: pytest.CaptureFixture[str], victim: str
) -> None:
    run = federation.submit(capsys, nodes=3, num_server_rounds=1, min_nodes=1, local_epochs=EPOCHS)
    service = federation.flower.services[WORKER]
    starts = service.starts

    warm, app = first_train(federation, run)
    (app if victim == "ClientApp" else executor(federation)).kill()

    service.wait_for_start(starts + 1)
    psutil.wait_procs([warm, app], timeout=10)
    assert not warm.is_running()
    assert not app.is_running()
    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    (only,) = rounds_of(federation, run)
    assert only.nodes == ("worker-1",)
    assert [absent.host for absent in only.left_out] == [WORKER]

    again = federation.submit(capsys, nodes=3, num_server_rounds=1, local_epochs=1)
    code, finish = federation.wait(capsys, again, "--finish")
    assert code == 0, finish
    assert rounds_of(federation, again)[0].nodes == ("worker-1", WORKER)
