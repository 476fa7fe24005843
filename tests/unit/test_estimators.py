"""pass@k, pass^k, maj@k and intervals: closed forms, enumeration of all subsets, coverage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.estimators import maj_at_k, pass_at_k, pass_hat_k
from rlvr.intervals import (
    bca_interval,
    beta_quantile,
    bootstrap_interval,
    bootstrap_means,
    clopper_pearson_interval,
    clustered_interval,
    clustered_se,
    mean_interval,
    t_quantile,
    wilson_interval,
)

Interval = tuple[float, float]


def by_enumeration(verdicts: Sequence[bool], k: int, wanted: Callable[..., bool]) -> float:
    """Share of all k-subsets for which `wanted` holds."""
    subsets = list(combinations(verdicts, k))
    return sum(wanted(subset) for subset in subsets) / len(subsets)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_pass_at_k_and_pass_hat_k_are_the_shares_of_all_subsets(verdicts: list[bool]) -> None:
    n, c = [len(verdicts)], [sum(verdicts)]
    for k in range(1, len(verdicts) + 1):
        assert pass_at_k(n, c, 8)[0, k - 1] == pytest.approx(by_enumeration(verdicts, k, any))
        assert pass_hat_k(n, c, 8)[0, k - 1] == pytest.approx(by_enumeration(verdicts, k, all))


def test_pass_at_k_matches_the_closed_form_for_many_samples() -> None:
    n, c = 200, 13
    expected = [1 - math.comb(n - c, k) / math.comb(n, k) for k in range(1, 201)]
    assert pass_at_k([n], [c], 200)[0] == pytest.approx(expected, abs=1e-13)


def test_pass_at_1_and_pass_hat_1_are_the_share_correct() -> None:
    assert pass_at_k([4, 8], [1, 8], 1)[:, 0].tolist() == [0.25, 1.0]
    assert pass_hat_k([4, 8], [1, 8], 1)[:, 0].tolist() == [0.25, 1.0]


def test_k_beyond_a_problems_judged_samples_has_no_value() -> None:
    values = pass_at_k([2, 4], [1, 1], 4)
    assert np.isnan(values[0]).tolist() == [False, False, True, True]
    assert not np.isnan(values[1]).any()


def test_pass_at_k_is_unbiased() -> None:
    """Over all outcomes of 6 samples it averages to the truth, 1 - (1-p)^k."""
    p, n = 0.3, 6
    chances = np.array([math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)])
    for k in range(1, n + 1):
        values = pass_at_k([n] * (n + 1), list(range(n + 1)), n)[:, k - 1]
        assert chances @ values == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize(("n", "c", "k"), [([1], [2], 1), ([1], [-1], 1), ([1], [0], 0)])
def test_impossible_counts_are_refused(n: list[int], c: list[int], k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, c, k)


def majority_by_enumeration(
    answers: Sequence[str | None], correct: Sequence[bool], k: int
) -> float:
    """The definition, subset by subset."""
    total = 0.0
    subsets = list(combinations(range(len(answers)), k))
    for subset in subsets:
        votes = Counter(answers[i] for i in subset if answers[i] is not None)
        best = votes.most_common(2)
        if best and (len(best) == 1 or best[0][1] > best[1][1]):
            same = [right for a, right in zip(answers, correct, strict=True) if a == best[0][0]]
            total += sum(same) / len(same)
    return total / len(subsets)


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2", "3", "4", None]), st.booleans()),
        min_size=1,
        max_size=8,
    )
)
def test_maj_at_k_is_the_share_of_all_subsets(samples: list[tuple[str | None, bool]]) -> None:
    answers = [answer for answer, _ in samples]
    correct = [right and answer is not None for answer, right in samples]
    values = maj_at_k(answers, correct, len(samples))
    for k in range(1, len(samples) + 1):
        assert values[k - 1] == pytest.approx(majority_by_enumeration(answers, correct, k))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("7 7 8", [2 / 3, 1 / 3, 1]),  # k = 2: {7,7} wins, two ties lose
        ("7 8", [1 / 2, 0]),
        ("7 8 9", [1 / 3, 0, 0]),
        ("7 - -", [1 / 3, 2 / 3, 1]),  # samples without an answer have no vote
        ("8 8 7", [1 / 3, 0, 0]),
    ],
)
def test_maj_at_k_by_hand(answers: str, expected: list[float]) -> None:
    given_answers = [None if each == "-" else each for each in answers.split()]
    correct = [each == "7" for each in given_answers]
    assert maj_at_k(given_answers, correct, len(correct)) == pytest.approx(expected)


def test_correct_answers_written_differently_do_not_vote_together() -> None:
    """Or else the gold answer would help in the vote."""
    assert maj_at_k(["1/2", "0.5", "3", "3"], [True, True, False, False], 4)[3] == 0


def test_maj_at_k_of_many_samples_agrees_with_drawing_at_random() -> None:
    rng = np.random.default_rng(0)
    answers = [str(each) for each in rng.choice(6, size=60, p=[0.3, 0.25, 0.2, 0.1, 0.1, 0.05])]
    exact = maj_at_k(answers, [each == "0" for each in answers], 60)[15]
    wins = 0
    for _ in range(4_000):
        drawn = Counter(rng.choice(answers, size=16, replace=False)).most_common(2)
        wins += drawn[0][0] == "0" and (len(drawn) == 1 or drawn[0][1] > drawn[1][1])
    assert exact == pytest.approx(wins / 4_000, abs=0.03)


def test_maj_at_k_of_thousands_of_samples_stays_finite() -> None:
    answers = ["7"] * 1_500 + ["8"] * 500
    values = maj_at_k(answers, [each == "7" for each in answers], 2_000)
    known = values[~np.isnan(values)]
    assert known.size > 100 and np.all((known >= 0) & (known <= 1)) and known[-1] > 0.99


# ---- intervals ----


def test_wilson_matches_a_published_example() -> None:
    """Newcombe 1998 (doi:10.1002/sim.1778), table I: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_clopper_pearson_matches_a_published_example() -> None:
    """The same table: 81 of 263 gives 0.2527 to 0.3676; 0 of 20 gives 0 to 0.1684."""
    low, high = clopper_pearson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2527, 0.3676)
    low, high = clopper_pearson_interval(0, 20)
    assert low == 0.0 and round(high, 4) == 0.1684


@pytest.mark.parametrize("trials", [1, 2, 10, 500])
def test_clopper_pearson_at_the_ends_has_a_closed_form(trials: int) -> None:
    assert clopper_pearson_interval(0, trials)[1] == pytest.approx(1 - 0.025 ** (1 / trials))
    assert clopper_pearson_interval(trials, trials)[0] == pytest.approx(0.025 ** (1 / trials))


def test_clopper_pearson_ends_are_where_the_binomial_tails_are_2_5_percent() -> None:
    successes, trials = 7, 31
    low, high = clopper_pearson_interval(successes, trials)

    def at_most(count: int, p: float) -> float:
        return sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(count + 1))

    assert 1 - at_most(successes - 1, low) == pytest.approx(0.025)
    assert at_most(successes, high) == pytest.approx(0.025)


@pytest.mark.parametrize("interval", [wilson_interval, clopper_pearson_interval])
def test_proportions_without_trials_are_refused(interval: Callable[..., Interval]) -> None:
    for successes, trials in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            interval(successes, trials)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (2, 4.3027), (10, 2.2281), (30, 2.0423), (1000, 1.9623)]
)
def test_t_quantiles_match_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, abs=5e-5)


def test_beta_quantile_of_the_uniform_distribution_is_the_probability() -> None:
    for probability in (0.001, 0.3, 0.999):
        assert beta_quantile(probability, 1, 1) == pytest.approx(probability)


def test_clustered_se_counts_problems_not_samples() -> None:
    """4 problems, all or nothing: 1,000 samples each tell no more than one."""
    assert clustered_se([0, 1, 0, 1]) == pytest.approx(math.sqrt((1 / 3) / 4))
    assert clustered_se([0.5]) is None


def test_the_interval_of_single_samples_is_about_wilsons() -> None:
    rates = [1.0] * 30 + [0.0] * 70
    assert clustered_interval(rates) == pytest.approx(wilson_interval(30, 100), abs=3e-3)


def test_an_interval_is_never_empty_where_all_problems_agree() -> None:
    assert clustered_interval([0.0] * 50)[1] > 0.05
    assert clustered_interval([1.0] * 50)[0] < 0.95
    low, high = clustered_interval([0.5] * 50, num_samples=8)
    assert high - low > 0.1


def test_samples_cannot_say_more_than_independent_trials_would() -> None:
    """Rates of 8 samples that happen to lie close together."""
    rates = [0.5, 0.5, 0.5, 0.5, 0.5, 0.625]
    low, high = clustered_interval(rates, num_samples=8)
    assert high - low >= wilson_interval(24.5, 48)[1] - wilson_interval(24.5, 48)[0]
    free_low, free_high = clustered_interval(rates)
    assert free_high - free_low < high - low


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 16))
def test_the_interval_lies_in_the_unit_interval_around_the_mean(
    rates: list[float], num_samples: int
) -> None:
    low, high = clustered_interval(rates, num_samples)
    mean = float(np.mean(rates))
    assert 0 <= low <= mean + 1e-9 and mean - 1e-9 <= high <= 1
    assert high > low


@pytest.mark.parametrize("values", [[], [1.5], [-0.1, 0.5], [float("nan")]])
def test_values_that_are_no_rates_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError):
        clustered_interval(values)


# Difficulty of the problems: about a third solved, hard, nearly all solved.
DIFFICULTIES = {"mixed": (1.0, 2.0), "hard": (0.3, 3.0), "easy": (5.0, 0.4)}


@pytest.mark.parametrize("name", DIFFICULTIES)
@pytest.mark.parametrize(("num_problems", "n"), [(30, 1), (30, 8), (200, 8)])
def test_avg_interval_covers_the_truth_about_95_percent_of_the_time(
    name: str, num_problems: int, n: int
) -> None:
    """Problems drawn anew in each trial, samples of one problem correlated through difficulty."""
    rng = np.random.default_rng(len(name) + n)
    a, b = DIFFICULTIES[name]
    rates = rng.binomial(n, rng.beta(a, b, size=(1_000, num_problems))) / n
    intervals = [clustered_interval(each, n) for each in rates]
    covered = np.mean([low <= a / (a + b) <= high for low, high in intervals])
    assert 0.925 <= covered <= 0.985


@pytest.mark.parametrize("name", ["hard", "easy"])
def test_normal_interval_would_not_do(name: str) -> None:
    """Why `clustered_interval` is not mean +- 1.96 se: on few easy or hard problems it misses."""
    rng = np.random.default_rng(5)
    a, b = DIFFICULTIES[name]
    rates = rng.binomial(8, rng.beta(a, b, size=(1_000, 20))) / 8
    means, errors = rates.mean(axis=1), rates.std(axis=1, ddof=1) / math.sqrt(20)
    normal = np.mean(np.abs(means - a / (a + b)) <= 1.96 * errors)
    ours = np.mean([low <= a / (a + b) <= high for low, high in map(clustered_interval, rates)])
    assert normal < 0.92 < ours


def test_t_interval_matches_a_hand_worked_example() -> None:
    """1, 2, 3, 4, 5: mean 3, standard error sqrt(2.5 / 5), t(4) = 2.7764."""
    half = 2.7764 * math.sqrt(0.5)
    assert mean_interval([1, 2, 3, 4, 5]) == pytest.approx((3 - half, 3 + half), abs=1e-3)
    assert mean_interval([1]) is None


def test_bootstrap_spreads_as_the_standard_error_says() -> None:
    values = np.random.default_rng(0).random((200, 1))
    means = bootstrap_means(values, seed=1)
    assert means.std() == pytest.approx(clustered_se(values[:, 0]), rel=0.06)
    assert means.mean() == pytest.approx(values.mean(), abs=2e-3)


def test_bootstrap_is_repeatable_and_depends_on_the_seed() -> None:
    values = np.random.default_rng(0).random((20, 2))
    assert np.array_equal(bootstrap_means(values, seed=1), bootstrap_means(values, seed=1))
    assert not np.array_equal(bootstrap_means(values, seed=1), bootstrap_means(values, seed=2))


def test_bootstrap_of_missing_values_averages_those_that_are_there() -> None:
    values = np.array([[1.0, 1.0], [3.0, np.nan], [5.0, np.nan]])
    means = bootstrap_means(values, seed=0, num_resamples=500)
    assert np.nanmax(means[:, 0]) == 5.0
    known = means[~np.isnan(means[:, 1]), 1]
    assert known.size < 500 and np.allclose(known, 1.0)


def test_bca_of_symmetric_values_is_the_percentile_interval() -> None:
    values = np.linspace(0, 1, 41)
    means = bootstrap_means(values[:, None], seed=3, num_resamples=20_000)[:, 0]
    expected = np.quantile(means, [0.025, 0.975])
    assert bca_interval(values, means) == pytest.approx(tuple(expected), abs=6e-3)


def test_bca_leans_towards_the_long_tail() -> None:
    values = np.array([0.0] * 30 + [1.0] * 3)
    low, high = bca_interval(values, bootstrap_means(values[:, None], seed=0)[:, 0])
    assert high - values.mean() > values.mean() - low


@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize(("name", "num_problems"), [("mixed", 60), ("hard", 60), ("easy", 100)])
def test_pass_at_k_interval_covers_the_truth_about_95_percent_of_the_time(
    name: str, num_problems: int, k: int
) -> None:
    rng = np.random.default_rng(k)
    a, b = DIFFICULTIES[name]
    truth = 1 - math.prod((b + i) / (a + b + i) for i in range(k))  # E[1 - (1-p)^k], p ~ Beta
    trials, n = 400, 8
    correct = rng.binomial(n, rng.beta(a, b, size=(trials, num_problems)))
    values = np.stack([pass_at_k([n] * num_problems, each, k)[:, k - 1] for each in correct])
    resampled = bootstrap_means(values.T, seed=0, num_resamples=1_000)
    intervals = [bootstrap_interval(values[i], resampled[:, i], n) for i in range(trials)]
    covered = np.mean([low <= truth <= high for low, high in intervals])
    assert covered >= 0.92
    assert covered <= 0.99 or name == "easy"  # pass@8 of 0.9998: no interval of 100 is that narrow
