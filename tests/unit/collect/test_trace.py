from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from icosfl.collect.trace import Column, read_trace
from icosfl.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "trace.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_milliseconds_become_nanoseconds(write) -> None:
    trace = read_trace(write("time_ms,cpu_usage\n1724940180000,0.5\n1724940240000.25,0.75\n"))

    assert trace.times.tolist() == [1724940180000_000_000, 1724940240000_250_000]
    assert trace.values.tolist() == [[0.5], [0.75]]


def test_times_may_be_nanoseconds_or_iso_with_or_without_an_offset(write) -> None:
    text = "cpu_usage,time\n1,2024-08-29T14:03:00\n2,2024-08-29T16:03:01.5+02:00\n3,2024-08-29T14:03:02Z\n"

    assert read_trace(write(text)).times.tolist() == [
        1724940180_000_000_000,
        1724940181_500_000_000,
        1724940182_000_000_000,
    ]
    assert read_trace(write("time,a\n1724940180000000001,1\n")).times.tolist() == [1724940180000000001]


def test_an_empty_field_and_nan_are_no_value(write) -> None:
    trace = read_trace(write("time_ms,a,b\n1,,2\n2,NaN,\n3,4,5\n"))

    assert np.isnan(trace.values).tolist() == [[True, False], [False, False]]
    assert [len(trace.batch(row).points) for row in range(2)] == [1, 2]


def test_a_row_without_a_value_of_a_chosen_column_is_left_out(write) -> None:
    trace = read_trace(write("time_ms,a,b\n1,1,2\n2,3,\n3,5,6\n4,7,\n"), {"b": "power"})

    assert trace.times.tolist() == [1_000_000, 3_000_000]


def test_a_column_may_carry_attributes(write) -> None:
    trace = read_trace(write('time_ms,system.memory.usage{system.memory.state=used},"m{b=2, a=1}"\n1,5,6\n'))

    assert trace.columns == (
        Column("system.memory.usage", (("system.memory.state", "used"),)),
        Column("m", (("a", "1"), ("b", "2"))),
    )


def test_one_column_of_a_fleet_can_be_chosen_and_named(write) -> None:
    path = write("time_ms,node_01,node_02,node_03\n1000,0.7917,20.3083,39.3917\n2000,0.8750,19.6500,36.2333\n")

    trace = read_trace(path, {"node_03": "cpu_usage"})

    assert trace.columns == (Column("cpu_usage"),)
    assert trace.values.tolist() == [[39.3917], [36.2333]]


def test_a_spreadsheets_byte_order_mark_and_blank_lines_are_no_fault(write) -> None:
    assert len(read_trace(write(b"\xef\xbb\xbftime_ms,a\r\n1,2\r\n\r\n2,3\r\n"))) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("time_ms,a\n", "no row has a value of a"),
        ("time_ms,a,b\n1,,\n", "no row has a value of a, b"),
        ("a,b\n1,2\n", "line 1: no time column; its columns are a, b"),
        ("time,time_ms,a\n1,2,3\n", "line 1: more than one time column"),
        ("time_ms\n1\n", "line 1: no column beside the time"),
        ("time_ms,a,a\n1,2,3\n", "line 1: column 'a' stands twice"),
        ("time_ms,a b\n1,2\n", "line 1: column 'a b': 'a b' is no metric"),
        ("time_ms,a{b}\n1,2\n", "line 1: column 'a{b}': 'a{b}' is no metric"),
        ("time_ms,a\n1,2\n2,x\n", "line 3: column 'a': 'x' is no number"),
        ("time_ms,a\n1,2\n\n3,inf\n", "line 4: column 'a': 'inf' is not finite"),
        ("time_ms,a\n1,2\n2\n", "line 3: 1 fields, but the header names 2 columns"),
        ("time_ms,a\n1,2\n2,3,4\n", "line 3: 3 fields"),
        ("time_ms,a\nsoon,2\n", "line 2: column 'time_ms': 'soon' is no time"),
        ("time_ms,a\n,2\n", "line 2: column 'time_ms': '' is no time"),
        ("time_ms,a\nnan,2\n", "line 2: column 'time_ms': 'nan' is no time"),
        ("time_ms,a\ninf,2\n", "line 2: column 'time_ms': 'inf' is no time"),
        ("time_ms,a\n-1,2\n", "line 2: column 'time_ms': '-1' is not between 1970 and 2262"),
        ("time_ms,a\n9223372036854775807,2\n", "is not between 1970 and 2262"),
        ("time,a\n1724940180,2\n", "line 2: column 'time': '1724940180' is no time: too small for nanoseconds"),
        ("time,a\n29.08.2024,2\n", "line 2: column 'time': '29.08.2024' is no time"),
        ("time_ms,a\n2,2\n2,3\n", "line 3: column 'time_ms': '2' is not after the row before"),
        ("time_ms,a\n2,\n1,3\n", "line 3: column 'time_ms': '1' is not after the row before"),
        ('time_ms,a\n1,"2\n', "line 2: not CSV"),
        (b"time_ms,a\n1,\xff\n", "not UTF-8 text"),
    ],
)
def test_a_bad_file_is_refused_with_line_and_column(write, text, words) -> None:
    path = write(text)

    with pytest.raises(InputError) as caught:
        read_trace(path)

    assert caught.value.message.startswith(f"{path}: ")
    assert words in caught.value.message
    assert caught.value.cure


@pytest.mark.parametrize("name", ["node_14", "time_ms"])
def test_a_chosen_column_that_is_not_there_is_refused_and_the_others_named(write, name) -> None:
    path = write("time_ms,node_01,node_02\n1,2,3\n")

    with pytest.raises(InputError, match=rf"no column '{name}' to send; there are node_01, node_02"):
        read_trace(path, {name: "cpu_usage"})


def test_two_columns_cannot_be_sent_as_one_metric(write) -> None:
    path = write("time_ms,node_01,node_02\n1,2,3\n")

    with pytest.raises(InputError, match="two columns would be sent as the same metric"):
        read_trace(path, {"node_01": "cpu_usage", "node_02": "cpu_usage"})


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"missing\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "missing.csv")
