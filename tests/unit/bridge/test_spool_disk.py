"""A spool on a disk that is full or broken: nothing acknowledged is lost, nothing unacknowledged appears."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from contextlib import suppress

import pytest

from icosfl.bridge import spool_format
from icosfl.bridge.spool import SpoolLimits
from icosfl.bridge.spool_format import header_of, payload_of
from icosfl.errors import RunFailed, SpoolFailed, SpoolFull
from support.spools import disk_of, files_in, opened, times_in
from support.store_contract import SCHEMA, rows

SIZE = spool_format.size_of(payload_of(rows(1)))

FILE_SIZE_LIMIT = """
import json, resource, sys
from pathlib import Path
from icosfl.errors import SpoolFull
from support.spools import opened, times_in
from support.store_contract import rows

spool = opened(Path(sys.argv[1]))
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
taken, refused = {}, []
for time in range(20):
    try:
        taken[spool.append(rows(time))] = [time]
    except SpoolFull:
        refused.append(time)
trouble = spool.trouble
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
for time in refused:
    taken[spool.append(rows(time))] = [time]
same = taken == times_in(spool)
spool.close()
again = opened(Path(sys.argv[1]))
same = same and taken == times_in(again)
print(json.dumps([len(refused), trouble, spool.trouble, same]))
"""


@pytest.fixture
def spool(tmp_path):
    """A spool with the record 1 of time 10."""
    spool = opened(tmp_path)
    spool.append(rows(10))
    yield spool
    spool.close()


def survivors(spool, tmp_path) -> dict[int, list[int]]:
    """What is there now, and the same after a restart."""
    now = times_in(spool)
    spool.close()
    again = opened(tmp_path)
    assert times_in(again) == now
    assert again.damaged == 0
    again.close()
    return now


@pytest.mark.parametrize("room", range(0, SIZE, 5))
def test_on_a_full_disk_nothing_of_a_refused_record_stays(spool, tmp_path, monkeypatch, room) -> None:
    size = files_in(tmp_path)[0].stat().st_size
    with disk_of(monkeypatch) as disk:
        disk.room = room
        with pytest.raises(SpoolFull, match=r"No space left on device \(make room on its disk\)"):
            spool.append(rows(20))
        assert "No space left" in spool.trouble
        assert files_in(tmp_path)[0].stat().st_size == size
        assert times_in(spool) == {1: [10]}
        disk.room = SIZE
        assert spool.append(rows(20)) == 2

    assert spool.trouble == ""
    assert survivors(spool, tmp_path) == {1: [10], 2: [20]}


def test_who_waits_finds_out_that_there_is_room_again(spool, tmp_path, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk:
        disk.room = 3
        with pytest.raises(SpoolFull):
            spool.append(rows(20))
        disk.room = 1000
        assert not spool.wait(1, timeout=0)
        assert "No space left" in spool.trouble
        disk.room = 10_000
        assert not spool.wait(1, timeout=0)
        assert spool.trouble == ""

    assert survivors(spool, tmp_path) == {1: [10]}


def test_a_full_disk_under_an_empty_spool_lets_the_bridge_start_and_wait(tmp_path, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk:
        disk.room = 5
        spool = opened(tmp_path)
        assert "No space left" in spool.trouble
        with pytest.raises(SpoolFull):
            spool.append(rows(10))
        assert files_in(tmp_path) == []
        disk.room = None
        assert spool.append(rows(10)) == 1

    assert survivors(spool, tmp_path) == {1: [10]}


def test_a_broken_disk_under_an_empty_spool_is_told_at_the_start(tmp_path, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk:
        disk.broken = {"pwrite"}
        with pytest.raises(RunFailed, match="Input/output error"):
            opened(tmp_path)


def test_forgotten_records_make_room_on_a_full_disk(tmp_path, monkeypatch) -> None:
    spool = opened(tmp_path)
    for time in range(1000):
        spool.append(rows(time))
    with disk_of(monkeypatch) as disk:
        disk.room = 0
        spool.forget(1000)

    assert [path.stat().st_size for path in files_in(tmp_path)] == [len(header_of(SCHEMA))]
    assert spool.append(rows(7)) == 1001
    assert survivors(spool, tmp_path) == {1001: [7]}


def test_after_a_failed_write_the_next_record_goes_on_in_the_same_file(spool, tmp_path, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk:
        disk.broken = {"pwrite"}
        with pytest.raises(SpoolFailed, match=r"Input/output error \(see whether its disk is whole"):
            spool.append(rows(20))

    assert spool.append(rows(30)) == 2
    assert len(files_in(tmp_path)) == 1
    assert survivors(spool, tmp_path) == {1: [10], 2: [30]}


def test_after_a_failed_fsync_the_file_is_not_trusted_any_more(spool, tmp_path, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk:
        disk.broken = {"fsync"}
        with pytest.raises(SpoolFailed, match="Input/output error"):
            spool.append(rows(20))
        assert times_in(spool) == {1: [10]}
        with pytest.raises(SpoolFailed, match="Input/output error"):
            spool.append(rows(20))

    assert spool.append(rows(30)) == 2
    assert [int(path.stem) for path in files_in(tmp_path)] == [1, 2]
    assert survivors(spool, tmp_path) == {1: [10], 2: [30]}


def test_a_refused_record_that_could_not_be_cut_off_does_not_stand_in_for_a_later_one(
    spool, tmp_path, monkeypatch
) -> None:
    with disk_of(monkeypatch) as disk:
        disk.broken = {"fsync", "ftruncate"}
        with pytest.raises(SpoolFailed, match="Input/output error"):
            spool.append(rows(20))
    assert files_in(tmp_path)[0].stat().st_size == len(header_of(SCHEMA)) + 2 * SIZE  # whole, although refused
    assert [spool.append(rows(30)), spool.append(rows(40))] == [2, 3]

    assert survivors(spool, tmp_path) == {1: [10], 2: [30], 3: [40]}
    assert files_in(tmp_path)[0].stat().st_size == len(header_of(SCHEMA)) + SIZE


def test_what_cannot_even_be_cut_off_is_not_read(spool, tmp_path, monkeypatch) -> None:
    with disk_of(monkeypatch) as disk:
        disk.broken = {"ftruncate"}
        disk.room = SIZE - 1
        with pytest.raises(SpoolFull):
            spool.append(rows(20))
    assert spool.append(rows(30)) == 2

    assert [int(path.stem) for path in files_in(tmp_path)] == [1, 2]
    assert survivors(spool, tmp_path) == {1: [10], 2: [30]}


@pytest.mark.parametrize(("policy", "seconds"), [("always", 1.0), ("interval", 1e-9), ("interval", 3600.0)])
def test_while_only_fsync_fails_the_trouble_stays_and_is_told_once(
    tmp_path, monkeypatch, caplog, policy, seconds
) -> None:
    spool = opened(tmp_path, limits=SpoolLimits(1 << 20, policy, seconds))
    with disk_of(monkeypatch) as disk:
        disk.broken = {"fdatasync"}  # that of records; a new file and its directory can be synced
        with monkeypatch.context() as later:
            later.setattr("time.monotonic", lambda: 1e12)
            with pytest.raises(SpoolFailed):
                spool.append(rows(10))
        for _ in range(3):
            assert not spool.wait(0, timeout=-1)
            assert "Input/output error" in spool.trouble
            with pytest.raises(SpoolFailed):
                spool.append(rows(10))
        assert caplog.text.count("no records are taken") == 1
    assert not spool.wait(0, timeout=-1)

    assert spool.trouble == ""
    assert spool.append(rows(20)) == 1
    assert survivors(spool, tmp_path) == {1: [20]}


def test_with_an_interval_it_is_told_that_records_before_a_failed_fsync_are_not_safe(
    tmp_path, monkeypatch, caplog
) -> None:
    spool = opened(tmp_path, limits=SpoolLimits(1 << 20, "interval", 3600.0))
    spool.append(rows(10))
    assert "may not outlive a power cut" not in caplog.text
    with disk_of(monkeypatch) as disk, monkeypatch.context() as later:
        disk.broken = {"fsync"}
        later.setattr("time.monotonic", lambda: 1e12)
        with pytest.raises(SpoolFailed):
            spool.append(rows(20))

    assert caplog.text.count("records of the last seconds may not outlive a power cut") == 1
    assert survivors(spool, tmp_path) == {1: [10]}


def test_with_an_interval_a_failed_fsync_begins_another_file(tmp_path, monkeypatch, caplog) -> None:
    spool = opened(tmp_path, limits=SpoolLimits(1 << 20, "interval", 1e-9))
    with disk_of(monkeypatch) as disk:
        disk.broken = {"fsync"}
        with pytest.raises(SpoolFailed):
            spool.append(rows(10))
    assert spool.append(rows(20)) == 1
    assert survivors(spool, tmp_path) == {1: [20]}


def test_files_that_cannot_be_removed_do_not_stop_the_spool(tmp_path, monkeypatch, caplog) -> None:
    spool = opened(tmp_path)
    for time in range(1000):
        spool.append(rows(time))

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", refuse)
        spool.forget(1000)
    assert "forgotten records cannot be removed" in caplog.text
    assert spool.append(rows(7)) == 1001
    assert times_in(spool) == {1001: [7]}
    spool.forget(1001)
    assert spool.records == 0
    spool.close()


def test_a_real_limit_on_the_size_of_files_loses_nothing_and_leaves_nothing_half(tmp_path) -> None:
    limit = len(header_of(SCHEMA)) + 7 * SIZE + 13
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FILE_SIZE_LIMIT, str(tmp_path), str(limit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=60)

    assert done.returncode == 0, done.stderr
    refused, trouble, trouble_after, same = json.loads(done.stdout)
    assert refused == 13
    assert "File too large" in trouble
    assert trouble_after == ""
    assert same


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where this user may mount one."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    with suppress(FileNotFoundError):
        if subprocess.run(mount, check=False, capture_output=True).returncode == 0:
            yield directory
            subprocess.run(["umount", "-l", str(directory)], check=True)
            return
    pytest.skip("this user may not mount a tmpfs")


def test_on_a_real_full_disk_records_are_taken_again_once_there_is_room(small_disk) -> None:
    spool = opened(small_disk / "spool")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(32 << 10))
    taken = {}
    while not spool.trouble:
        with suppress(SpoolFull):
            taken |= {spool.append(rows(5)): [5]}
    assert "No space left" in spool.trouble
    assert times_in(spool) == taken

    ballast.unlink()
    taken[spool.append(rows(7))] = [7]

    assert spool.trouble == ""
    assert survivors(spool, small_disk / "spool") == taken
