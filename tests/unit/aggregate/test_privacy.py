from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icosfl.aggregate.privacy import epsilon_of


# By the PLDAccountant of dp-accounting 0.6.0: T-fold composed Gaussians, add or remove one, discretised by 1e-4.
@pytest.mark.parametrize(
    ("noise_multiplier", "rounds", "delta", "epsilon"),
    [
        (1.0, 1, 1e-5, 4.37717810),
        (1.0, 10, 1e-5, 17.85658683),
        (0.5, 3, 1e-5, 20.12502355),
        (10.0, 3, 1e-5, 0.62000450),
        (4.0, 100, 1e-6, 14.45077697),
        (2.0, 1, 1e-9, 2.90973241),
        (100.0, 1, 1e-5, 0.02721966),
        (0.3, 1, 1e-3, 15.15335640),
    ],
)
def test_epsilon_is_what_an_accountant_by_privacy_losses_tells(
    noise_multiplier: float, rounds: int, delta: float, epsilon: float
) -> None:
    assert epsilon_of(noise_multiplier, rounds, delta) == pytest.approx(epsilon, rel=1e-5)


def test_no_round_costs_nothing() -> None:
    assert epsilon_of(1.0, 0, 1e-5) == 0


def test_noise_that_hides_all_but_delta_costs_nothing_more() -> None:
    assert epsilon_of(1e6, 1, 1e-3) == 0


@given(st.floats(0.01, 100), st.integers(1, 1000), st.floats(1e-12, 0.5))
def test_more_rounds_cost_more_more_noise_less_and_a_larger_delta_less(
    noise_multiplier: float, rounds: int, delta: float
) -> None:
    epsilon = epsilon_of(noise_multiplier, rounds, delta)

    assert math.isfinite(epsilon)
    assert epsilon >= 0
    assert epsilon_of(noise_multiplier, 2 * rounds, delta) >= epsilon
    assert epsilon_of(2 * noise_multiplier, rounds, delta) <= epsilon
    assert epsilon_of(noise_multiplier, rounds, delta / 2) >= epsilon


@given(st.floats(0.05, 20), st.integers(1, 100), st.floats(1e-10, 0.1))
def test_four_times_the_rounds_are_as_good_as_half_the_noise(
    noise_multiplier: float, rounds: int, delta: float
) -> None:
    more, louder = epsilon_of(noise_multiplier, 4 * rounds, delta), epsilon_of(noise_multiplier / 2, rounds, delta)

    assert more == pytest.approx(louder, rel=1e-6, abs=1e-6)


def test_so_little_noise_that_it_hides_nothing_still_has_a_number() -> None:
    shift = math.sqrt(50) / 1e-3

    assert epsilon_of(1e-3, 50, 1e-5) == pytest.approx(shift**2 / 2 + shift * 4.2649, rel=1e-3)
