"""What n judged samples of every problem say about a model: unbiased pass@k, pass^k and maj@k.

Pure functions of counts; `rlvr/intervals.py` says how sure the figures are, `rlvr/figures.py` puts
both together. `error` verdicts are not in the counts: n is the number of *judged* samples of a
problem, and it may differ from problem to problem.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from rlvr.intervals import (
    bootstrap_means,
    clopper_pearson_interval,
    clustered_interval,
    clustered_se,
    wilson_interval,
)

__all__ = [
    "bootstrap_means",
    "clopper_pearson_interval",
    "clustered_interval",
    "clustered_se",
    "maj_at_k",
    "pass_at_k",
    "pass_hat_k",
    "wilson_interval",
]

Array = npt.NDArray[np.float64]


def pass_at_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, max_k: int) -> Array:
    """Unbiased pass@k of every problem, for k = 1 .. max_k: the chance that at least one of k
    samples drawn without replacement from the n is correct, 1 - C(n-c, k) / C(n, k).

    Source: Chen et al. 2021, arXiv:2107.03374, equation 1. The ratio is built up factor by factor,
    (n-c-i) / (n-i), so that large n loses no digits. 1 - (1 - c/n)^k is *not* this: it is biased
    downwards.

    Args:
        num_samples: [P] judged samples of each problem (n).
        num_correct: [P] how many of them are correct (c).
        max_k: Largest k.

    Returns:
        [P, max_k], column k-1 for k. NaN where k > n: fewer samples than k do not tell.

    Raises:
        ValueError: max_k < 1, or a count is negative or larger than its n.
    """
    n, c = _counts(num_samples, num_correct, max_k)
    return 1 - _all_drawn(n, n - c, max_k)


def pass_hat_k(num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, max_k: int) -> Array:
    """Unbiased pass^k of every problem, for k = 1 .. max_k: the chance that *all* of k samples are
    correct, C(c, k) / C(n, k). Reliability, where pass@k is reach.

    Source: Yao et al. 2024 (tau-bench), arXiv:2406.12045, section 3. Arguments, result and errors
    are those of `pass_at_k`.
    """
    n, c = _counts(num_samples, num_correct, max_k)
    return _all_drawn(n, c, max_k)


def _counts(
    num_samples: npt.ArrayLike, num_correct: npt.ArrayLike, max_k: int
) -> tuple[Array, Array]:
    n, c = np.asarray(num_samples, dtype=float), np.asarray(num_correct, dtype=float)
    if max_k < 1:
        raise ValueError(f"k is at least 1, got {max_k}")
    if n.shape != c.shape or n.ndim != 1 or np.any(c < 0) or np.any(c > n):
        raise ValueError("each problem needs 0 <= num_correct <= num_samples")
    return n, c


def _all_drawn(n: Array, marked: Array, max_k: int) -> Array:
    """[P, max_k] chance that k draws without replacement from n are all of the marked ones."""
    drawn = np.arange(max_k, dtype=float)
    left = n[:, None] - drawn
    factors = np.maximum(marked[:, None] - drawn, 0) / np.where(left > 0, left, np.nan)
    return np.cumprod(factors, axis=1, dtype=np.float64)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], max_k: int) -> Array:
    """Unbiased maj@k of one problem, for k = 1 .. max_k: the chance that the answer given most
    often among k samples drawn without replacement is correct.

    Source of the figure: Wang et al. 2022 (self-consistency), arXiv:2203.11171; maj1@k of
    Lewkowycz et al. 2022, arXiv:2206.14858. Exact over all C(n, k) subsets, no sampling: subsets in
    which an answer gets j votes and every other fewer are counted by a product of polynomials
    sum_i C(m, i) x^i, one for each other answer given m times, cut at i < j.

    The rules:
    * a tie is not a majority: where two answers lead together, the vote fails;
    * a sample without an answer (null) takes up a place among the k and has no vote;
    * samples are grouped by *answer*, never by verdict: merging all correct ones would let the gold
      answer help in the vote;
    * should samples of the same answer differ in verdict, the share of correct ones counts.

    Args:
        answers: [n] normalised answers of the judged samples; null where there is none.
        correct: [n] their verdicts.

    Returns:
        [max_k]; NaN where k > n, and from the k on at which C(n, k) is too large for a double (only
        for n above 1,000).

    Raises:
        ValueError: the two differ in length, or max_k < 1.
    """
    if len(answers) != len(correct) or max_k < 1:
        raise ValueError("maj@k needs as many verdicts as answers, and k at least 1")
    n = len(answers)
    votes: dict[Hashable, list[bool]] = {}
    for answer, right in zip(answers, correct, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(right)
    result = np.full(max_k, np.nan)
    top = sum(1 for _ in takewhile(lambda k: _log_choose(n, k) < 700, range(1, min(n, max_k) + 1)))
    result[:top] = 0.0
    totals = np.array([float(math.comb(n, k)) for k in range(1, top + 1)])
    counts = {answer: len(given) for answer, given in votes.items()}
    for answer, given in votes.items():
        if any(given):
            wins = _subsets_won(answer, counts, n, top)[1:]
            result[:top] += sum(given) / len(given) * wins / totals
    return np.minimum(result, 1.0)


def _subsets_won(winner: Hashable, counts: dict[Hashable, int], n: int, top: int) -> Array:
    """[top + 1] number of subsets, by size, in which `winner` has more votes than any other."""
    won = np.zeros(top + 1)
    others = [count for answer, count in counts.items() if answer != winner]
    for j in range(1, min(counts[winner], top) + 1):
        # Answers given fewer than j times cannot tie: they are as free as samples without one.
        bounded = [count for count in others if count >= j]
        free = n - counts[winner] - sum(bounded)
        ways = _choices(free, free, top - j)
        for count in bounded:
            ways = np.convolve(ways, _choices(count, j - 1, top - j))[: top - j + 1]
        won[j : j + ways.size] += math.comb(counts[winner], j) * ways
    return won


def _choices(m: int, most: int, degree: int) -> Array:
    """Coefficients of sum_{i <= most} C(m, i) x^i, up to `degree`."""
    return np.array([float(math.comb(m, i)) for i in range(min(m, most, degree) + 1)])


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
