from __future__ import annotations

import io
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.store import checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "object"


def write(path, content: object) -> bool:
    return checkpoint.write(path, lambda sink: pickle.dump(content, sink))


def content_of(path) -> object:
    with path.open("rb") as file:
        return pickle.load(file)


def test_what_was_written_is_whole_and_pickle_reads_it_as_it_is(path) -> None:
    assert not write(path, [1, 2])

    assert checkpoint.recover(path)
    assert content_of(path) == [1, 2]


def test_a_checkpoint_for_which_there_is_no_room_leaves_what_was_there_and_nothing_else(path) -> None:
    write(path, "before")
    path.with_name("object.new").symlink_to("/dev/full")

    with pytest.raises(OSError, match="No space left"):
        write(path, "after")

    assert list(path.parent.iterdir()) == [path]
    assert content_of(path) == "before"


def test_without_any_file_there_is_nothing_to_recover(path) -> None:
    assert not checkpoint.recover(path)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_is_noticed(tmp_path_factory, place, change) -> None:
    path = tmp_path_factory.mktemp("damaged") / "object"
    write(path, "rows")
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)

    assert not checkpoint.recover(path)
    assert path.with_name("object.damaged").read_bytes() == bytes(data)


def test_writing_tells_whether_the_generation_before_stays(path) -> None:
    assert [write(path, number) for number in range(3)] == [False, True, True]

    path.unlink()

    assert not write(path, 3)


def test_a_large_content_is_written_and_verified_in_parts(path) -> None:
    content = bytes(range(256)) * 20_000
    write(path, content)

    assert checkpoint.recover(path)
    assert content_of(path) == content

    path.write_bytes(path.read_bytes().replace(b"\x00\x01", b"\x01\x00", 1))
    assert not checkpoint.recover(path)


def test_removing_leaves_no_generation(path) -> None:
    for number in range(2):
        write(path, number)
    path.with_name("object.new").touch()

    checkpoint.remove(path)

    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 20, -1])
def test_a_file_that_was_cut_off_gives_way_to_the_one_before_it(path, cut) -> None:
    write(path, "before")
    write(path, "after")
    path.write_bytes(path.read_bytes()[:cut])

    assert checkpoint.recover(path)
    assert content_of(path) == "before"


def test_a_kill_between_the_two_renames_loses_nothing(path, monkeypatch) -> None:
    write(path, "before")
    rename = type(path).replace

    def killed(old, new) -> None:
        if old.suffix == ".new":
            raise KeyboardInterrupt
        rename(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(type(path), "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, "after")

    assert not path.exists()
    assert checkpoint.recover(path)
    assert content_of(path) == "after"


def test_a_kill_in_the_middle_of_writing_loses_nothing_of_before(path) -> None:
    write(path, "before")
    path.with_name("object.new").write_bytes(b"half")
    path.replace(checkpoint.previous_of(path))

    assert checkpoint.recover(path)
    assert content_of(path) == "before"


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch) -> None:
    write(path, "before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, "after")

    assert checkpoint.recover(path)
    assert content_of(path) == "before"


def test_a_file_of_another_writer_is_not_taken_for_whole(path) -> None:
    path.write_bytes(pickle.dumps("plain"))

    assert not checkpoint.recover(path)
    assert pickle.load(io.BytesIO(path.with_name("object.damaged").read_bytes())) == "plain"
