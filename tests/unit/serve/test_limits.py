from __future__ import annotations

import math

import numpy as np
import pytest

from icosfl.serve.limits import limits_of

SOME = np.array([1.0, 2.0, math.nan])


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("%", (0.0, 100.0)),
        ("MiBy", (0.0, math.inf)),
        ("W", (0.0, math.inf)),
        ("1", (0.0, math.inf)),
        ("Cel", (-math.inf, math.inf)),
    ],
)
def test_limits_follow_from_the_unit(unit: str, expected: tuple[float, float]) -> None:
    assert limits_of(unit, SOME) == expected


def test_a_limit_that_measured_values_pass_is_none() -> None:
    assert limits_of("%", np.array([50.0, 180.0])) == (0.0, math.inf)
    assert limits_of("1", np.array([-2.0, 5.0])) == (-math.inf, math.inf)


def test_without_any_measured_value_the_units_limits_hold() -> None:
    assert limits_of("%", np.array([math.nan])) == (0.0, 100.0)
