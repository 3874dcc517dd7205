from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from icosfl.bridge.attributes import digest
from icosfl.bridge.columns import Points
from icosfl.bridge.identities import Identity, Stream
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
        RuleConfig(
            name="picky",
            match={"service.name": "picky"},
            sources=(
                SourceConfig(series="cpu", metric="load"),
                SourceConfig(series="load", metric="load", minus="base"),
            ),
        ),
        RuleConfig(name="meter", match={"service.name": "meter"}, sources=(SOURCES[2],)),
    ],
    SCHEMA,
)
NAN = math.nan


@dataclass
class Point:
    resource: dict[str, str]
    metric: str
    attributes: dict[str, str]
    time: int
    value: float


class Result:
    """The rows, the numbers of the points that stand in them, and for the others why they do not."""

    def __init__(self, joined: Joined) -> None:
        self.rows = joined.rows
        self.kept = {number for number, reason in enumerate(joined.reasons) if reason is None}
        self.left_out = {number: reason for number, reason in enumerate(joined.reasons) if reason is not None}
        assert joined.stored == len(self.kept)
        assert joined.left_out == Counter(self.left_out.values())


def point(metric: str, value: float, time: int, service: str = "host", **attributes: str) -> Point:
    return Point({"service.name": service}, metric, attributes, time, value)


def stream(point: Point) -> Stream:
    rule = RULES.rule(point.resource)
    assert rule is not None
    targets = rule.feeds[point.metric.encode()].targets(point.attributes)
    return Stream(digest(point.resource), Identity(digest(point.attributes), targets, valueless=False))


def joined(*points: Point, tolerance: int = 10) -> Result:
    columns = Points(
        times=np.array([point.time for point in points], np.uint64),
        values=np.array([point.value for point in points], np.float64),
        kinds=np.arange(len(points)),
        streams=[stream(point) for point in points],
    )
    return Result(join(columns, RULES.table, len(SCHEMA), tolerance))


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


@pytest.mark.parametrize("twice", ["total", "free"])
def test_a_difference_with_two_streams_of_one_half_has_no_value(twice: str) -> None:
    result = joined(point("total", 5, 100), point("free", 3, 100), point(twice, 4, 100, numa="0"))

    assert set(result.left_out.values()) == {Reason.AMBIGUOUS}
    assert result.kept == set()


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


def test_a_point_may_be_stored_by_one_source_and_left_out_by_another() -> None:
    result = joined(point("load", 1.5, 100, service="picky"))

    assert_array_equal(result.rows.values, [[1.5, NAN, NAN]])
    assert result.kept == {0}


def test_of_a_point_that_no_source_stores_the_one_of_the_last_column_tells_why() -> None:
    result = joined(point("load", 1, 100, service="picky", a="b"), point("load", 2, 100, service="picky"))

    assert set(result.left_out.values()) == {Reason.AMBIGUOUS}
    assert joined(point("base", 1, 100, service="picky")).left_out == {0: Reason.INCOMPLETE}


def test_times_at_the_end_of_time_do_not_overflow() -> None:
    assert_array_equal(joined(point("load", 1, 2**63 - 1)).rows.times, [2**63 - 1])
