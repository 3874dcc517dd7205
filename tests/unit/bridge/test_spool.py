"""What the spool keeps, gives back and forgets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.testing import assert_array_equal

from icosfl.bridge import spool_format
from icosfl.bridge.spool import SpoolLimits
from icosfl.errors import RunFailed, SchemaMismatch, SpoolFailed, SpoolFull, SpoolTooSmall
from icosfl.schema import Rows, Schema, Series
from support.bridge_service import FACTS
from support.bridge_service import SCHEMA as FLEET
from support.spools import LIMITS, disk_of, files_in, opened, times_in
from support.store_contract import NAN, SCHEMA, rows


@pytest.fixture
def spool(tmp_path):
    spool = opened(tmp_path)
    yield spool
    spool.close()


def limits(**changes) -> SpoolLimits:
    return SpoolLimits(**{"max_bytes": LIMITS.max_bytes, "fsync": "always", "fsync_seconds": 1.0} | changes)


def fill(spool) -> int:
    """Append until there is no room; the last number that was given."""
    while not spool.trouble:
        with suppress(SpoolFull):
            spool.append(rows(spool.last + 1))
    return spool.last


def test_rows_come_back_as_they_were_in_the_order_of_appending(spool) -> None:
    first = rows(10, 20, values=[[1.5, NAN], [-0.0, 1e300]])
    assert [spool.append(first), spool.append(rows(5))] == [1, 2]

    one, two = spool.read(0, 100)

    assert (one.number, two.number) == (1, 2)
    assert_array_equal(one.rows.times, first.times)
    assert_array_equal(one.rows.values, first.values)
    assert two.rows.times.tolist() == [5]


def test_an_empty_spool_has_nothing_to_read_and_says_so(spool) -> None:
    assert (spool.last, spool.forgotten, spool.records, spool.oldest_time, spool.trouble) == (0, 0, 0, None, "")
    assert spool.read(0, 10) == ()
    assert not spool.wait(0, timeout=0)


def test_a_reader_gets_as_many_rows_as_it_asks_for_but_at_least_one_record(spool) -> None:
    for start in (10, 20, 30):
        spool.append(rows(start, start + 1))

    assert [record.number for record in spool.read(0, 1)] == [1]
    assert [record.number for record in spool.read(0, 5)] == [1, 2]
    assert [record.number for record in spool.read(1, 1000)] == [2, 3]
    assert spool.read(3, 1000) == ()


def test_numbers_rise_over_restarts_even_when_all_is_forgotten(tmp_path) -> None:
    tight = limits(max_bytes=1024)
    numbers = []
    for _ in range(5):
        spool = opened(tmp_path, limits=tight)
        numbers += [spool.append(rows(time)) for time in (1, 2, 3)]
        spool.forget(spool.last)
        assert spool.read(0, 10) == ()
        spool.close()

    assert numbers == list(range(1, 16))


def test_what_was_not_forgotten_is_there_after_a_restart(tmp_path) -> None:
    spool = opened(tmp_path)
    for time in (10, 20, 30):
        spool.append(rows(time))
    spool.close()

    again = opened(tmp_path)

    assert times_in(again) == {1: [10], 2: [20], 3: [30]}
    assert (again.last, again.forgotten, again.records, again.oldest_time) == (3, 0, 3, 10)
    assert again.append(rows(40)) == 4
    again.close()


def test_what_is_forgotten_is_not_read_nor_counted_any_more(spool) -> None:
    for time in (10, 20, 30):
        spool.append(rows(time))
    spool.forget(2)

    assert times_in(spool) == {3: [30]}
    assert (spool.records, spool.oldest_time, spool.forgotten) == (1, 30, 2)
    spool.forget(1)
    assert spool.forgotten == 2
    spool.forget(99)
    assert (spool.forgotten, spool.oldest_time) == (3, None)


def test_files_go_as_soon_as_all_their_records_are_forgotten(tmp_path) -> None:
    spool = opened(tmp_path, limits=limits(max_bytes=8192))
    last = fill(spool)
    files = files_in(tmp_path)
    assert len(files) > 4
    assert spool.bytes == sum(path.stat().st_size for path in files)

    spool.forget(int(files[2].stem) - 1)
    assert files_in(tmp_path) == files[2:]

    spool.forget(last)
    (remaining,) = files_in(tmp_path)
    assert int(remaining.stem) == last + 1
    assert spool.bytes == remaining.stat().st_size < 200
    assert spool.append(rows(1)) == last + 1
    assert times_in(spool) == {last + 1: [1]}
    spool.close()


def test_a_full_spool_says_so_and_takes_records_again_when_some_are_forgotten(tmp_path) -> None:
    spool = opened(tmp_path, limits=limits(max_bytes=8192))
    last = fill(spool)
    before = times_in(spool)
    assert spool.bytes <= 8192
    assert "no room" in spool.trouble

    spool.forget(last // 2)

    assert spool.trouble == ""
    assert spool.append(rows(7)) == last + 1
    assert times_in(spool) == {number: times for number, times in before.items() if number > last // 2} | {
        last + 1: [7]
    }
    spool.close()


def test_a_record_bigger_than_the_whole_spool_is_refused_but_others_are_not(tmp_path) -> None:
    spool = opened(tmp_path, limits=limits(max_bytes=2048))

    with pytest.raises(SpoolTooSmall, match=r"never have room .* \(send smaller batches, or raise max_bytes of icosfl"):
        spool.append(rows(*range(100)))

    assert spool.trouble == ""
    assert spool.append(rows(1)) == 1
    spool.close()


def test_rows_of_another_width_are_refused(spool) -> None:
    with pytest.raises(SchemaMismatch, match="3 columns"):
        spool.append(Rows.empty(3))


def test_no_rows_make_no_record(spool) -> None:
    spool.append(rows(10))
    assert spool.append(Rows.empty(2)) == 1
    assert spool.records == 1


def test_concurrent_appends_share_fsyncs_and_return_once_theirs_is_on_the_disk(tmp_path, monkeypatch) -> None:
    spool = opened(tmp_path)
    (path,) = files_in(tmp_path)
    started, go_on = threading.Event(), threading.Event()
    encoded = threading.Semaphore(0)
    payload_of = spool_format.payload_of
    synced = []

    def encode(given: Rows) -> bytes:
        encoded.release()
        return payload_of(given)

    with disk_of(monkeypatch) as disk, ThreadPoolExecutor(9) as pool:
        fdatasync = disk.fdatasync

        def slow(descriptor: int) -> None:
            size = path.stat().st_size
            started.set()
            assert go_on.wait(30)
            fdatasync(descriptor)
            synced.append(size)

        def append(time: int) -> tuple[int, int]:
            number = spool.append(rows(time))
            return number, max(synced)

        monkeypatch.setattr("os.fdatasync", slow)
        monkeypatch.setattr(spool_format, "payload_of", encode)
        leader = pool.submit(append, 0)
        assert started.wait(30)
        followers = [pool.submit(append, time) for time in range(1, 9)]
        for _ in range(9):
            assert encoded.acquire(timeout=30)
        assert spool.read(0, 10) == ()
        assert not any(each.done() for each in (leader, *followers))
        go_on.set()
        returned = [each.result(30) for each in (leader, *followers)]
        count = disk.fsyncs

    assert sorted(number for number, _ in returned) == list(range(1, 10))
    header, record = len(spool_format.header_of(SCHEMA)), spool_format.size_of(payload_of(rows(1)))
    assert all(size >= header + number * record for number, size in returned)
    assert count <= 4  # and not 9; the last ones may have come a moment later than the rest
    spool.close()


@pytest.mark.parametrize(("policy", "seconds", "expected"), [("always", 1, 5), ("interval", 3600, 0), ("never", 1, 0)])
def test_fsync_is_called_as_the_policy_says(tmp_path, monkeypatch, policy, seconds, expected) -> None:
    spool = opened(tmp_path, limits=limits(fsync=policy, fsync_seconds=seconds))

    with disk_of(monkeypatch) as disk:
        for time in range(5):
            spool.append(rows(time))
        assert disk.fsyncs == expected
        spool.close()
        assert disk.fsyncs == expected + (policy == "interval")


def test_with_an_interval_what_is_due_is_synced_by_an_append_or_by_who_waits(tmp_path, monkeypatch) -> None:
    spool = opened(tmp_path, limits=limits(fsync="interval", fsync_seconds=1e-9))

    with disk_of(monkeypatch) as disk:
        spool.append(rows(1))
        assert disk.fsyncs == 1
    spool.close()
    spool = opened(tmp_path, limits=limits(fsync="interval", fsync_seconds=3600))
    with disk_of(monkeypatch) as disk:
        spool.append(rows(2))
        monkeypatch.setattr("time.monotonic", lambda: 1e12)
        assert not spool.wait(2, timeout=-1)
        assert disk.fsyncs == 1
    spool.close()


def test_who_waits_learns_of_a_record_and_of_the_end(spool) -> None:
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(spool.wait, 0, 60)
        spool.append(rows(10))
        assert waiting.result(30)
        assert spool.wait(0, 60)
        longer = pool.submit(spool.wait, 1, 60)
        spool.close()
        assert not longer.result(30)


def test_a_closed_spool_takes_nothing_and_gives_nothing(spool) -> None:
    spool.append(rows(10))
    spool.close()
    spool.close()
    spool.forget(1)

    with pytest.raises(SpoolFailed, match=r"closed \(start the bridge again"):
        spool.append(rows(20))
    assert spool.read(0, 10) == ()


def test_one_process_at_a_time_uses_a_directory(tmp_path, spool) -> None:
    with pytest.raises(RunFailed, match=r"another process uses .*stop the other bridge"):
        opened(tmp_path)

    assert spool.append(rows(1)) == 1


def test_a_directory_that_cannot_be_made_is_named_with_a_cure(tmp_path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RunFailed, match=r"file/spool: Not a directory \(make the directory"):
        opened(tmp_path / "file" / "spool")


def test_a_directory_that_cannot_be_written_is_named_with_a_cure(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # as a read-only file system answers, to root also

    with pytest.raises(RunFailed, match=r"Permission denied \(make the directory"):
        opened(tmp_path)
    monkeypatch.undo()
    opened(tmp_path).close()


def test_records_of_another_schema_are_placed_by_name_and_unit(tmp_path, caplog) -> None:
    old = Schema((Series("power", "W"), Series("gone", "1"), Series("load", "1"), Series("cpu", "%")))
    new = Schema((Series("cpu", "%"), Series("fresh", "1"), Series("load", "%"), Series("power", "W")))
    spool = opened(tmp_path, old)
    spool.append(Rows(np.array([10, 20]), np.array([[1.0, 2, 3, 4], [NAN, 6, 7, NAN]])))
    spool.close()

    again = opened(tmp_path, new)
    assert [entry.getMessage() for entry in caplog.records if "dropped" in entry.getMessage()] == [
        f"{tmp_path}: records from before have series that are dropped: ['gone [1]', 'load [1]']"
    ]
    assert again.append(Rows(np.array([30]), np.array([[9.0, 9, 9, 9]]))) == 2

    placed, fresh = chain(again.read(0, 10), again.read(1, 10))
    assert placed.rows.times.tolist() == [10]  # the row at 20 has no value that is still wanted
    assert_array_equal(placed.rows.values, [[4, NAN, NAN, 1]])
    assert fresh.rows.values.tolist() == [[9, 9, 9, 9]]
    again.close()


def test_the_default_spool_outlasts_a_store_that_is_down_for_much_longer_than_two_hours(tmp_path: Path) -> None:
    store = yaml.safe_load((Path(__file__).parents[3] / "group_vars/all/store.yml").read_text(encoding="utf-8"))
    spool = opened(tmp_path, FLEET)
    empty = spool.bytes
    spool.append(Rows(np.array([1]), np.ones((1, len(FLEET)))))
    record = spool.bytes - empty
    spool.close()

    records = store["icosfl_spool"]["max_bytes"] * 0.98 / record  # the rest for the headers of files
    seconds = records * FACTS["icosfl_sampling_period_seconds"] / len(FLEET)  # even if each series comes by itself
    assert seconds > 100 * 3600
