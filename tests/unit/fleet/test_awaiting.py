from __future__ import annotations

import threading
from pathlib import Path

import pytest

from icosfl.aggregate.progress import Event, Failed, Finished, ProgressLog, Ready, Resumed, Started, Stopped, Waiting
from icosfl.errors import NotReady, RunFailed, Unavailable, UserError
from icosfl.fleet import awaiting
from icosfl.fleet.attempts import Attempt, note_attempt
from icosfl.fleet.awaiting import View, await_end, see, until_finish, until_ready, until_round, wait_for
from icosfl.fleet.flower import RunStatus, UnknownToFlower
from support.made_up_flower import RUNNING, living, record, round_done

READY = Ready("now", (), (), None, "")
FINISHED = Finished("now", 3, ("a",), (), "digest", 9.0)
CUT_OFF = RunStatus("finished:failed", "No heartbeat received from the task")


def never(run: str) -> RunStatus:
    raise AssertionError(f"the SuperLink was asked for {run}")


def resumed(flower_run: str, after: int) -> Resumed:
    return Resumed("now", "7", flower_run, after)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaiting, "POLL_SECONDS", 0.01)


def test_waiting_returns_the_wanted_event_as_soon_as_it_is_written(tmp_path: Path) -> None:
    directory = record(tmp_path, "7")
    later = threading.Timer(0.1, ProgressLog(directory).append, [round_done(1)])

    with living(directory):
        later.start()
        event = wait_for(until_round(1), directory, never, 30)
        later.join()

    assert event == round_done(1)


def test_waiting_for_what_is_there_already_asks_nobody(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", round_done(1), Failed("now", "later trouble", ""))

    assert wait_for(until_round(1), directory, never, 0) == round_done(1)


def test_a_run_that_fails_ends_the_wait_with_its_reason_and_cure(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", Failed("now", "too few nodes", "wait"))
    status = RunStatus("finished:failed", "RunFailed: too few nodes")

    with pytest.raises(RunFailed, match="too few nodes") as caught:
        wait_for(until_finish, directory, lambda _: status, 30)

    assert caught.value.cure == "wait"


def test_a_serverapp_that_dies_is_noticed_at_once_and_nobody_is_asked(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", round_done(1))

    with pytest.raises(RunFailed, match=r"ended without a word \(its ServerApp died\)") as caught:
        wait_for(until_finish, directory, never, 30, look_every=60)

    assert "--resume" in caught.value.cure


def test_a_run_that_never_began_ends_the_wait_with_flowers_word(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"ended without a word \(failed: No heartbeat"):
        wait_for(until_finish, tmp_path / "7", lambda _: CUT_OFF, 30, look_every=0)


def test_what_a_run_wrote_just_before_its_end_still_counts(tmp_path: Path) -> None:
    def write_and_end(_: str) -> RunStatus:
        record(tmp_path, "7", round_done(1), FINISHED)
        return RunStatus("finished:completed", "")

    assert wait_for(until_round(1), tmp_path / "7", write_and_end, 30, look_every=0) == round_done(1)


def test_a_superlink_that_is_away_for_a_moment_does_not_end_the_wait(tmp_path: Path) -> None:
    asked = []

    def away_once(_: str) -> RunStatus:
        asked.append(True)
        if len(asked) == 1:
            raise Unavailable("away")
        record(tmp_path, "7", round_done(1))
        return RUNNING

    assert wait_for(until_round(1), tmp_path / "7", away_once, 30, look_every=0) == round_done(1)


def test_waiting_ends_and_repeats_the_last_word(tmp_path: Path) -> None:
    directory = record(tmp_path, "7")

    with living(directory), pytest.raises(RunFailed, match="within 0 s; the last word was: run 7 started"):
        wait_for(until_finish, directory, lambda _: RUNNING, 0)


def test_a_run_that_flower_gave_up_is_waited_for_until_its_serverapp_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "ENDING_SECONDS", 0)
    directory = record(tmp_path, "7")

    with living(directory), pytest.raises(RunFailed, match=r"over for Flower .* but its ServerApp still runs"):
        wait_for(until_finish, directory, lambda _: CUT_OFF, 30, look_every=0)


def test_who_is_missing_is_told_while_a_run_waits_for_nodes(tmp_path: Path) -> None:
    directory, told = record(tmp_path, "7", Waiting("now", 0, 2, ("known before",))), []
    log = ProgressLog(directory)

    def say() -> None:
        log.append(Waiting("now", 1, 2, ("worker-2",)))
        log.append(round_done(1))

    with living(directory):
        later = threading.Timer(0.1, say)
        later.start()
        wait_for(until_round(1), directory, never, 30, tell=told.append)
        later.join()

    assert told == ["waiting for nodes, 1 of at least 2 are there; missing: worker-2"]


class Revival:
    """Has a run go on: another ServerApp says what it will."""

    def __init__(self, directory: Path, *events: Event) -> None:
        self.directory = directory
        self.events = events
        self.asked: list[tuple[str, str]] = []

    def __call__(self, view: View, why: str) -> str:
        self.asked.append((view.flower_run, why))
        for event in self.events:
            ProgressLog(self.directory).append(event)
        return f"it goes on ({len(self.asked)})"


def test_a_run_whose_serverapp_died_is_revived_and_waited_for(tmp_path: Path) -> None:
    directory, told = record(tmp_path, "7", round_done(1)), []
    revive = Revival(directory, resumed("8", 1), round_done(2))

    event = wait_for(until_round(2), directory, never, 30, revive=revive, tell=told.append)

    assert event == round_done(2)
    assert revive.asked == [("7", "its ServerApp died")]
    assert told == ["it goes on (1)"]


def test_a_run_that_dies_again_is_revived_again_under_its_new_number(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", round_done(1))

    class Twice(Revival):
        def __call__(self, view: View, why: str) -> str:
            self.events = (resumed("8", 1),) if not self.asked else (resumed("9", 1), round_done(2))
            return super().__call__(view, why)

    revive = Twice(directory)
    wait_for(until_round(2), directory, never, 30, revive=revive)

    assert [flower_run for flower_run, _ in revive.asked] == ["7", "8"]


def test_a_failure_before_the_run_went_on_is_forgotten(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", Failed("now", "too few nodes", "wait"), resumed("8", 0), FINISHED)

    assert wait_for(until_finish, directory, never, 30) == FINISHED


def test_a_serverapp_that_was_cut_off_from_its_superlink_is_revived_though_it_said_that_it_failed(
    tmp_path: Path,
) -> None:
    directory = record(tmp_path, "7", Failed("now", "RpcError: gone", ""))
    revive = Revival(directory, resumed("8", 0), FINISHED)

    assert wait_for(until_finish, directory, lambda _: CUT_OFF, 30, revive=revive) == FINISHED
    assert revive.asked == [("7", "its ServerApp was cut off from the SuperLink for too long")]


def unknown(run: str) -> RunStatus:
    raise UnknownToFlower("Flower refuses: Run ID not found")


@pytest.mark.parametrize("begun", [True, False])
def test_a_run_that_flower_does_not_know_any_more_is_revived(tmp_path: Path, begun: bool) -> None:
    directory = record(tmp_path, "7", *((Failed("now", "RpcError: gone", ""),) if begun else ()))
    if not begun:
        (directory / "progress.jsonl").unlink()
    revive = Revival(directory, resumed("8", 0), FINISHED)

    assert wait_for(until_finish, directory, unknown, 30, revive=revive, look_every=0) == FINISHED
    assert [flower_run for flower_run, _ in revive.asked] == ["7"]


def test_a_refusal_of_flower_for_another_reason_ends_the_wait(tmp_path: Path) -> None:
    def refused(run: str) -> RunStatus:
        raise UserError("Flower refuses: not a member")

    with pytest.raises(UserError, match="not a member"):
        wait_for(until_finish, tmp_path / "7", refused, 30, look_every=0)


def test_a_reason_not_to_go_on_ends_the_wait(tmp_path: Path) -> None:
    directory = record(tmp_path, "7")

    def refuse(view: View, why: str) -> str:
        raise NotReady(f"{view.flower_run}: {why}, and somebody else trains")

    with pytest.raises(NotReady, match="7: its ServerApp died, and somebody else trains"):
        wait_for(until_finish, directory, never, 30, revive=refuse)


def test_a_superlink_that_died_too_is_waited_for(tmp_path: Path) -> None:
    directory = record(tmp_path, "7")

    class Later(Revival):
        def __call__(self, view: View, why: str) -> str:
            line = super().__call__(view, why) if len(self.asked) == 2 else ""
            if not line:
                self.asked.append((view.flower_run, "away"))
                raise Unavailable("away")
            return line

    revive = Later(directory, resumed("8", 0), FINISHED)

    assert wait_for(until_finish, directory, never, 30, revive=revive) == FINISHED
    assert len(revive.asked) == 3


def test_an_attempt_that_has_not_begun_is_not_held_for_dead(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", round_done(1))
    note_attempt(directory, Attempt("8", automatic=True))

    found = see(directory)

    assert (found.flower_run, found.now, found.died) == ("8", (), False)


def test_a_run_that_somebody_resumed_by_hand_is_followed(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", round_done(1))
    note_attempt(directory, Attempt("8", automatic=True))
    for event in (resumed("8", 1), resumed("12", 1), READY):
        ProgressLog(directory).append(event)

    with living(directory):
        found = see(directory)

    assert (found.flower_run, found.alive, len(found.events), len(found.now)) == ("12", True, 5, 2)


def test_a_run_that_begins_again_is_ready_when_its_nodes_were_asked_again(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", READY, resumed("8", 0))

    assert until_ready(see(directory)) is None
    ProgressLog(directory).append(READY)
    assert until_ready(see(directory)) == READY


def test_a_run_that_goes_on_after_a_round_is_ready_at_once(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", READY, round_done(1), resumed("8", 1))

    assert until_ready(see(directory)) == resumed("8", 1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_early_end_satisfies_all_who_wait_for_later_rounds(tmp_path: Path, number: int) -> None:
    stopped = Stopped("now", 1, 3, "no better for 2 rounds")
    directory = record(tmp_path, "7", round_done(1), stopped)

    wanted = round_done(1) if number == 1 else stopped
    assert until_round(number)(see(directory)) == wanted
    ProgressLog(directory).append(resumed("8", 1))
    assert until_round(number)(see(directory)) == wanted


def test_a_serverapp_that_begins_while_somebody_looks_is_not_held_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(awaiting, "is_alive", lambda directory: next(answers))

    found = see(record(tmp_path, "7"))

    assert (found.alive, found.died) == (True, False)


def test_what_a_serverapp_writes_last_is_waited_for(tmp_path: Path) -> None:
    directory = record(tmp_path, "7", FINISHED)
    page = directory / "page"
    later = threading.Timer(0.1, page.touch)

    assert not await_end(directory, page, 30)
    with living(directory):
        assert not await_end(directory, page, 0)
        later.start()
        assert await_end(directory, page, 30)
        later.join()


def test_of_a_round_that_was_trained_twice_the_later_one_counts(tmp_path: Path) -> None:
    later = round_done(1, of=9)
    directory = record(tmp_path, "7", round_done(1), resumed("8", 0), later)

    assert until_round(1)(see(directory)) == later


def test_a_run_that_has_said_nothing_is_seen_as_such(tmp_path: Path) -> None:
    assert see(tmp_path / "7") == View("7", [], [], alive=False)
    assert isinstance(see(record(tmp_path, "8")).now[0], Started)
