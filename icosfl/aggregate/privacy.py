"""What the noise of differential privacy is worth: ε of a run's rounds, exactly.

A round tells the mean of the nodes' updates, each clipped to a norm C, with Gaussian noise of z·C on their sum. The
difference between the sums with and without one node is at most C, so after T rounds somebody who saw all of them knows
no more than from one Gaussian of noise z/√T (Dong, Roth and Su 2022). Its ε for a δ has a closed form (Balle and Wang
2018, theorem 8), which is solved by bisection. Every node counts as if it took part in every round.
"""

from __future__ import annotations

import math

# So exact is ε, as a share of itself.
PRECISION = 1e-9

# From so many deviations on the tail of a Gaussian is told by its asymptotic series: it is exact there, and the tail
# itself soon is no number any more.
FAR = 30.0


def epsilon_of(noise_multiplier: float, rounds: int, delta: float) -> float:
    """ε of so many rounds; rounded up, never down.

    Args:
        noise_multiplier: z, above 0.
        rounds: T, at least 0.
        delta: δ, between 0 and 1.
    """
    shift = math.sqrt(rounds) / noise_multiplier
    if _delta(shift, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while _delta(shift, high) > delta:
        low, high = high, 2 * high
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(shift, middle) > delta else (low, middle)
    return high


def _delta(shift: float, epsilon: float) -> float:
    """δ for which a Gaussian whose mean one node moves by `shift` standard deviations is (ε, δ)-private."""
    if shift == 0:
        return 0.0
    above = _log_tail(epsilon / shift - shift / 2)
    below = epsilon + _log_tail(epsilon / shift + shift / 2)
    return max(math.exp(above) - math.exp(below), 0.0) if below < above else 0.0


def _log_tail(distance: float) -> float:
    """Logarithm of the share of a Gaussian that lies above so many standard deviations."""
    if distance < FAR:
        return math.log(math.erfc(distance / math.sqrt(2)) / 2)
    square = distance * distance
    series = -1 / square + 3 / square**2 - 15 / square**3
    return -square / 2 - math.log(distance * math.sqrt(2 * math.pi)) + math.log1p(series)
