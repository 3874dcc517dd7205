from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import grpc
import pytest

from icosfl.collect import push
from icosfl.collect.otlp import Origin, Sender
from icosfl.collect.points import Batch, Kind, Point
from icosfl.collect.push import Pusher
from icosfl.errors import RunFailed


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch) -> None:
    monkeypatch.setattr(push, "_FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(push, "_LONGEST_RETRY_SECONDS", 0.05)


def batch(time_ns: int) -> Batch:
    return Batch(time_ns, (Point("a.b", "1", Kind.GAUGE, 1.0, time_ns),))


@pytest.fixture
def pushers() -> Iterator:
    made: list[Pusher] = []

    def make(endpoint, capacity: int = 100, *, started: bool = True) -> Pusher:
        pusher = Pusher(Sender(endpoint, Origin("h1", "test"), 10.0), capacity)
        made.append(pusher)
        if started:
            pusher.start()
        return pusher

    yield make
    for pusher in made:
        if pusher._thread.ident is None:
            pusher.start()
        pusher.close(0.0)


def test_batches_arrive_in_the_order_in_which_they_were_offered(pushers, bridge, recorder, wait_until) -> None:
    pusher = pushers(bridge)

    for time_ns in range(1, 21):
        pusher.offer(batch(time_ns))
    wait_until(lambda: pusher.counts().stored == 20)

    assert recorder.times() == list(range(1, 21))
    assert pusher.counts() == push.PushCounts(stored=20)


def test_a_backlog_is_resent_in_order_when_the_bridge_takes_samples_again(
    pushers, bridge, recorder, wait_until
) -> None:
    recorder.answers = [grpc.StatusCode.UNAVAILABLE] * 3
    pusher = pushers(bridge)

    for time_ns in range(1, 6):
        pusher.offer(batch(time_ns))
    wait_until(lambda: pusher.counts().stored == 5)

    assert recorder.times() == [1, 2, 3, 4, 5]
    assert pusher.counts().failed == 3
    assert pusher.counts().backlog == 0


def test_a_backlog_reaches_a_bridge_that_starts_after_the_samples(
    pushers, nobody, start_bridge, recorder, wait_until
) -> None:
    pusher = pushers(nobody)
    for time_ns in (1, 2, 3):
        pusher.offer(batch(time_ns))
    wait_until(lambda: pusher.counts().failed >= 2)

    start_bridge(nobody)
    wait_until(lambda: pusher.counts().stored == 3)

    assert recorder.times() == [1, 2, 3]


def test_a_full_backlog_drops_the_oldest_and_counts_it(pushers, bridge, recorder, wait_until) -> None:
    pusher = pushers(bridge, 3, started=False)

    for time_ns in range(1, 6):
        pusher.offer(batch(time_ns))
    pusher.start()
    wait_until(lambda: pusher.counts().stored == 3)

    assert recorder.times() == [3, 4, 5]
    assert pusher.counts().dropped == 2


def test_a_batch_under_way_is_dropped_when_it_fails_and_newer_ones_fill_the_backlog(
    pushers, bridge, recorder, wait_until
) -> None:
    recorder.hold, recorder.answers = threading.Event(), [grpc.StatusCode.UNAVAILABLE]
    pusher = pushers(bridge, 2)
    pusher.offer(batch(1))
    wait_until(lambda: recorder.attempts == 1)

    pusher.offer(batch(2))
    pusher.offer(batch(3))
    recorder.hold.set()
    wait_until(lambda: pusher.counts().stored == 2)

    assert recorder.times() == [2, 3]
    assert pusher.counts().dropped == 1


def test_a_batch_that_is_refused_for_good_does_not_hold_up_the_next(pushers, bridge, recorder, wait_until) -> None:
    recorder.answers = [grpc.StatusCode.INVALID_ARGUMENT]
    pusher = pushers(bridge)

    for time_ns in (1, 2):
        pusher.offer(batch(time_ns))
    wait_until(lambda: pusher.counts().stored == 1)

    assert recorder.times() == [2]
    assert pusher.counts().refused == 1


def test_points_that_a_stored_request_lost_are_counted(pushers, bridge, recorder, wait_until) -> None:
    recorder.rejected, recorder.reason = 2, "no rule"
    pusher = pushers(bridge)

    pusher.offer(batch(1))
    wait_until(lambda: pusher.counts().stored == 1)

    assert pusher.counts().rejected_points == 2


def test_offering_never_waits_for_a_bridge_that_hangs(pushers, bridge, recorder, wait_until) -> None:
    recorder.hold = threading.Event()
    pusher = pushers(bridge)
    pusher.offer(batch(1))
    wait_until(lambda: recorder.attempts == 1)

    for time_ns in (2, 3, 4):
        pusher.offer(batch(time_ns))

    assert pusher.counts().backlog == 4


def test_closing_sends_what_waits(pushers, bridge, recorder, wait_until) -> None:
    pusher = pushers(bridge, started=False)
    for time_ns in range(1, 11):
        pusher.offer(batch(time_ns))
    pusher.start()

    left = pusher.close(30.0)

    assert left == 0
    assert recorder.times() == list(range(1, 11))


def test_closing_gives_up_at_once_when_the_bridge_is_away(pushers, nobody, wait_until) -> None:
    pusher = pushers(nobody)
    for time_ns in (1, 2):
        pusher.offer(batch(time_ns))
    wait_until(lambda: pusher.counts().failed >= 1)

    assert pusher.close(30.0) == 2


def test_closing_does_not_wait_longer_than_told_for_a_bridge_that_hangs(pushers, bridge, recorder, wait_until) -> None:
    recorder.hold = threading.Event()
    pusher = pushers(bridge)
    pusher.offer(batch(1))
    wait_until(lambda: recorder.attempts == 1)

    left = pusher.close(0.05)

    assert left == 1
    assert not recorder.hold.is_set()


def test_an_absence_of_the_bridge_is_said_once_and_its_return_once(
    pushers, bridge, recorder, wait_until, caplog
) -> None:
    recorder.answers = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE]
    pusher = pushers(bridge)

    with caplog.at_level(logging.INFO):
        for time_ns in (1, 2):
            pusher.offer(batch(time_ns))
        wait_until(lambda: pusher.counts().stored == 2)
        pusher.close(30.0)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "does not take samples" in caplog.records[0].getMessage()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_push_that_ended_by_a_fault_is_noticed(pushers, bridge, wait_until) -> None:
    pusher = pushers(bridge)
    pusher.check()

    pusher.offer(Batch(1, (Point("a.b", "1", Kind.GAUGE, "no number", 1),)))
    wait_until(lambda: not pusher._thread.is_alive())

    with pytest.raises(RunFailed, match="push to the bridge ended"):
        pusher.check()


def test_pauses_double_within_bounds_and_follow_the_bridges_wish(monkeypatch) -> None:
    monkeypatch.setattr(push, "_FIRST_RETRY_SECONDS", 0.25)
    monkeypatch.setattr(push, "_LONGEST_RETRY_SECONDS", 4.0)

    assert [push._pause(failures, None) for failures in (1, 2, 3, 5, 6, 5000)] == [0.25, 0.5, 1.0, 4.0, 4.0, 4.0]
    assert [push._pause(1, told) for told in (0.0, 1.5, 600.0)] == [0.25, 1.5, 4.0]
