"""What dies with SIGKILL in the middle of a round: the ServerApp, the SuperLink, a SuperNode. Nothing is lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import psutil
import pytest

from icosfl.aggregate.progress import Event, Finished, Resumed, RoundDone, Started, read_progress
from icosfl.aggregate.record import is_alive, look
from icosfl.train.artifact import Artifact, load
from support.dataclay_stack import DataclayStack
from support.flower_federation import Federation, running

pytestmark = [pytest.mark.timeout(420)]

# So much training that a round is still at it when what a test kills is dead.
EPOCHS = 600
WORKERS = ("worker-1", "worker-2")

T = TypeVar("T")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, dataclay_stack: DataclayStack) -> Iterator[Federation]:
    with running(tmp_path_factory.mktemp("kills"), dataclay_stack) as federation:
        yield federation


def eventually(look: Callable[[], T | None], seconds: float = 60) -> T:
    """What `look` sees as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return seen


def server_app(federation: Federation) -> psutil.Process | None:
    """The process of the ServerApp."""
    for process in psutil.Process(federation.flower.services["superlink-executor"].pid).children(recursive=True):
        if any(word.endswith("flwr-serverapp") for word in process.cmdline()):
            return process
    return None


def at_work(federation: Federation, run: str, number: int) -> int:
    """How many SuperNodes have all of the task of this round of Flower's run, and have not replied."""
    said = [federation.flower.log_of(host).rpartition(f"[RUN {run}, ROUND {number}]") for host in WORKERS]
    return sum(
        bool(found) and "Receiving: train" in after and "Received successfully" in after for _, found, after in said
    )


def rounds_of(federation: Federation, run: str) -> list[RoundDone]:
    return [event for event in events_of(federation, run) if isinstance(event, RoundDone)]


def events_of(federation: Federation, run: str) -> list[Event]:
    return read_progress(federation.runs_dir / run)


def round_model(federation: Federation, run: str, number: int) -> Artifact:
    return load(federation.nodes["controller"].models_dir / f"{run}-round-{number:04d}.npz")


def test_a_run_whose_server_app_is_killed_goes_on_after_the_last_round_that_was_done(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    run = federation.submit(capsys, nodes=3, num_server_rounds=3, local_epochs=EPOCHS)
    code, first = federation.wait(capsys, run, "--round", "1")
    assert code == 0, first
    eventually(lambda: at_work(federation, run, 2) == 2)

    process = eventually(lambda: server_app(federation))
    process.kill()
    eventually(lambda: not is_alive(federation.runs_dir / run), seconds=5)

    record = look(federation.runs_dir / run)
    assert record is not None
    assert (record.state, record.round, record.rounds, record.resumable) == ("interrupted", 1, 3, True)
    killed = time.monotonic()
    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    events = events_of(federation, run)
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert (resumed.run, resumed.round) == (run, 1)
    assert resumed.flower_run != run
    assert sum(isinstance(event, Started) for event in events) == 1
    done = rounds_of(federation, run)
    assert [(event.round, event.nodes) for event in done] == [(n, ("worker-1", "worker-2")) for n in (1, 2, 3)]
    assert [round_model(federation, run, event.round).digest for event in done] == [event.digest for event in done]
    assert isinstance(events[-1], Finished)
    assert events[-1].nodes == ("worker-1", "worker-2", "worker-3")
    assert {model.digest for host in events[-1].nodes if (model := federation.model(host))} == {finish["digest"]}
    say(f"ServerApp killed in round 2: {time.monotonic() - killed:.0f} s later finished", events, capsys)


def test_a_superlink_that_is_killed_in_the_middle_of_a_round_comes_back_and_the_run_loses_nothing(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    run = federation.submit(capsys, nodes=3, num_server_rounds=2, local_epochs=EPOCHS)
    eventually(lambda: at_work(federation, run, 1) == 2)
    superlink = federation.flower.services["superlink"]
    starts = superlink.starts

    superlink.crash()
    superlink.wait_for_start(starts + 1)

    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    events = events_of(federation, run)
    assert not any(isinstance(event, Resumed) for event in events)
    done = rounds_of(federation, run)
    assert [(event.round, event.nodes) for event in done] == [(n, ("worker-1", "worker-2")) for n in (1, 2)]
    assert finish["nodes"] == ["worker-1", "worker-2", "worker-3"]
    say("SuperLink killed in round 1", events, capsys)


def test_a_supernode_that_is_killed_in_the_middle_of_a_round_is_named_and_the_round_ends_on_time(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    timeout = 40
    run = federation.submit(
        capsys, nodes=3, num_server_rounds=2, min_nodes=1, local_epochs=EPOCHS, round_timeout_seconds=timeout
    )
    eventually(lambda: at_work(federation, run, 1) == 2)

    federation.flower.kill("worker-2")

    code, finish = federation.wait(capsys, run, "--finish")
    assert code == 0, finish
    first, second = rounds_of(federation, run)
    assert first.nodes == second.nodes == ("worker-1",)
    assert first.seconds < timeout + 10
    (absent,) = first.left_out
    assert absent.host == "worker-2"
    assert absent.reason.startswith((f"no reply within {timeout} s", "Flower says: "))
    assert [absent.host for absent in second.left_out] == ["worker-2"]
    assert second.left_out[0].reason in {"still at round 1", "offline"}
    assert finish["nodes"] == ["worker-1", "worker-3"]
    say("SuperNode of worker-2 killed in round 1", events_of(federation, run), capsys)


def say(what: str, events: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Show what a run told, for whoever runs these with -s."""
    with capsys.disabled():
        lines = "\n".join(f"  {event.time[11:19]} {event.line}" for event in events)
        sys.stdout.write(f"\n{what}\n{lines}\n")
