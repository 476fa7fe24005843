"""Two models on the same problems: is the difference real, how large may it be, what would show it.

Functions take differences d [P], one a problem: B's value minus A's. Pairing takes the
problems' difficulty out, which is most of the variance of a pass rate (Miller 2024,
arXiv:2411.00640, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rlvr.estimators import pass_at_k
from rlvr.intervals import (
    NORMAL,
    bootstrap_means,
    clopper_pearson_interval,
    clustered_interval,
    clustered_se,
    mean_interval,
)

Values = npt.ArrayLike

NUM_FLIPS = 100_000
"""Random sign flips where exact counting is too much: a p-value of 0.05 is then known to 0.0014."""
NUM_DEALS = 20_000
"""Random ways to deal out samples: a p-value of 0.05 is then known to 0.003."""
MAX_ENUMERATED = 16
"""Differences that are not 0, up to which all 2^m sign flips are tried (65,536)."""
MAX_UNITS = 1_000
"""Differences of shares are whole multiples of 1/u; larger u are not looked for."""
MAX_EXACT_CELLS = 100_000_000
"""Additions spent on counting exactly; about 0.1 s."""
ROUNDING = 1e-9
LARGER = "larger of two"
"""`PValue.method` where numbers of samples are unequal: see `paired_p`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PValue:
    """Of a two-sided test of "no difference"."""

    value: float
    method: str
    """`exact`: over all sign flips; `monte carlo`: over a seeded sample of them; `larger of two`:
    see `paired_p`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One model's verdicts on the paired problems, and its figure on each: pass@k."""

    num_samples: npt.NDArray[np.int_]
    """[P] judged samples."""
    num_correct: npt.NDArray[np.int_]
    """[P] how many are correct."""
    k: int = 1

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """[P]"""
        return pass_at_k(self.num_samples, self.num_correct, self.k)[:, self.k - 1]


def paired_p(a: Judged, b: Judged, seed: int = 0) -> PValue:
    """Test of "no difference" between two models on the same problems.

    With as many samples of a problem from A as from B it is `permutation_p`. With unequal numbers
    differences are lopsided even if nothing differs (1 sample of a hard problem is nearly always
    wrong, of 16 one may be right), and flipping their signs rejects far too often: in 14 % of 30
    problems of Beta(5, 0.4) difficulty with 1 and 16 samples, in 35 % of 10 problems that are all
    solved 5 % of the time. Then the samples of each problem are also dealt out anew between the two
    models (`sample_swap_p`), and the larger of the two p-values counts. Neither test would do
    alone: the second is blind to models that are good at different problems.
    """
    flips = permutation_p(differences_of(a, b), seed)
    if np.array_equal(a.num_samples, b.num_samples):
        return flips
    return PValue(value=max(flips.value, sample_swap_p(a, b, seed)), method=LARGER)


def sample_swap_p(a: Judged, b: Judged, seed: int = 0, num_deals: int = NUM_DEALS) -> float:
    """Permutation test within problems: the share of ways to deal out each problem's samples
    between A and B whose mean difference is at least as far from 0 (Fisher 1935, section 21).
    If each problem is as hard for A as for B, its samples are exchangeable whatever their numbers:
    B's share of the correct ones is hypergeometric. Sampled, p = (hits + 1) / (deals + 1).
    """
    rng = np.random.default_rng(seed)
    seen = abs(float(differences_of(a, b).sum())) - ROUNDING
    sums = np.zeros(num_deals)
    kinds = np.stack([a.num_samples, b.num_samples, a.num_correct + b.num_correct], axis=1)
    for (num_a, num_b, correct), count in zip(
        *np.unique(kinds, axis=0, return_counts=True), strict=True
    ):
        of_b = np.arange(max(0, correct - num_a), min(num_b, correct) + 1)
        ways = [math.comb(num_b, x) * math.comb(num_a, correct - x) for x in of_b.tolist()]
        chances = np.array([each / math.comb(num_a + num_b, correct) for each in ways])
        difference = differences_of(
            Judged(num_samples=np.full_like(of_b, num_a), num_correct=correct - of_b, k=a.k),
            Judged(num_samples=np.full_like(of_b, num_b), num_correct=of_b, k=b.k),
        )
        sums += rng.multinomial(count, chances / chances.sum(), size=num_deals) @ difference
    return (int((np.abs(sums) >= seen).sum()) + 1) / (num_deals + 1)


def differences_of(a: Judged, b: Judged) -> npt.NDArray[np.float64]:
    d = b.values - a.values
    d[np.abs(d) < ROUNDING] = 0.0
    return d


def permutation_p(differences: Values, seed: int = 0) -> PValue:
    """Paired permutation test: the share of sign flips whose sum is at least as far from 0.

    Were the models alike, A's result and B's on a problem could as well be swapped, which flips the
    sign of its difference (Fisher 1935, The Design of Experiments, section 21). With one sample a
    problem this is McNemar's exact test. Sums of shares lie on a grid, so all 2^P flips are counted
    by adding one problem at a time to the distribution of sums (the shift algorithm: Pagano and
    Tritchler 1983, doi:10.1080/01621459.1983.10477990); off the grid up to 16 differences are
    enumerated, and more are flipped at random (p = (hits + 1) / (flips + 1): Phipson and Smyth
    2010, doi:10.2202/1544-6115.1585).
    """
    d = np.asarray(differences, dtype=float)
    d = d[np.abs(d) > ROUNDING]
    if d.size == 0:
        return PValue(value=1.0, method="exact")
    units = _grid_units(d)
    if units:
        return PValue(value=_exact_p(np.rint(d * units).astype(int)), method="exact")
    seen = abs(d.sum()) - ROUNDING
    if d.size <= MAX_ENUMERATED:
        sums = np.zeros(1)
        for each in d:
            sums = np.concatenate([sums - each, sums + each])
        return PValue(value=float((np.abs(sums) >= seen).mean()), method="exact")
    rng = np.random.default_rng(seed)
    hits = flips = 0
    while flips < NUM_FLIPS:
        size = min(NUM_FLIPS - flips, max(1, 4_000_000 // d.size))
        signs = rng.integers(0, 2, size=(size, d.size), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ d) >= seen).sum())
        flips += size
    return PValue(value=(hits + 1) / (flips + 1), method="monte carlo")


def _grid_units(d: npt.NDArray[np.float64]) -> int | None:
    """The smallest u for which all d * u are whole numbers, if counting on that grid is cheap."""
    for units in range(1, MAX_UNITS + 1):
        scaled = d * units
        if np.all(np.abs(scaled - np.rint(scaled)) < ROUNDING * units):
            cells = d.size * np.abs(scaled).sum()
            return units if cells <= MAX_EXACT_CELLS else None
    return None


def _exact_p(steps: npt.NDArray[np.int_]) -> float:
    """Share of all sign flips of whole numbers whose sum is at least as far from 0 as theirs.

    A flip of s moves the sum by 2s, so it suffices to follow the sum of the steps that stay
    positive: T = sum of a subset of |s|, and the sum is 2T - total.
    """
    sizes = np.abs(steps)
    total, seen = int(sizes.sum()), abs(int(steps.sum()))
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    reached = 0
    for size in sizes:
        moved = chance[: reached + 1] / 2
        chance[: reached + 1] = moved
        reached += int(size)
        chance[size : reached + 1] += moved
    sums = 2 * np.arange(total + 1) - total
    return float(min(1.0, chance[np.abs(sums) >= seen].sum()))


def bootstrap_p(differences: Values, seed: int = 0, num_resamples: int = 10_000) -> float:
    """Two-sided bootstrap test of mean 0: the share of resamples of the centred, studentised
    differences at least as far from 0 (Efron and Tibshirani 1993, section 16.4). It does without
    the permutation test's assumption that the two models vary alike."""
    d = np.asarray(differences, dtype=float)
    error = clustered_se(d)
    if error is None or error < ROUNDING:
        return 1.0 if abs(float(d.mean())) < ROUNDING else permutation_p(d, seed).value
    seen = abs(float(d.mean())) / error
    centred = d - d.mean()
    moments = bootstrap_means(np.stack([centred, centred**2], axis=1), seed, num_resamples)
    spread = np.maximum(moments[:, 1] - moments[:, 0] ** 2, 0) * d.size / (d.size - 1)
    errors = np.sqrt(spread / d.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistics = np.where(errors > ROUNDING, np.abs(moments[:, 0]) / errors, np.inf)
    hits = int((statistics >= seen - ROUNDING).sum())
    return (hits + 1) / (num_resamples + 1)


def difference_interval(differences: Values, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the mean difference: Student's t on the differences.

    Where all differences are the same m, the t interval would be a point. P problems of which none
    deviates only say that few do, at most the share s that is the upper end of Clopper-Pearson's
    interval for 0 of P; each could move the mean by up to 1 + |m|: m +- s (1 + |m|).

    Raises:
        ValueError: there are no differences.
    """
    d = np.asarray(differences, dtype=float)
    if d.size == 0:
        raise ValueError("difference_interval needs at least one difference")
    mean = float(d.mean())
    interval = mean_interval(d, confidence)
    if interval is None or float(np.ptp(d)) < ROUNDING:
        slack = clopper_pearson_interval(0, d.size, confidence)[1] * (1 + abs(mean))
        interval = mean - slack, mean + slack
    return max(-1.0, interval[0]), min(1.0, interval[1])


def paired_interval(a: Judged, b: Judged) -> tuple[float, float]:
    """95 % interval of the mean difference: `difference_interval`, which with unequal numbers of
    samples is made no narrower than `_mover_interval`. (The t interval alone then misses as often
    as `paired_p` says of sign flips.)"""
    low, high = difference_interval(differences_of(a, b))
    if np.array_equal(a.num_samples, b.num_samples):
        return low, high
    floor, ceiling = _mover_interval(a, b)
    return max(-1.0, min(low, floor)), min(1.0, max(high, ceiling))


def _mover_interval(a: Judged, b: Judged) -> tuple[float, float]:
    """Interval of a difference from the intervals of the two means and their correlation r
    (Zou and Donner 2008, doi:10.1002/sim.3095; for paired proportions Newcombe 1998, Statistics in
    Medicine 17:2635-2650): d - sqrt((b-lb)^2 - 2 r (b-lb)(ua-a) + (ua-a)^2), and so upwards."""
    mean_a, mean_b = float(a.values.mean()), float(b.values.mean())
    low_a, high_a = clustered_interval(a.values, float(a.num_samples.mean()))
    low_b, high_b = clustered_interval(b.values, float(b.num_samples.mean()))
    varies = min(np.ptp(a.values), np.ptp(b.values)) > ROUNDING
    r = float(np.corrcoef(a.values, b.values)[0, 1]) if varies else 0.0

    def reach(of_a: float, of_b: float) -> float:
        return math.sqrt(max(0.0, of_a**2 + of_b**2 - 2 * r * of_a * of_b))

    difference = mean_b - mean_a
    return (
        difference - reach(high_a - mean_a, mean_b - low_b),
        difference + reach(mean_a - low_a, high_b - mean_b),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold for all comparisons together (Holm 1979, Scandinavian Journal of
    Statistics 6:65-70): the smallest is multiplied by m, the next by m - 1, ..., never decreasing.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def problems_needed(differences: Values, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """Problems like these needed to see a true difference as large as the one at hand:
    (z_{1-alpha/2} + z_power)^2 var(d) / mean(d)^2 (Miller 2024, arXiv:2411.00640, section 5), with
    as many samples a problem as now. Null when the difference is 0 or there is one problem.
    """
    d = np.asarray(differences, dtype=float)
    mean = abs(float(d.mean())) if d.size else 0.0
    if d.size < 2 or mean < ROUNDING:
        return None
    return max(2, math.ceil((_reach(power, alpha) / mean) ** 2 * float(d.var(ddof=1))))


def smallest_visible(differences: Values, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest true difference that these problems would show with the given power: the same
    formula solved for the difference. Null for a single problem or without any spread."""
    error = clustered_se(differences)
    return _reach(power, alpha) * error if error else None


def _reach(power: float, alpha: float) -> float:
    return NORMAL.inv_cdf(1 - alpha / 2) + NORMAL.inv_cdf(power)
