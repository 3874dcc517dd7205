from __future__ import annotations

import math

import numpy as np
from numpy.testing import assert_array_equal

from icosfl.bridge.decode import Point
from icosfl.bridge.reasons import Reason
from icosfl.bridge.rows import Joined, join
from icosfl.bridge.rules import compile_rules
from icosfl.config import RuleConfig, SourceConfig
from icosfl.schema import Schema, Series

SCHEMA = Schema((Series("cpu", "%"), Series("memory", "By"), Series("load", "1")))
SOURCES = (
    SourceConfig(series="cpu", metric="cpu", scale=100),
    SourceConfig(series="memory", metric="total", minus="free", scale=0.5),
    SourceConfig(series="load", metric="load"),
)
RULES = compile_rules(
    [
        RuleConfig(name="host", match={"service.name": "host"}, sources=SOURCES),
        RuleConfig(name="meter", match={"service.name": "meter"}, sources=(SOURCES[2],)),
    ],
    SCHEMA,
)
NAN = math.nan


def point(metric: str, value: float, time: int, service: str = "host", **attributes: str) -> Point:
    return Point({"service.name": service}, metric, attributes, time, value)


def joined(*points: Point, tolerance: int = 10) -> Joined:
    return join(points, RULES.match(points), len(SCHEMA), tolerance)


def test_points_of_slightly_different_times_make_one_row_at_the_earliest() -> None:
    result = joined(point("load", 1.5, 109), point("cpu", 0.25, 100))

    assert_array_equal(result.rows.times, [100])
    assert_array_equal(result.rows.values, [[25.0, NAN, 1.5]])
    assert result.kept == {0, 1}
    assert result.left_out == {}


def test_a_point_beyond_the_tolerance_of_the_first_begins_a_new_row() -> None:
    result = joined(point("cpu", 0.1, 100), point("load", 1, 110), point("cpu", 0.2, 111), point("load", 2, 111))

    assert_array_equal(result.rows.times, [100, 111])
    assert_array_equal(result.rows.values, [[10.0, NAN, 1.0], [20.0, NAN, 2.0]])


def test_tolerance_is_measured_from_the_first_point_so_that_rows_cannot_grow_without_end() -> None:
    points = [point("load", float(n), 100 + n * 6) for n in range(6)]

    assert_array_equal(joined(*points).rows.times, [100, 112, 124])


def test_no_tolerance_joins_equal_times_only() -> None:
    result = joined(point("cpu", 1, 5), point("load", 1, 5), point("load", 1, 6), tolerance=0)

    assert_array_equal(result.rows.times, [5, 6])


def test_rows_ascend_whatever_the_order_of_points() -> None:
    result = joined(point("load", 3, 300), point("load", 1, 100), point("load", 2, 200))

    assert_array_equal(result.rows.values[:, 2], [1.0, 2.0, 3.0])


def test_the_last_value_of_a_stream_wins_inside_a_row() -> None:
    result = joined(point("load", 2, 105), point("load", 1, 100))

    assert_array_equal(result.rows.values[:, 2], [2.0])
    assert result.left_out == {1: Reason.SUPERSEDED}


def test_of_equal_times_the_later_point_of_the_request_wins() -> None:
    result = joined(point("load", 1, 100), point("load", 2, 100))

    assert_array_equal(result.rows.values[:, 2], [2.0])
    assert result.kept == {1}


def test_the_later_of_two_rules_wins_a_column() -> None:
    result = joined(point("load", 2, 101, service="meter"), point("load", 1, 100))

    assert_array_equal(result.rows.values[:, 2], [2.0])
    assert result.left_out == {1: Reason.SUPERSEDED}


def test_a_difference_is_scaled_and_keeps_both_points() -> None:
    result = joined(point("free", 30, 104), point("total", 100, 100))

    assert_array_equal(result.rows.values, [[NAN, 35.0, NAN]])
    assert result.kept == {0, 1}


def test_a_difference_without_its_other_half_leaves_its_column_empty() -> None:
    result = joined(point("total", 100, 100), point("free", 30, 200), point("load", 1, 200))

    assert_array_equal(result.rows.times, [200])
    assert_array_equal(result.rows.values, [[NAN, NAN, 1.0]])
    assert result.left_out == {0: Reason.INCOMPLETE, 1: Reason.INCOMPLETE}


def test_streams_that_differ_in_attributes_have_no_common_value() -> None:
    result = joined(point("cpu", 0.1, 100, core="0"), point("cpu", 0.9, 100, core="1"), point("load", 1, 100))

    assert_array_equal(result.rows.values, [[NAN, NAN, 1.0]])
    assert result.left_out == {0: Reason.AMBIGUOUS, 1: Reason.AMBIGUOUS}


def test_hosts_behind_one_sender_are_not_mixed() -> None:
    one, other = ({"service.name": "host", "host.name": name} for name in "ab")

    result = joined(Point(one, "total", {}, 1, 5.0), Point(other, "free", {}, 1, 1.0))

    assert len(result.rows) == 0
    assert set(result.left_out.values()) == {Reason.AMBIGUOUS}


def test_a_value_that_overflows_by_scale_is_left_out() -> None:
    result = joined(point("cpu", 1e307, 100))

    assert len(result.rows) == 0
    assert result.left_out == {0: Reason.NOT_FINITE}


def test_no_points_give_no_rows_of_full_width() -> None:
    result = joined()

    assert result.rows.values.shape == (0, 3)
    assert result.rows.times.dtype == np.int64
