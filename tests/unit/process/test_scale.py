from __future__ import annotations

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from icosfl.errors import SchemaMismatch
from icosfl.process import Moments, Scaler

values = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6).map(lambda value: round(value, 3)))
tables = hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(2)), elements=values)


@given(parts=st.lists(tables, min_size=1, max_size=5))
def test_merged_moments_are_those_of_all_values_together(parts: list[np.ndarray]) -> None:
    together = Moments.of(np.concatenate(parts))

    merged = reduce(Moments.merge, [Moments.of(part) for part in parts])

    np.testing.assert_array_equal(merged.count, together.count)
    np.testing.assert_allclose(merged.mean, together.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(merged.m2, together.m2, rtol=1e-6, atol=1e-3)


def test_merging_keeps_a_small_spread_beside_a_large_mean() -> None:
    rng = np.random.default_rng(1)
    parts = [1e9 + rng.normal(0, 1, (500, 1)) for _ in range(4)]

    merged = reduce(Moments.merge, [Moments.of(part) for part in parts])

    np.testing.assert_allclose(merged.scaler().scale, np.concatenate(parts).std(axis=0), rtol=1e-6)


def test_moments_leave_out_what_is_no_value() -> None:
    moments = Moments.of(np.array([[1.0, np.nan], [3.0, np.inf], [np.nan, 7.0]]))

    assert moments.count.tolist() == [2, 1]
    assert moments.mean.tolist() == [2, 7]
    assert moments.m2.tolist() == [2, 0]


def test_scaled_training_values_have_mean_0_and_deviation_1() -> None:
    data = np.random.default_rng(1).normal([50, 2000], [10, 3], (1000, 2))

    scaled = Moments.of(data).scaler().transform(data)

    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(scaled.std(axis=0), 1)


@pytest.mark.parametrize("constant", [0.0, 42.0, 0.1, 1e9])
def test_a_constant_series_gets_scale_1(constant: float) -> None:
    scaler = Moments.of(np.full((1000, 1), constant)).scaler()

    assert scaler.scale.tolist() == [1]
    np.testing.assert_allclose(scaler.transform(np.array([[constant + 2]])), 2, rtol=1e-6)


def test_a_series_that_was_never_seen_has_no_scaled_values() -> None:
    scaler = Moments.of(np.array([[1.0, np.nan], [3.0, np.nan]])).scaler()

    np.testing.assert_array_equal(scaler.transform(np.array([[3.0, 50.0]])), [[1, np.nan]])
    np.testing.assert_array_equal(scaler.inverse(np.array([[1.0, 0.0]])), [[3, np.nan]])


def test_a_node_that_has_a_series_teaches_it_to_those_that_lack_it() -> None:
    lacking = Moments.of(np.full((5, 1), np.nan))
    having = Moments.of(np.array([[1.0], [3.0]]))

    for merged in (lacking.merge(having), having.merge(lacking)):
        assert merged.scaler().mean.tolist() == [2]
        assert merged.scaler().scale.tolist() == [1]


@given(hnp.arrays(np.float64, (3, 4, 2), elements=st.floats(-1e3, 1e3)))
def test_scaling_back_gives_the_values_again(data: np.ndarray) -> None:
    scaler = Scaler(np.array([5.0, -2.0]), np.array([3.0, 0.5]))

    np.testing.assert_allclose(scaler.inverse(scaler.transform(data)), data, atol=1e-9)


def test_a_scaler_and_moments_survive_the_way_through_json() -> None:
    moments = Moments.of(np.array([[1.0, np.nan], [4.0, np.nan]]))

    again = Moments.from_dict(json.loads(json.dumps(moments.to_dict(), allow_nan=False)))
    scaler = Scaler.from_dict(json.loads(json.dumps(moments.scaler().to_dict(), allow_nan=False)))

    for name in ("count", "mean", "m2"):
        np.testing.assert_array_equal(getattr(again, name), getattr(moments, name))
    np.testing.assert_array_equal(scaler.mean, moments.scaler().mean)
    np.testing.assert_array_equal(scaler.scale, moments.scaler().scale)


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"count": [1.0], "mean": [1.0]},
        {"count": [1.0], "mean": [1.0], "m2": [1.0], "more": [1.0]},
        {"count": [1.0], "mean": ["x"], "m2": [1.0]},
        {"count": [1.0], "mean": [1.0, 2.0], "m2": [1.0]},
        {"count": [[1.0]], "mean": [[1.0]], "m2": [[1.0]]},
        {"count": [-1.0], "mean": [1.0], "m2": [1.0]},
        {"count": [1.0], "mean": [1.0], "m2": [-1.0]},
        {"count": [1.0], "mean": [float("inf")], "m2": [1.0]},
        {"count": [1.0], "mean": [float("nan")], "m2": [1.0]},
        {"count": [1.0], "mean": [None], "m2": [1.0]},
        {"count": None, "mean": None, "m2": None},
    ],
)
def test_moments_that_cannot_be_are_refused(data: object) -> None:
    with pytest.raises(SchemaMismatch):
        Moments.from_dict(data)


@pytest.mark.parametrize(
    ("mean", "scale"),
    [([0.0], [0.0]), ([0.0], [-1.0]), ([np.inf], [1.0]), ([0.0], [np.inf]), ([np.nan], [1.0]), ([0.0, 1.0], [1.0])],
)
def test_a_scaler_that_cannot_be_is_refused(mean: list[float], scale: list[float]) -> None:
    with pytest.raises(SchemaMismatch):
        Scaler(np.array(mean), np.array(scale))


def test_moments_of_hugely_different_nodes_are_refused_in_place_of_infinity() -> None:
    far = Moments(np.array([1.0]), np.array([1e300]), np.array([0.0]))
    near = Moments(np.array([1.0]), np.array([-1e300]), np.array([0.0]))

    with pytest.raises(SchemaMismatch, match="finite"):
        far.merge(near)


def test_widths_that_do_not_fit_are_refused() -> None:
    scaler = Moments.of(np.zeros((3, 2))).scaler()

    with pytest.raises(SchemaMismatch, match="2 series"):
        scaler.transform(np.zeros((3, 3)))
    with pytest.raises(SchemaMismatch, match="cannot merge"):
        Moments.of(np.zeros((3, 2))).merge(Moments.of(np.zeros((3, 1))))
