from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from icosfl.aggregate.combine import Combined, Combiner, Contribution, least_updates
from icosfl.aggregate.guards import SUM_TOLERANCE, unfit
from icosfl.aggregate.privacy import epsilon_of
from icosfl.aggregate.settings import (
    FEDADAM,
    FEDAVG,
    FEDMEDIAN,
    FEDPROX,
    FEDTRIMMEDAVG,
    KRUM,
    STRATEGIES,
    CombineSettings,
    RunSettings,
)
from icosfl.config import run_config
from icosfl.errors import CheckpointError, ConfigError, RunFailed
from icosfl.train.shape import Array, ModelShape

logging.getLogger("flwr").setLevel(logging.WARNING)

SHAPE = ModelShape("lstm", series=2, horizons=2, window=16, hidden=3, layers=1)
NAMES = [name for name, _ in SHAPE.arrays()]
HEAD, BIAS, READ = NAMES.index("head.weight"), NAMES.index("head.bias"), NAMES.index("network.weight_ih_l0")
CPU, POWER = 0, 1
ROBUST = (FEDMEDIAN, FEDTRIMMEDAVG, KRUM)
SETTINGS = replace(RunSettings.from_run_config(run_config(Path(__file__).parents[3])).combine, norm_factor=0.0)


def rule(strategy: str, **changes: float | str) -> CombineSettings:
    return replace(SETTINGS, strategy=strategy, **changes)  # type: ignore[arg-type]


def model(seed: int, spread: float = 0.1) -> list[Array]:
    """Arrays as a training may leave them; the linear part's weights sum to 1."""
    random = np.random.default_rng(seed)
    arrays = [random.normal(0, spread, dimensions).astype(np.float32) for _, dimensions in SHAPE.arrays()]
    arrays[0] += (1 - arrays[0].sum(axis=1, keepdims=True)) / SHAPE.window
    return arrays


BEFORE = model(0)


def contribution(
    number: int, arrays: list[Array] | None = None, examples: int = 100, *, has: Sequence[bool] = (True, True)
) -> Contribution:
    """A node's update; what belongs to a series that it lacks it sends back as it came."""
    arrays = [array.copy() for array in arrays or near(number)]
    for series in np.flatnonzero(~np.array(has)):
        for array, old, mask in zip(arrays, BEFORE, of_series(int(series)), strict=True):
            array[mask] = old[mask]
    return Contribution(f"worker-{number}", arrays, examples, np.array(has))


def near(seed: int, spread: float = 0.05) -> list[Array]:
    """An update not far from the model that the round began with."""
    moved = [(old + spread * new).astype(np.float32) for old, new in zip(BEFORE, model(seed + 1, 1.0), strict=True)]
    moved[0] += (1 - moved[0].sum(axis=1, keepdims=True)) / SHAPE.window
    return moved


def of_series(series: int) -> list[NDArray[np.bool_]]:
    """Which numbers of a model have to do with a series, told by where the model's code puts them."""
    masks = [np.zeros(dimensions, np.bool_) for _, dimensions in SHAPE.arrays()]
    masks[0][series] = True
    masks[READ].reshape(-1, SHAPE.read, SHAPE.series)[..., series] = True
    masks[HEAD].reshape(SHAPE.horizons, SHAPE.series, 3, -1)[:, series] = True
    masks[HEAD][:, SHAPE.hidden : SHAPE.hidden + 4].reshape(-1, SHAPE.horizons, SHAPE.series)[..., series] = True
    masks[HEAD][:, SHAPE.hidden + 4 + series] = True
    masks[BIAS].reshape(SHAPE.horizons, SHAPE.series, 3)[:, series] = True
    return masks


def flat(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def combined(how: CombineSettings, contributions: Sequence[Contribution]) -> Combined:
    return Combiner(how, SHAPE).combine(1, BEFORE, contributions)


def five(*others: Contribution) -> list[Contribution]:
    """Five nodes, the last of them these."""
    return [*(contribution(number) for number in range(1, 6 - len(others))), *others]


def poisoned(arrays: list[Array]) -> Contribution:
    return Contribution("worker-9", arrays, 100, np.array([True, True]))


def test_fedavg_is_the_mean_weighted_by_examples() -> None:
    updates = [contribution(1, examples=10), contribution(2, examples=30)]

    outcome = combined(rule(FEDAVG), updates)

    wanted = 0.25 * flat(updates[0].arrays) + 0.75 * flat(updates[1].arrays)
    assert flat(outcome.arrays) == pytest.approx(wanted, abs=1e-6)
    assert (outcome.used, outcome.notes, outcome.epsilon) == (("worker-1", "worker-2"), (), None)


def test_the_common_part_of_a_series_is_the_mean_over_the_nodes_that_have_it() -> None:
    both, only_cpu = contribution(1, examples=10), contribution(2, examples=30, has=(True, False))

    common = combined(rule(FEDAVG), [both, only_cpu]).arrays[0]

    assert common[POWER] == pytest.approx(both.arrays[0][POWER], abs=1e-6)
    assert common[CPU] == pytest.approx(0.25 * both.arrays[0][CPU] + 0.75 * only_cpu.arrays[0][CPU], abs=1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_series_that_no_node_has_keeps_its_common_part(strategy: str) -> None:
    updates = [contribution(number, has=(True, False)) for number in range(5)]

    assert combined(rule(strategy), updates).arrays[0][POWER] == pytest.approx(BEFORE[0][POWER], abs=1e-6)


@pytest.mark.parametrize("strategy", [FEDMEDIAN, FEDTRIMMEDAVG])
def test_nodes_without_a_power_meter_do_not_outvote_those_that_have_one(strategy: str) -> None:
    with_meter = [contribution(number) for number in (1, 2, 3)]
    without = [contribution(number, has=(True, False)) for number in (4, 5, 6, 7)]

    outcome = combined(rule(strategy), [*with_meter, *without])

    among = combined(rule(FEDMEDIAN), with_meter)
    for new, wanted, mask in zip(outcome.arrays[1:], among.arrays[1:], of_series(POWER)[1:], strict=True):
        assert np.array_equal(new[mask], wanted[mask])


@pytest.mark.parametrize("strategy", ROBUST)
def test_what_only_two_nodes_have_no_vote_can_judge_and_it_stays_as_it_was(strategy: str) -> None:
    honest, wild = contribution(1), poisoned([array + 0.5 for array in near(2)])
    wild.arrays[0] = BEFORE[0][:, ::-1].copy()
    without = [contribution(number, has=(True, False)) for number in range(3, 8)]

    outcome = combined(rule(strategy), [honest, wild, *without])

    assert outcome.arrays[0][POWER] == pytest.approx(BEFORE[0][POWER], abs=1e-6)


def test_fedprox_averages_as_fedavg_does_and_tells_the_nodes_how_strongly_they_are_held() -> None:
    updates = five()
    prox, plain = Combiner(rule(FEDPROX, proximal_mu=0.3), SHAPE), Combiner(rule(FEDAVG), SHAPE)

    assert prox.proximal_mu == 0.3
    assert plain.proximal_mu == 0
    assert np.array_equal(flat(combined(rule(FEDPROX), updates).arrays), flat(combined(rule(FEDAVG), updates).arrays))


def test_fedadam_steps_by_the_server_s_learning_rate_and_leaves_the_linear_part_to_the_mean() -> None:
    updates = five()
    step = 0.002

    outcome, mean = combined(rule(FEDADAM, server_learning_rate=step), updates), combined(rule(FEDAVG), updates)

    assert np.array_equal(outcome.arrays[0], mean.arrays[0])
    moved = flat(outcome.arrays[1:]) - flat(BEFORE[1:])
    towards = flat(mean.arrays[1:]) - flat(BEFORE[1:])
    assert np.all(np.sign(moved) == np.sign(towards))
    assert np.abs(moved).max() < 2 * step
    # Its second step knows of the first.
    combiner = Combiner(rule(FEDADAM, server_learning_rate=step), SHAPE)
    first = combiner.combine(1, BEFORE, updates)
    second = combiner.combine(2, first.arrays, updates)
    fresh = Combiner(rule(FEDADAM, server_learning_rate=step), SHAPE).combine(2, first.arrays, updates)
    assert np.abs(flat(second.arrays) - flat(fresh.arrays)).max() > step / 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_that_is_interrupted_combines_on_as_if_it_were_not(strategy: str) -> None:
    whole = Combiner(rule(strategy), SHAPE)
    first = whole.combine(1, BEFORE, five())

    resumed = Combiner(rule(strategy), SHAPE)
    resumed.restore({key: value.copy() for key, value in whole.state().items()})

    straight, again = (one.combine(2, first.arrays, five()) for one in (whole, resumed))
    assert np.array_equal(flat(straight.arrays), flat(again.arrays))


def test_the_state_before_the_first_round_can_be_restored_too() -> None:
    combiner = Combiner(rule(FEDADAM), SHAPE)
    combiner.restore(Combiner(rule(FEDADAM), SHAPE).state())

    assert np.array_equal(
        flat(combiner.combine(1, BEFORE, five()).arrays), flat(combined(rule(FEDADAM), five()).arrays)
    )


@pytest.mark.parametrize("strategy", [FEDAVG, FEDADAM])
def test_the_state_of_another_strategy_or_model_is_refused(strategy: str) -> None:
    wider = replace(SHAPE, hidden=4)
    arrays = [np.full(dimensions, 1 / 16, np.float32) for _, dimensions in wider.arrays()]
    other = Combiner(rule(FEDADAM), wider)
    other.combine(1, arrays, [Contribution("worker-1", arrays, 1, np.ones(2, bool))])

    with pytest.raises(CheckpointError, match=f"not of {strategy}"):
        Combiner(rule(strategy), SHAPE).restore(other.state())


@pytest.mark.parametrize("state", [{}, {"privacy.rounds": np.array(-1)}, {"privacy.rounds": np.array([1.5])}])
def test_a_state_without_a_count_of_rounds_is_refused(state: dict[str, NDArray[np.float64]]) -> None:
    with pytest.raises(CheckpointError, match="not of fedavg"):
        Combiner(rule(FEDAVG), SHAPE).restore(state)


@given(st.permutations(range(5)), st.sampled_from(STRATEGIES))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_nodes_changes_nothing(order: list[int], strategy: str) -> None:
    lacks = {1: (True, False), 3: (False, True)}
    updates = [
        contribution(number, examples=10 * number + 1, has=lacks.get(number, (True, True))) for number in range(5)
    ]

    straight, other = (combined(rule(strategy), one) for one in (updates, [updates[number] for number in order]))

    assert np.array_equal(flat(straight.arrays), flat(other.arrays))
    assert (straight.used, straight.notes) == (other.used, other.notes)


def wild(seed: int, size: float, *, one_way: bool) -> Contribution:
    """An update that is this far from the model in every number, and no fault is found with it."""
    random = np.random.default_rng(seed)
    ways = [random.normal(0, 1, array.shape) for array in BEFORE]
    arrays = [
        np.clip(old + size * (np.abs(way) if one_way else way), -400, 400).astype(np.float32)
        for old, way in zip(BEFORE, ways, strict=True)
    ]
    arrays[0] += (1 - arrays[0].sum(axis=1, keepdims=True)) / SHAPE.window
    return poisoned(arrays)


SIZES = st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 30.0, 900.0])


@given(st.sampled_from([FEDMEDIAN, FEDTRIMMEDAVG]), st.integers(0, 2**32 - 1), SIZES, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_one_of_five_cannot_move_a_number_beyond_the_honest(
    strategy: str, seed: int, size: float, one_way: bool, guarded: bool
) -> None:
    honest = [contribution(number) for number in range(1, 5)]

    outcome = combined(rule(strategy, norm_factor=10.0 * guarded), [*honest, wild(seed, size, one_way=one_way)])

    values = [flat(one.arrays) for one in honest]
    lowest, highest = np.min(values, axis=0), np.max(values, axis=0)
    # Bringing a linear part's weights back to a sum of 1 moves each by no more than the honest ones' mean distance.
    reach = np.zeros_like(lowest)
    reach[: BEFORE[0].size] = np.broadcast_to(
        (highest - lowest)[: BEFORE[0].size].reshape(BEFORE[0].shape).mean(axis=1, keepdims=True), BEFORE[0].shape
    ).ravel()
    new = flat(outcome.arrays)
    assert np.all(new >= lowest - reach - 1e-6)
    assert np.all(new <= highest + reach + 1e-6)


@given(st.integers(0, 2**32 - 1), SIZES, st.booleans(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_what_krum_chooses_is_as_near_to_an_honest_update_as_these_are_to_each_other(
    seed: int, size: float, one_way: bool, guarded: bool
) -> None:
    honest = [contribution(number) for number in range(1, 5)]

    outcome = combined(rule(KRUM, norm_factor=10.0 * guarded), [*honest, wild(seed, size, one_way=one_way)])

    values, new = [flat(one.arrays) for one in honest], flat(outcome.arrays)
    apart = max(float(np.linalg.norm(one - other)) for one in values for other in values)
    assert min(float(np.linalg.norm(new - one)) for one in values) <= 2**0.5 * apart


@pytest.mark.parametrize("strategy", ROBUST)
def test_what_fedavg_would_follow_a_robust_rule_does_not(strategy: str) -> None:
    wild = poisoned([np.full_like(array, 50.0) for array in BEFORE])
    wild.arrays[0] = BEFORE[0]

    fooled, held = (combined(rule(one), five(wild)) for one in (FEDAVG, strategy))

    assert np.abs(flat(fooled.arrays[1:])).max() > 5
    assert np.abs(flat(held.arrays[1:])).max() < 1


def test_krum_chooses_one_update_and_says_whose_it_did_not() -> None:
    wild = poisoned([array + 1 for array in near(9)])
    wild.arrays[0] = BEFORE[0]

    outcome = combined(rule(KRUM), five(wild))

    (chosen,) = outcome.used
    updates = {one.host: one for one in five(wild)}
    assert chosen != "worker-9"
    assert flat(outcome.arrays) == pytest.approx(flat(updates[chosen].arrays), abs=1e-6)
    assert {absent.host for absent in outcome.notes} == set(updates) - {chosen}


def test_krum_tells_updates_apart_that_lie_close_to_each_other_far_from_zero() -> None:
    far = [array + 300 for array in BEFORE]
    far[0] = BEFORE[0]
    steps = [1e-4, 1.1e-4, 1.2e-4, 1.3e-4, 9e-3]
    updates = [
        Contribution(
            f"worker-{number}", [BEFORE[0], *(array + np.float32(step) for array in far[1:])], 1, np.ones(2, bool)
        )
        for number, step in enumerate(steps)
    ]

    outcome = Combiner(rule(KRUM), SHAPE).combine(1, far, updates)

    assert outcome.used in {("worker-1",), ("worker-2",)}


@given(
    st.sampled_from(STRATEGIES),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e4, -3e38]),
    st.integers(0, SHAPE.parameters - 1),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_no_number_that_is_not_finite_or_huge_enters_a_model(
    strategy: str, number: float, where: int, private: bool
) -> None:
    bad = flat(near(7)).astype(np.float32)
    bad[where] = number
    ends = np.cumsum([array.size for array in BEFORE])[:-1]
    arrays = [part.reshape(old.shape) for part, old in zip(np.split(bad, ends), BEFORE, strict=True)]
    noise = 0.01 if private and strategy not in ROBUST else 0.0
    how = rule(strategy, noise_multiplier=noise)

    updates = [contribution(1), contribution(2), contribution(3), contribution(4), contribution(5)]
    outcome = combined(how, [*updates, poisoned(arrays)])

    assert unfit(SHAPE, outcome.arrays) is None
    assert "worker-9" not in outcome.used
    assert [absent.host for absent in outcome.notes if absent.host == "worker-9"] == ["worker-9"]
    if not noise:
        assert np.array_equal(flat(outcome.arrays), flat(combined(how, updates).arrays))


@given(
    st.sampled_from(STRATEGIES),
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=8),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_the_linear_part_s_weights_still_sum_to_1(strategy: str, has: list[tuple[bool, bool]], seed: int) -> None:
    updates = [contribution(seed + number, has=one) for number, one in enumerate(has)]

    sums = combined(rule(strategy), updates).arrays[0].sum(axis=1, dtype=np.float64)

    assert np.abs(sums - 1).max() < SUM_TOLERANCE / 10


@pytest.mark.parametrize(
    ("how", "least"),
    [
        (rule(FEDAVG), 1),
        (rule(FEDMEDIAN), 3),
        (rule(FEDTRIMMEDAVG), 3),
        (rule(KRUM, malicious_nodes=0), 3),
        (rule(KRUM, malicious_nodes=2), 5),
    ],
)
def test_a_rule_asks_for_as_many_updates_as_outvote_a_bad_one(how: CombineSettings, least: int) -> None:
    assert least_updates(how) == Combiner(how, SHAPE).least == least
    if least > 1:
        with pytest.raises(RunFailed, match=f"{least - 1} updates are left, {how.strategy} needs {least}"):
            combined(how, [contribution(number) for number in range(least - 1)])


@pytest.mark.parametrize(
    ("how", "enough"),
    [
        (rule(KRUM, malicious_nodes=1), 5),
        (rule(KRUM, malicious_nodes=2), 7),
        (rule(FEDTRIMMEDAVG, trimmed_share=0.2), 5),
        (rule(FEDTRIMMEDAVG, trimmed_share=0.15), 7),
    ],
)
def test_of_too_few_for_a_rule_the_median_counts(how: CombineSettings, enough: int) -> None:
    updates = [contribution(number) for number in range(enough)]

    few, many = (combined(how, some).arrays for some in (updates[:-1], updates))

    assert np.array_equal(flat(few), flat(combined(rule(FEDMEDIAN), updates[:-1]).arrays))
    assert not np.array_equal(flat(many), flat(combined(rule(FEDMEDIAN), updates).arrays))


@given(st.floats(1e-2, 0.499), st.integers(3, 30))
@settings(deadline=None, max_examples=40)
def test_a_trimmed_mean_never_is_a_mean_of_all(share: float, nodes: int) -> None:
    wild = poisoned([np.full_like(array, 900.0) for array in BEFORE])
    wild.arrays[0] = BEFORE[0]
    updates = [*(contribution(number % 4) for number in range(nodes - 1)), wild]
    updates = [replace(one, host=f"worker-{number}") for number, one in enumerate(updates)]

    outcome = combined(rule(FEDTRIMMEDAVG, trimmed_share=share), updates)

    assert np.abs(flat(outcome.arrays)).max() < 1


def test_a_round_without_any_update_fails() -> None:
    with pytest.raises(RunFailed, match="0 updates are left, fedavg needs 1"):
        combined(rule(FEDAVG), [])


def test_updates_that_are_all_rejected_fail_the_round_and_it_says_why() -> None:
    updates = [contribution(number) for number in (1, 2)]
    updates += [poisoned([np.full_like(array, np.nan) for array in BEFORE])]

    with pytest.raises(RunFailed, match=r"2 updates are left, fedmedian needs 3: worker-9: .* not finite"):
        combined(rule(FEDMEDIAN), updates)


@pytest.mark.parametrize("strategy", ROBUST)
def test_a_robust_rule_with_the_noise_of_differential_privacy_is_refused(strategy: str) -> None:
    with pytest.raises(ConfigError, match=f"noise-multiplier: {strategy} is no mean"):
        Combiner(rule(strategy, noise_multiplier=1.0), SHAPE)


def private(**changes: float | str) -> CombineSettings:
    return rule(FEDAVG, **{"noise_multiplier": 1e-12, "clipping_norm": 1e6} | changes)


def test_under_differential_privacy_every_node_counts_the_same_however_many_windows_it_claims() -> None:
    updates = [contribution(1, examples=1), contribution(2, examples=10**9)]

    assert flat(combined(private(), updates).arrays) == pytest.approx(
        (flat(updates[0].arrays) + flat(updates[1].arrays)) / 2, abs=1e-5
    )


@given(st.integers(0, 1000), st.sampled_from([0.01, 1.0, 500.0]), st.floats(0.01, 10))
@settings(deadline=None, max_examples=40)
def test_under_differential_privacy_no_node_moves_the_sum_by_more_than_the_clipping_norm(
    seed: int, size: float, norm: float
) -> None:
    others = [contribution(number) for number in (1, 2, 3)]
    still = [Contribution("worker-9", [array.copy() for array in BEFORE], 1, np.ones(2, bool))]
    arrays = near(seed, size)
    how = private(clipping_norm=norm)

    without, with_it = (combined(how, [*others, one]) for one in (*still, poisoned(arrays)))

    moved = 4 * (flat(with_it.arrays) - flat(without.arrays))
    assert np.linalg.norm(moved) <= norm * (1 + 1e-3) + 1e-3


def test_a_node_that_did_not_move_at_all_does_not_break_the_clipping() -> None:
    still = [Contribution(f"worker-{number}", BEFORE, 1, np.ones(2, bool)) for number in (1, 2)]

    assert flat(combined(private(clipping_norm=0.1), still).arrays) == pytest.approx(flat(BEFORE), abs=1e-6)


def test_under_differential_privacy_the_linear_part_is_the_mean_over_the_nodes_that_have_the_series() -> None:
    with_meter = [contribution(number) for number in (1, 2)]
    without = [contribution(number, has=(True, False)) for number in (3, 4, 5)]

    common = combined(private(), [*with_meter, *without]).arrays[0]

    wanted = (with_meter[0].arrays[0][POWER] + with_meter[1].arrays[0][POWER]) / 2
    assert common[POWER] == pytest.approx(wanted, abs=1e-5)


def test_the_noise_is_on_every_array_as_large_as_settings_and_number_of_nodes_say() -> None:
    updates = five()
    noisy = [flat(combined(private(noise_multiplier=2.0, clipping_norm=0.3), updates).arrays) for _ in range(40)]

    spread = np.std(noisy, axis=0)

    ends = np.cumsum([array.size for array in BEFORE])[:-1]
    for part in np.split(spread, ends):
        assert np.sqrt(np.mean(part**2)) == pytest.approx(2.0 * 0.3 / 5, rel=0.15)


def test_no_bound_that_depends_on_other_nodes_is_in_the_way_of_differential_privacy() -> None:
    far = poisoned([old + 50 * (new - old) for old, new in zip(BEFORE, near(9), strict=True)])
    far.arrays[0] = BEFORE[0]

    outcome = combined(private(norm_factor=2.0), five(far))

    assert outcome.notes == ()


def test_epsilon_is_told_of_all_rounds_so_far_and_a_resumed_run_goes_on_counting() -> None:
    how = rule(FEDAVG, noise_multiplier=3.0, clipping_norm=0.1, privacy_delta=1e-6)
    combiner = Combiner(how, SHAPE)
    first = combiner.combine(1, BEFORE, five())
    resumed = Combiner(how, SHAPE)
    resumed.restore(combiner.state())

    second = resumed.combine(2, first.arrays, five())

    assert first.epsilon == epsilon_of(3.0, 1, 1e-6)
    assert second.epsilon == epsilon_of(3.0, 2, 1e-6)


def test_noise_that_drowns_the_model_fails_the_round_with_a_cure() -> None:
    with pytest.raises(RunFailed, match="fedavg made no sound model") as failed:
        combined(rule(FEDAVG, noise_multiplier=1e6), five())

    assert "lower noise-multiplier" in failed.value.cure


def test_fedadam_steps_towards_the_noised_mean_and_sees_no_other() -> None:
    how = rule(FEDADAM, noise_multiplier=1.0, clipping_norm=0.1)

    one, other = (flat(combined(how, five()).arrays) for _ in range(2))

    assert not np.array_equal(one, other)
    assert np.abs(one - flat(BEFORE))[SHAPE.series * 16 * 2 :].max() < 2 * how.server_learning_rate
