from __future__ import annotations

import itertools
import time
from pathlib import Path

import grpc
import pytest

from icosfl.collect import replay as module
from icosfl.collect.replay import replay
from icosfl.errors import InputError, Unavailable, UserError

SECOND = 10**9
START_MS = 1724940180000


@pytest.fixture
def trace(tmp_path) -> Path:
    """Ten rows, a minute apart, of three nodes; the third node has no value in row 4."""
    path = tmp_path / "fleet.csv"
    rows = [f"{START_MS + 60_000 * n},{n},{n + 100},{'' if n == 4 else n + 200}\n" for n in range(10)]
    path.write_text("time_ms,node_01,node_02,node_03\n" + "".join(rows), encoding="utf-8")
    return path


def sent(recorder) -> list[tuple[str, int, float]]:
    return [
        (metric.name, point.time_unix_nano, point.as_double)
        for request in recorder.requests
        for metric in request.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.gauge.data_points
    ]


def test_one_column_is_replayed_under_its_series_name_with_its_own_times(trace, bridge, recorder) -> None:
    done = replay(trace, bridge, host="w1", speed=None, columns={"node_03": "cpu_usage"})

    assert sent(recorder) == [("cpu_usage", (START_MS + 60_000 * n) * 10**6, n + 200.0) for n in range(10) if n != 4]
    assert (done.rows, done.total, done.points, done.rejected) == (9, 9, 9, 0)
    assert (done.first_ns, done.last_ns) == (START_MS * 10**6, (START_MS + 540_000) * 10**6)


def test_the_resource_names_the_host_and_the_service(trace, bridge, recorder) -> None:
    replay(trace, bridge, host="w1", speed=0)
    replay(trace, bridge, host="w1", speed=0, service_name="icosfl-host-metrics")

    resources = [
        {pair.key: pair.value.string_value for pair in request.resource_metrics[0].resource.attributes}
        for request in recorder.requests
    ]
    assert resources == [
        {"host.name": "w1", "service.name": "icosfl-replay"},
        {"host.name": "w1", "service.name": "icosfl-host-metrics"},
    ]


def test_rebased_times_keep_their_distances_and_end_now(trace, bridge, recorder) -> None:
    before = time.time_ns()
    done = replay(trace, bridge, host="w1", speed=None, columns={"node_01": "cpu_usage"}, rebase=True)
    after = time.time_ns()

    times = [time_ns for _, time_ns, _ in sent(recorder)]
    assert before <= times[-1] <= after
    assert {later - sooner for sooner, later in itertools.pairwise(times)} == {60 * SECOND}
    assert (done.first_ns, done.last_ns) == (times[0], times[-1])


def test_a_paced_replay_waits_for_each_rows_time(trace, bridge, recorder, monkeypatch) -> None:
    now = 0
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        nonlocal now
        waits.append(seconds)
        now += round(seconds * SECOND)
        return False

    monkeypatch.setattr(module.time, "monotonic_ns", lambda: now)
    replay(trace, bridge, host="w1", speed=60, wait=wait)

    assert waits == pytest.approx([0.0] + [1.0] * 9)
    assert len(recorder.requests) == 10


def test_a_paced_rebased_replay_stamps_the_last_row_with_the_time_of_its_sending(
    trace, bridge, recorder, monkeypatch
) -> None:
    now = 0

    def wait(seconds: float) -> bool:
        nonlocal now
        now += round(seconds * SECOND)
        return False

    monkeypatch.setattr(module.time, "monotonic_ns", lambda: now)
    monkeypatch.setattr(module.time, "time_ns", lambda: START_MS * 10**6 + 7 * SECOND)
    done = replay(trace, bridge, host="w1", speed=1, rebase=True, wait=wait)

    assert done.first_ns == START_MS * 10**6 + 7 * SECOND
    assert done.last_ns == done.first_ns + now


def test_progress_counts_up_to_all_rows(trace, bridge, recorder, monkeypatch) -> None:
    monkeypatch.setattr(module, "_POINTS_PER_REQUEST", 12)
    seen: list[tuple[int, int]] = []

    replay(trace, bridge, host="w1", speed=None, progress=lambda rows, total: seen.append((rows, total)))

    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_a_replay_can_be_ended_early(trace, bridge, recorder) -> None:
    answers = iter([False, False, True])

    done = replay(trace, bridge, host="w1", speed=1e-6, wait=lambda seconds: next(answers))

    assert (done.rows, done.total) == (2, 10)
    assert len(recorder.requests) == 2


def test_a_bridge_that_is_away_for_a_moment_is_tried_again(trace, bridge, recorder, monkeypatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    recorder.answers = [grpc.StatusCode.UNAVAILABLE] * 2

    assert replay(trace, bridge, host="w1", speed=None).rows == 10
    assert recorder.attempts == 3


def test_a_bridge_that_stays_away_is_an_error_that_names_it(trace, nobody) -> None:
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{nobody.port} does not take the trace: UNAVAILABLE"):
        replay(trace, nobody, host="w1", speed=None, patience_seconds=0.0)


def test_a_bridge_that_refuses_the_trace_is_an_error_with_its_reason(trace, bridge, recorder) -> None:
    recorder.answers = [grpc.StatusCode.INVALID_ARGUMENT]

    with pytest.raises(InputError, match="refuses the trace: INVALID_ARGUMENT: as told"):
        replay(trace, bridge, host="w1", speed=None)


def test_points_that_the_bridge_rejects_are_told(trace, bridge, recorder) -> None:
    recorder.rejected, recorder.reason = 3, "3 x not_finite"

    done = replay(trace, bridge, host="w1", speed=None)

    assert (done.rejected, done.reason) == (3, "3 x not_finite")


def test_a_trace_of_which_the_bridge_takes_nothing_is_an_error(trace, bridge, recorder) -> None:
    recorder.rejected, recorder.reason = 29, "no rule matches the resource"

    with pytest.raises(InputError, match="takes none of the trace's values: no rule matches the resource"):
        replay(trace, bridge, host="w1", speed=None)


def test_values_that_the_bridge_left_out_without_complaint_are_told(trace, bridge, recorder) -> None:
    recorder.stored = 7

    done = replay(trace, bridge, host="w1", speed=None)

    assert (done.points, done.stored, done.rejected) == (29, 7, 0)


@pytest.mark.parametrize("speed", [-1.0, float("nan"), float("inf")])
def test_a_speed_that_is_no_pace_is_refused(trace, nobody, speed) -> None:
    with pytest.raises(UserError, match="is no pace"):
        replay(trace, nobody, host="w1", speed=speed)


def test_a_bad_file_is_refused_before_anything_is_sent(tmp_path, bridge, recorder) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("time_ms,a\n1,2\n2,x\n", encoding="utf-8")

    with pytest.raises(InputError, match="line 3: column 'a'"):
        replay(path, bridge, host="w1", speed=None)
    assert recorder.attempts == 0
