"""What a spool makes of files that a kill, a power cut or a bad disk has left."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest

from icosfl.bridge import spool_format
from icosfl.bridge.spool import SpoolLimits
from icosfl.bridge.spool_format import header_of, payload_of, record_of, seed_of
from icosfl.errors import RunFailed, SpoolFailed
from icosfl.schema import Schema
from support.spools import disk_of, files_in, opened, times_in
from support.store_contract import SCHEMA, rows

HEADER = len(header_of(SCHEMA))
SIZE = spool_format.size_of(payload_of(rows(1)))

APPENDER = """
import sys, threading
from pathlib import Path
from support.spools import opened
from support.store_contract import rows

spool = opened(Path(sys.argv[1]))
writing = threading.Lock()

def append(start):
    for time in range(start, 10**9, 4):
        number = spool.append(rows(time))
        with writing:
            print(number, time, flush=True)

for start in range(4):
    threading.Thread(target=append, args=(start,)).start()
"""


@pytest.fixture
def path(tmp_path) -> Path:
    """The file of a closed spool with the records 1, 2 and 3 of times 10, 20 and 30."""
    spool = opened(tmp_path)
    for time in (10, 20, 30):
        spool.append(rows(time))
    spool.close()
    (path,) = files_in(tmp_path)
    return path


def found_in(directory: Path) -> dict[int, list[int]]:
    spool = opened(directory)
    try:
        return times_in(spool)
    finally:
        spool.close()


def flip(path: Path, place: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("cut", range(1, SIZE))
def test_a_half_written_record_at_the_end_is_cut_off_wherever_it_was_broken(path, cut, caplog) -> None:
    os.truncate(path, HEADER + 2 * SIZE + cut)

    spool = opened(path.parent)

    assert f"the last {cut} bytes are of a record half written" in caplog.text
    assert spool.damaged == 0
    assert path.stat().st_size == HEADER + 2 * SIZE
    assert spool.append(rows(40)) == 3
    assert times_in(spool) == {1: [10], 2: [20], 3: [40]}
    spool.close()
    assert found_in(path.parent) == {1: [10], 2: [20], 3: [40]}


@pytest.mark.parametrize("size", range(HEADER))
def test_a_half_written_header_is_written_anew(path, size) -> None:
    os.truncate(path, size)

    spool = opened(path.parent)

    assert spool.damaged == 0
    assert spool.append(rows(40)) == 1
    spool.close()
    assert found_in(path.parent) == {1: [40]}


def test_a_half_written_header_of_a_later_file_does_not_let_numbers_go_back(path) -> None:
    (path.parent / f"{4:020d}.spool").write_bytes(header_of(SCHEMA)[:10])

    spool = opened(path.parent)

    assert spool.append(rows(40)) == 4
    assert times_in(spool) == {1: [10], 2: [20], 3: [30], 4: [40]}
    spool.close()


@pytest.mark.parametrize("place", [0, 5, 9, 17, 30, SIZE - 1])
def test_a_flipped_byte_in_the_middle_loses_that_record_only_and_is_told(path, place, caplog) -> None:
    damaged = flip(path, HEADER + SIZE + place)

    spool = opened(path.parent)

    assert spool.damaged == 1
    assert any(entry.levelno == logging.ERROR and "is damaged" in entry.message for entry in caplog.records)
    assert times_in(spool) == {1: [10], 3: [30]}
    assert spool.append(rows(40)) == 4
    spool.close()
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    again = opened(path.parent)
    assert again.damaged == 0  # it was written anew, without what could not be read
    assert times_in(again) == {1: [10], 3: [30], 4: [40]}
    again.close()


@pytest.mark.parametrize("place", range(SIZE))
def test_a_flipped_byte_in_the_last_record_is_told_and_a_copy_is_set_aside(path, place) -> None:
    damaged = flip(path, HEADER + 2 * SIZE + place)

    spool = opened(path.parent)

    assert spool.damaged == 1
    assert times_in(spool) == {1: [10], 2: [20]}
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    spool.close()


@pytest.mark.parametrize("place", range(0, HEADER, 7))
def test_a_damaged_header_loses_no_record(path, place) -> None:
    flip(path, place)

    spool = opened(path.parent)

    assert spool.damaged == 1
    assert times_in(spool) == {1: [10], 2: [20], 3: [30]}
    assert spool.append(rows(40)) == 4
    spool.close()
    assert path.with_name(f"{path.name}.damaged").exists()
    assert found_in(path.parent) == {1: [10], 2: [20], 3: [30], 4: [40]}


def test_under_a_damaged_header_records_of_unknown_series_are_not_taken_for_ours(path) -> None:
    flip(path, 3)
    turned = Schema(tuple(reversed(SCHEMA.series)))

    spool = opened(path.parent, turned)

    assert spool.read(0, 10) == ()
    assert spool.damaged == 1
    assert path.with_name(f"{path.name}.damaged").exists()
    spool.close()


@pytest.mark.parametrize(
    ("garbage", "damaged"),
    [(b"\0" * 4096, 0), (b"garbage", 1), (spool_format.MARKER + b"\xff" * 8, 0), (b"\xab", 0), (b"\0x", 1)],
)
def test_garbage_at_the_end_loses_no_record(path, garbage, damaged) -> None:
    with path.open("ab") as file:
        file.write(garbage)

    spool = opened(path.parent)
    assert spool.damaged == damaged
    assert len(list(path.parent.glob("*.damaged"))) == damaged
    assert spool.append(rows(40)) == 4
    spool.close()

    assert found_in(path.parent) == {1: [10], 2: [20], 3: [30], 4: [40]}


def test_of_copies_of_damaged_files_only_the_newest_stay(path) -> None:
    for _ in range(6):
        spool = opened(path.parent, limits=SpoolLimits(1024, "always", 1.0))
        numbers = [spool.append(rows(time)) for time in range(4)]
        spool.close()
        assert numbers == sorted(numbers)
        flip(files_in(path.parent)[-1], HEADER + 3)
        opened(path.parent).close()
        spool = opened(path.parent, limits=SpoolLimits(1024, "always", 1.0))
        spool.forget(spool.last)
        spool.close()

    assert len(list(path.parent.glob("*.damaged"))) == 3


PAGES = 3 * 4096 // SIZE  # so many records take three pages and a bit


@pytest.fixture
def long(tmp_path) -> Path:
    """The file of a closed spool with records of as many times as numbers, over more than three pages."""
    spool = opened(tmp_path)
    for number in range(1, PAGES + 1):
        spool.append(rows(number))
    spool.close()
    (path,) = files_in(tmp_path)
    return path


def touching(page: int) -> set[int]:
    """The numbers of records that lie in this page, or in a part of it."""
    start, end = page * 4096, (page + 1) * 4096
    return {n for n in range(1, PAGES + 1) if HEADER + (n - 1) * SIZE < end and HEADER + n * SIZE > start}


@pytest.mark.parametrize("page", [0, 1, 3])
def test_what_the_disk_does_not_read_at_the_opening_is_left_out_and_the_file_set_aside(
    long, monkeypatch, caplog, page
) -> None:
    before = long.read_bytes()
    with disk_of(monkeypatch) as disk:
        disk.unreadable = range(page * 4096 + 10, page * 4096 + 20)
        spool = opened(long.parent)

    assert spool.damaged == 1
    assert "the disk does not read some of it" in caplog.text
    assert times_in(spool) == {n: [n] for n in range(1, PAGES + 1) if n not in touching(page)}
    assert long.with_name(f"{long.name}.damaged").read_bytes() == before
    assert spool.append(rows(7)) == spool.last
    now = times_in(spool)
    spool.close()
    assert found_in(long.parent) == now


def broken(calls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have calls fail with EIO: by the call's name, for files whose name ends like this."""
    for call, end in calls.items():
        original = getattr(os, call)

        def fail(path, *args, original=original, end=end, **more):
            if str(path).endswith(end):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return original(path, *args, **more)

        monkeypatch.setattr(os, call, fail)


def test_a_file_that_cannot_even_be_opened_is_set_aside_and_the_others_are_read(path, monkeypatch, caplog) -> None:
    bad = path.with_name(f"{9:020d}.spool")
    bad.write_bytes(path.read_bytes())
    opening = os.open

    def fail(name, flags, *args, **more):
        if str(name) == str(bad) and not flags & os.O_CREAT:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(name))
        return opening(name, flags, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        spool = opened(path.parent)

    assert f"{bad} cannot be opened: it is set aside" in caplog.text
    assert spool.damaged == 1
    assert times_in(spool) == {1: [10], 2: [20], 3: [30]}
    assert bad.with_name(f"{bad.name}.damaged").exists()
    assert spool.append(rows(40)) == 9
    spool.close()


def test_a_tail_that_cannot_be_cut_off_at_the_opening_costs_no_record(path, monkeypatch) -> None:
    with path.open("ab") as file:
        file.write(record_of(4, payload_of(rows(40)), seed_of(SCHEMA))[:-1])
    with disk_of(monkeypatch) as disk:
        disk.broken = {"ftruncate"}
        spool = opened(path.parent)

    assert times_in(spool) == {1: [10], 2: [20], 3: [30]}
    assert spool.append(rows(50)) == 4
    spool.close()
    assert found_in(path.parent) == {1: [10], 2: [20], 3: [30], 4: [50]}


def test_a_file_written_anew_whose_directory_cannot_be_synced_is_read_and_not_written(path, monkeypatch) -> None:
    flip(path, HEADER + SIZE + 1)

    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("icosfl.bridge.spool_recovery.sync_directory", refuse)
        spool = opened(path.parent)

    assert times_in(spool) == {1: [10], 3: [30]}
    assert spool.append(rows(40)) == 4
    assert len(files_in(path.parent)) == 2
    spool.close()


def test_a_file_that_cannot_even_be_set_aside_is_named_with_a_cure(path, monkeypatch) -> None:
    broken({"open": ".spool", "replace": ".spool"}, monkeypatch)

    with pytest.raises(RunFailed, match=rf"{path}: Input/output error \(see whether its disk .* move {path} away"):
        opened(path.parent)

    monkeypatch.undo()
    assert found_in(path.parent) == {1: [10], 2: [20], 3: [30]}


def test_a_damaged_file_that_cannot_be_written_anew_is_read_as_it_is(path, monkeypatch) -> None:
    flip(path, HEADER + SIZE + 1)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.hardlink_to", no_room)
        spool = opened(path.parent)
    assert times_in(spool) == {1: [10], 3: [30]}
    assert spool.append(rows(40)) == 4  # into another file
    assert len(files_in(path.parent)) == 2
    spool.close()
    assert found_in(path.parent) == {1: [10], 3: [30], 4: [40]}


def test_a_kill_between_a_files_new_name_and_its_emptying_brings_nothing_back(path) -> None:
    path.rename(path.with_name(f"{4:020d}.spool"))  # as `begin_anew` does first

    spool = opened(path.parent)

    assert times_in(spool) == {}
    assert spool.append(rows(40)) == 4
    spool.close()
    assert found_in(path.parent) == {4: [40]}


def test_a_record_that_goes_bad_while_the_spool_is_open_is_passed_over(path, caplog) -> None:
    spool = opened(path.parent)
    with path.open("r+b") as file:
        file.seek(HEADER + SIZE + 30)
        file.write(b"bad")

    assert times_in(spool) == {1: [10], 2: [], 3: [30]}
    assert spool.damaged == 1
    assert "1 records cannot be read" in caplog.text
    spool.close()


def test_a_disk_that_refuses_a_read_is_no_end_of_the_world(path, monkeypatch) -> None:
    spool = opened(path.parent)

    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr("os.pread", broken)
        with pytest.raises(SpoolFailed, match="Input/output error"):
            spool.read(0, 10)
        assert "Input/output error" in spool.read_trouble
    assert times_in(spool) == {1: [10], 2: [20], 3: [30]}
    assert (spool.damaged, spool.read_trouble) == (0, "")
    spool.close()


@pytest.mark.parametrize("page", [1, 3])
def test_what_the_disk_does_not_read_again_and_again_is_passed_over_and_counted(
    long, monkeypatch, caplog, page
) -> None:
    spool = opened(long.parent)
    with disk_of(monkeypatch) as disk:
        disk.unreadable = range(page * 4096, page * 4096 + 1)
        for _ in range(8):
            with pytest.raises(SpoolFailed, match="Input/output error"):
                spool.read(0, 2 * PAGES)
            assert spool.read_trouble
        found = times_in(spool, 2 * PAGES)
        assert not spool.read_trouble

    lost = touching(page)
    assert found == {n: [] if n in lost else [n] for n in range(1, PAGES + 1)}
    assert spool.damaged == len(lost)
    assert f"{len(lost)} records cannot be read" in caplog.text
    spool.close()


def test_other_files_in_the_directory_are_left_alone(path) -> None:
    notes = path.with_name("notes.txt")
    notes.write_text("mine")
    strange = path.with_name("x.spool")
    strange.write_text("not a spool")

    assert found_in(path.parent) == {1: [10], 2: [20], 3: [30]}
    assert (notes.read_text(), strange.read_text()) == ("mine", "not a spool")


def test_an_unfinished_rewrite_is_in_nobodys_way(path) -> None:
    flip(path, HEADER + SIZE + 1)
    path.with_name(f"{path.name}.new").write_bytes(b"half")

    stale = path.with_name(f"{9:020d}.spool.new")
    stale.write_bytes(b"half")

    assert found_in(path.parent) == {1: [10], 3: [30]}
    assert not path.with_name(f"{path.name}.new").exists()
    assert not stale.exists()


def test_a_whole_record_with_a_number_that_is_not_its_turn_is_passed_over(path) -> None:
    with path.open("ab") as file:
        file.write(record_of(2, payload_of(rows(99)), seed_of(SCHEMA)))

    assert found_in(path.parent) == {1: [10], 2: [20], 3: [30]}


def test_a_process_killed_amid_appends_leaves_all_that_append_had_returned_for(tmp_path) -> None:
    command = [sys.executable, "-c", APPENDER, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        lines = deque([process.stdout.readline() for _ in range(40)])
        process.send_signal(signal.SIGKILL)
        lines.extend(line for line in process.stdout if line.endswith("\n"))

    acknowledged = {int(number): [int(time)] for number, time in (line.split() for line in lines)}
    left = found_in(tmp_path)
    assert len(acknowledged) >= 40
    assert acknowledged.items() <= left.items()
    assert list(left) == list(range(1, len(left) + 1))
    assert len(left) <= len(acknowledged) + 4  # one of each thread may have been on its way


def test_a_spool_that_was_not_closed_lets_the_next_process_in(tmp_path, monkeypatch) -> None:
    command = [sys.executable, "-c", APPENDER.replace("10**9", "start + 4") + "\nimport os\n", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=60)

    with disk_of(monkeypatch) as disk:
        assert len(found_in(tmp_path)) == len(done.stdout.splitlines()) == 4
        assert disk.fsyncs == 0
