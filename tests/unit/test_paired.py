"""Paired tests: against enumeration, McNemar's closed form, and simulations of both hypotheses."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.paired import (
    Judged,
    bootstrap_p,
    difference_interval,
    holm,
    paired_interval,
    paired_p,
    permutation_p,
    problems_needed,
    sample_swap_p,
    smallest_visible,
)


def p_by_enumeration(differences: list[float]) -> float:
    seen = abs(sum(differences)) - 1e-9
    signs = list(product((-1, 1), repeat=len(differences)))
    sums = [sum(s * d for s, d in zip(each, differences, strict=True)) for each in signs]
    return sum(abs(total) >= seen for total in sums) / len(signs)


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=9))
def test_permutation_test_of_shares_is_exact(eighths: list[int]) -> None:
    differences = [each / 8 for each in eighths]
    result = permutation_p(differences)
    assert result.method == "exact"
    assert result.value == pytest.approx(p_by_enumeration(differences))


def test_problems_with_different_numbers_of_samples_are_exact_too() -> None:
    differences = [3 / 7 - 2 / 8, 1 / 6 - 4 / 8, 5 / 8 - 0, 2 / 8 - 2 / 7, 1 / 8]
    result = permutation_p(differences)
    assert result.method == "exact"
    assert result.value == pytest.approx(p_by_enumeration(differences))


def test_few_differences_off_any_grid_are_enumerated() -> None:
    differences = [math.sqrt(each) / 10 for each in (2, 3, 5, 7, 11)] + [-math.pi / 10]
    result = permutation_p(differences)
    assert result.method == "exact"
    assert result.value == pytest.approx(p_by_enumeration(differences))


def test_many_differences_off_any_grid_are_sampled_with_a_seed() -> None:
    rng = np.random.default_rng(0)
    off_grid = rng.normal(0.1, 0.5, size=60)
    on_grid = np.round(off_grid * 500) / 500
    sampled, exact = permutation_p(off_grid, seed=1), permutation_p(on_grid)
    assert (sampled.method, exact.method) == ("monte carlo", "exact")
    assert sampled.value == pytest.approx(exact.value, abs=0.01)
    assert permutation_p(off_grid, seed=1) == sampled


@pytest.mark.parametrize(
    ("wins", "losses", "ties"), [(5, 0, 10), (9, 2, 80), (4, 4, 0), (30, 12, 5)]
)
def test_one_sample_a_problem_is_mcnemars_exact_test(wins: int, losses: int, ties: int) -> None:
    n, most = wins + losses, max(wins, losses)
    tail = sum(math.comb(n, i) for i in range(most, n + 1)) / 2**n
    found = permutation_p([1.0] * wins + [-1.0] * losses + [0.0] * ties).value
    assert found == pytest.approx(min(1.0, 2 * tail))


def test_a_whole_benchmark_is_counted_exactly() -> None:
    rng = np.random.default_rng(0)
    differences = rng.integers(-4, 5, size=1_319) / 4
    result = permutation_p(differences)
    z = differences.sum() / math.sqrt((differences**2).sum())
    assert result.method == "exact"
    assert result.value == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.01)


def test_no_difference_at_all_is_no_evidence() -> None:
    assert permutation_p([0.0] * 5).value == 1.0
    assert bootstrap_p([0.0] * 5) == 1.0
    assert problems_needed([0.0] * 5) is None


def paired_rates(rng: np.random.Generator, gain: float, size: tuple[int, int]) -> np.ndarray:
    """Differences of two models on problems of Beta(1, 2) difficulty, 4 samples each."""
    first = rng.beta(1, 2, size=size)
    second = first + gain * (1 - first)
    return rng.binomial(4, second) / 4 - rng.binomial(4, first) / 4


def test_false_alarms_are_as_rare_as_promised() -> None:
    trials = paired_rates(np.random.default_rng(1), 0.0, (400, 30))
    assert np.mean([permutation_p(d).value <= 0.05 for d in trials]) <= 0.075
    assert np.mean([bootstrap_p(d, num_resamples=500) <= 0.05 for d in trials]) <= 0.085


@pytest.mark.parametrize("gain", [0.0, 0.2])
@pytest.mark.parametrize("num_problems", [20, 100])
def test_difference_interval_covers_the_truth(gain: float, num_problems: int) -> None:
    trials = paired_rates(np.random.default_rng(2), gain, (1_000, num_problems))
    truth = gain * (1 - 1 / 3)
    covered = np.mean([low <= truth <= high for low, high in map(difference_interval, trials)])
    assert 0.93 <= covered <= 0.975


def test_equal_differences_do_not_give_an_empty_interval() -> None:
    low, high = difference_interval([0.0] * 40)
    assert low == -high and 0.05 < high < 0.15
    assert difference_interval([1.0] * 3)[0] < 0 and difference_interval([1.0] * 3)[1] == 1.0
    assert difference_interval([0.5]) == pytest.approx((0.5 - 0.975 * 1.5, 1.0))


def test_bootstrap_p_agrees_with_the_permutation_test_on_many_problems() -> None:
    d = paired_rates(np.random.default_rng(3), 0.05, (1, 300))[0]
    assert bootstrap_p(d) == pytest.approx(permutation_p(d).value, abs=0.03)


def test_holm_by_hand() -> None:
    """Smallest times 4, next times 3, then 2; never decreasing, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_the_number_of_problems_needed_gives_80_percent_power() -> None:
    rng = np.random.default_rng(4)
    pilot = paired_rates(rng, 0.1, (1, 200_000))[0]
    needed = problems_needed(pilot)
    assert needed is not None
    trials = paired_rates(rng, 0.1, (400, needed))
    power = np.mean([permutation_p(d).value <= 0.05 for d in trials])
    assert power == pytest.approx(0.8, abs=0.06)


def test_the_smallest_visible_difference_needs_just_these_problems() -> None:
    d = paired_rates(np.random.default_rng(5), 0.1, (1, 50))[0]
    visible = smallest_visible(d)
    assert visible is not None
    shifted = d - d.mean() + visible
    assert problems_needed(shifted) in (50, 51)


def judged(num_samples: list[int], num_correct: list[int], k: int = 1) -> Judged:
    return Judged(num_samples=np.array(num_samples), num_correct=np.array(num_correct), k=k)


def p_by_dealing(a: Judged, b: Judged) -> float:
    """Over all ways to choose which of each problem's samples are B's."""
    problems = zip(a.num_samples, b.num_samples, a.num_correct + b.num_correct, strict=True)
    sums = {0.0: 1.0}
    for num_a, num_b, correct in problems:
        samples = [1] * correct + [0] * (num_a + num_b - correct)
        deals = list(combinations(range(len(samples)), num_b))
        wider: dict[float, float] = {}
        for total, chance in sums.items():
            for deal in deals:
                of_b = sum(samples[i] for i in deal)
                key = round(total + of_b / num_b - (correct - of_b) / num_a, 9)
                wider[key] = wider.get(key, 0.0) + chance / len(deals)
        sums = wider
    seen = abs(float((b.values - a.values).sum())) - 1e-6
    return sum(chance for total, chance in sums.items() if abs(total) >= seen)


def test_dealing_out_samples_anew_agrees_with_enumeration() -> None:
    a, b = judged([1, 2, 3, 1], [0, 1, 1, 0]), judged([4, 4, 3, 5], [4, 2, 3, 3])
    assert sample_swap_p(a, b) == pytest.approx(p_by_dealing(a, b), abs=0.015)


def test_equal_numbers_of_samples_are_tested_by_sign_flips_alone() -> None:
    a, b = judged([4] * 6, [0, 1, 2, 0, 3, 1]), judged([4] * 6, [2, 2, 3, 1, 4, 4])
    assert paired_p(a, b) == permutation_p(b.values - a.values)
    assert paired_interval(a, b) == difference_interval(b.values - a.values)


def test_one_sample_against_many_of_hard_problems_is_no_evidence() -> None:
    """8 of 160 right against 0 of 10: what a rate of 5 % gives, yet no difference is negative."""
    a, b = judged([1] * 10, [0] * 10), judged([16] * 10, [1] * 8 + [0] * 2)
    assert permutation_p(b.values - a.values).value < 0.01
    assert paired_p(a, b).value > 0.5
    low, high = paired_interval(a, b)
    assert low < 0 < high


@pytest.mark.parametrize("num_problems", [10, 30])
@pytest.mark.parametrize("rates", [(5, 0.4), (1, 19), None])
def test_unequal_numbers_of_samples_give_no_more_false_alarms(
    num_problems: int, rates: tuple[float, float] | None
) -> None:
    rng = np.random.default_rng(6)
    alarms = misses = 0
    for _ in range(80):
        p = rng.beta(*rates, size=num_problems) if rates else np.full(num_problems, 0.05)
        a, b = (
            Judged(num_samples=np.full(num_problems, n), num_correct=rng.binomial(n, p))
            for n in (1, 16)
        )
        flips = permutation_p(b.values - a.values).value
        alarms += flips < 0.05 and sample_swap_p(a, b, num_deals=1_000) < 0.05
        low, high = paired_interval(a, b)
        misses += not low <= 0 <= high
    assert alarms <= 8 and misses <= 8


def test_a_real_difference_is_seen_with_unequal_numbers_of_samples() -> None:
    rng = np.random.default_rng(7)
    p = rng.beta(1, 2, size=200)
    a = Judged(num_samples=np.full(200, 4), num_correct=rng.binomial(4, p))
    b = Judged(num_samples=np.full(200, 16), num_correct=rng.binomial(16, p + 0.2 * (1 - p)))
    low, high = paired_interval(a, b)
    assert paired_p(a, b).value < 0.01 and 0 < low < 0.2 * 2 / 3 < high
    assert paired_p(replace(a, k=4), replace(b, k=4)).value < 0.01
