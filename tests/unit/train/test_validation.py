from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.errors import SchemaMismatch
from icosfl.process import Windows
from icosfl.schema import Schema, Series
from icosfl.train.messages import Level
from icosfl.train.scores import LARGEST_ERROR
from icosfl.train.validation import Levels, fleet_skill, gain, levels, skill_of, validation_part

SECOND = 1_000_000_000
SCHEMA = Schema((Series("cpu_usage", "%"), Series("power", "W")))


def level(rmse: float, persistence: float = 1.0, series: str = "cpu_usage", horizon: int = 1) -> Level:
    return Level(series, horizon, 10, rmse, persistence)


@st.composite
def claims(draw: st.DrawFn) -> Levels:
    """What a node may claim that is a level at all."""
    error = st.floats(0, LARGEST_ERROR, allow_subnormal=True)
    places = st.lists(st.tuples(st.sampled_from(["cpu", "power", "x"]), st.integers(1, 3)), max_size=6)
    return tuple(Level(series, steps, 1, draw(error), draw(error)) for series, steps in draw(places))


def test_the_part_that_models_are_chosen_on_is_the_older_half_of_what_was_there_at_a_time(
    windows_of: Callable[..., Windows], wave: np.ndarray
) -> None:
    windows = windows_of(wave)
    until = int(windows.last_times[39] + 4 * SECOND)  # the farthest target of the 40th

    part = validation_part(windows, until)

    assert np.flatnonzero(part).tolist() == list(range(20))
    later = windows.pick(np.arange(len(windows)) < 200)
    assert validation_part(later, until)[:40].tolist() == part[:40].tolist()  # rows that come later change nothing
    assert not validation_part(later, until)[40:].any()


def test_without_a_time_it_is_the_older_half_of_all_and_none_of_nothing(
    windows_of: Callable[..., Windows], wave: np.ndarray
) -> None:
    windows = windows_of(wave)

    assert np.flatnonzero(validation_part(windows, None)).tolist() == list(range(len(windows) // 2))
    assert validation_part(windows, 0).sum() == 0
    assert len(validation_part(windows.pick(np.zeros(len(windows), np.bool_)), None)) == 0


def test_levels_are_the_median_s_errors_and_persistence_s_on_the_same_points(
    windows_of: Callable[..., Windows], wave: np.ndarray
) -> None:
    windows = windows_of(wave, np.full(300, np.nan))
    quantiles = np.stack([windows.targets - 9, windows.targets + 2, windows.targets + 9], axis=-1)
    quantiles[0, 0] = np.nan  # no forecast there
    count = len(windows)

    near, far = levels(SCHEMA, windows, quantiles)

    assert (near.series, near.horizon_steps, near.count, near.rmse) == ("cpu_usage", 1, count - 1, pytest.approx(2))
    assert (far.series, far.horizon_steps, far.count, far.rmse) == ("cpu_usage", 4, count, pytest.approx(2))
    last = windows.inputs[:, -1, 0]
    assert near.persistence == pytest.approx(np.sqrt(((windows.targets[1:, 0, 0] - last[1:]) ** 2).mean()))
    assert far.persistence == pytest.approx(np.sqrt(((windows.targets[:, 1, 0] - last) ** 2).mean()))


def test_forecasts_that_are_not_finite_or_only_overflow_are_no_points(
    windows_of: Callable[..., Windows], wave: np.ndarray
) -> None:
    windows = windows_of(wave, np.full(300, np.nan))
    quantiles = np.full((*windows.targets.shape, 3), 1e200)

    assert levels(SCHEMA, windows, quantiles) == ()


def test_forecasts_of_another_shape_are_refused(windows_of: Callable[..., Windows], wave: np.ndarray) -> None:
    windows = windows_of(wave, wave)

    with pytest.raises(SchemaMismatch, match="forecasts of shape"):
        levels(SCHEMA, windows, np.zeros((*windows.targets.shape, 2)))
    with pytest.raises(SchemaMismatch, match="3 series"):
        levels(Schema((*SCHEMA.series, Series("more", ""))), windows, np.zeros((*windows.targets.shape, 3)))


def test_a_skill_is_the_mean_over_levels_of_how_much_smaller_the_error_is() -> None:
    assert skill_of((level(0.5), level(3.0, 4.0, "power"))) == pytest.approx((0.5 + 0.25) / 2)


def test_levels_at_which_persistence_makes_no_error_have_no_part_in_a_skill() -> None:
    assert skill_of((level(0.5), level(1.0, 0.0, "power"))) == 0.5
    assert skill_of((level(0.0, 0.0),)) is None
    assert skill_of((level(LARGEST_ERROR, 5e-324),)) is None
    assert skill_of(()) is None


def test_a_level_that_is_told_twice_counts_once() -> None:
    assert skill_of((level(0.5), level(0.0, 1.0, "power"), level(0.0, 1.0, "power"))) == 0.75


def test_a_fleet_s_skill_is_the_mean_over_the_nodes_that_have_one() -> None:
    assert fleet_skill({"a": (level(0.5),), "b": (level(1.0),), "c": ()}) == 0.25
    assert fleet_skill({"c": ()}) is None
    assert fleet_skill({}) is None


def test_two_models_are_compared_where_both_were_measured() -> None:
    old = {"a": (level(0.5), level(0.9, series="power")), "b": (level(0.1),)}
    new = {"a": (level(0.4),), "c": (level(0.0),)}

    assert gain(new, old) == pytest.approx(0.1)
    assert gain(old, new) == pytest.approx(-0.1)


def test_models_that_no_host_measured_both_of_cannot_be_compared() -> None:
    assert gain({"a": (level(0.4),)}, {"b": (level(0.4),)}) is None
    assert gain({"a": (level(0.4),)}, {"a": (level(0.4, series="power"),)}) is None
    assert gain({"a": (level(0.4, 0.0),)}, {"a": (level(0.4),)}) is None


@given(claims())
def test_whatever_a_node_claims_it_moves_the_fleet_s_skill_by_no_more_than_its_share(claimed: Levels) -> None:
    honest = {name: (level(0.5),) for name in "abc"}

    skill = fleet_skill(honest | {"hostile": claimed})

    assert skill is not None
    assert (3 * 0.5 - 1) / 4 <= skill <= (3 * 0.5 + 1) / 4


@given(claims(), claims())
def test_whatever_a_node_claims_a_comparison_is_bounded_and_has_two_sides(new: Levels, old: Levels) -> None:
    better = gain({"a": new}, {"a": old})

    if better is None:
        assert gain({"a": old}, {"a": new}) is None
    else:
        assert -2 <= better <= 2
        assert gain({"a": old}, {"a": new}) == pytest.approx(-better)
