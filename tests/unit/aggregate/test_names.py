from __future__ import annotations

from pathlib import Path

import pytest

from icosfl.aggregate.names import NAMES_FILE, read_names, write_names
from icosfl.errors import CheckpointError

NAMES = {7: "worker-1", 2**63 + 1: "worker-2/2"}


def test_names_come_back_as_they_were_written(tmp_path: Path) -> None:
    write_names(tmp_path / "runs", NAMES)

    assert read_names(tmp_path / "runs") == NAMES


def test_new_names_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    write_names(tmp_path, NAMES)
    write_names(tmp_path, {7: "worker-3"})

    assert read_names(tmp_path) == {7: "worker-3"}
    assert [path.name for path in tmp_path.iterdir()] == [NAMES_FILE]


def test_without_a_file_nobody_has_a_name(tmp_path: Path) -> None:
    assert read_names(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"x": "worker-1"}', b"\xff"])
def test_a_damaged_file_costs_names_and_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / NAMES_FILE).write_bytes(content)

    assert read_names(tmp_path) == {}
    assert NAMES_FILE in caplog.text


def test_names_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file", encoding="utf-8")

    with pytest.raises(CheckpointError, match=NAMES_FILE):
        write_names(tmp_path / "runs", NAMES)
