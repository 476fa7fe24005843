"""Intervals of pass rates: how far the truth may be from the figure. Pure functions, numpy only.

Each function takes one value a problem where samples of a problem are one cluster: samples of the
same problem resemble each other, so 100 problems x 8 samples say far less than 800 problems would.
"""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Values = npt.ArrayLike

NORMAL = NormalDist()
Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

NUM_RESAMPLES = 2_000
"""The 2.5 % point of 2,000 resamples lies between the 1.8 % and the 3.2 % point of infinitely many,
19 times in 20; more changes the third digit of a bound."""
MAX_DRAW_CELLS = 4_000_000
"""Resampling weights held at once (32 MB); larger jobs are drawn in pieces."""


def wilson_interval(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    _check_proportion(successes, trials)
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and at 1 the formula gives the end itself; rounding must not move it inside.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == trials else min(1.0, (centre + half) / scale)
    return low, high


def clopper_pearson_interval(
    successes: int, trials: int, confidence: float = 0.95
) -> tuple[float, float]:
    """The "exact" interval of a proportion, never less sure than it says and often wider than
    needed (Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404).

    Raises:
        ValueError: there are no trials, or more successes than trials.
    """
    _check_proportion(successes, trials)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else beta_quantile(tail, successes, trials - successes + 1)
    high = (
        1.0 if successes == trials else beta_quantile(1 - tail, successes + 1, trials - successes)
    )
    return low, high


def clustered_se(values: Values) -> float | None:
    """Cluster-robust standard error of the mean of problem-level values [P], each problem being
    one cluster (Miller 2024, arXiv:2411.00640, section 2.2). Null for a single problem.

    With every problem weighted equally, Miller's clustered formula is the standard deviation of
    the problem means over the square root of their number; P - 1 instead of P makes it unbiased.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return None
    return float(values.std(ddof=1) / math.sqrt(values.size))


def clustered_interval(
    values: Values, num_samples: float | None = None, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of problem-level values in [0, 1], samples of a problem one cluster.

    Wilson's interval on the effective number of trials m(1-m) / se^2, with the t quantile of P - 1
    degrees of freedom: the clustered standard error says how many independent trials the data are
    worth. (Korn and Graubard 1998, Survey Methodology 24:193-201, use the effective number with
    Clopper-Pearson; Franco et al. 2019, doi:10.1093/jssam/smy019, find Wilson with it best.) The
    normal interval m +- 1.96 se covers 85 to 89 % of the time on 20 hard or easy problems and far
    less where nearly all problems have the same value; this one 93 to 95 % (docs/figures.md).

    Where all problems agree, the problems count as one trial each: the interval is never empty.

    Args:
        values: [P] one value a problem, each in [0, 1].
        num_samples: Judged samples a problem. They are an upper bound of what a problem is worth:
            n samples can never say more than n independent trials.

    Raises:
        ValueError: there are no values, or one is outside [0, 1].
    """
    values = np.asarray(values, dtype=float)
    if values.size == 0 or not (np.all(values >= 0) and np.all(values <= 1)):
        raise ValueError("clustered_interval needs at least one value, each in [0, 1]")
    count = values.size
    mean = min(1.0, float(values.mean()))
    variance = float(values.var(ddof=1)) if count > 1 else 0.0
    trials = float(count)
    if variance > 1e-15:
        trials = max(trials, mean * (1 - mean) * count / variance)
        if num_samples is not None:
            trials = min(trials, count * max(1.0, num_samples))
    quantile = t_quantile(1 - (1 - confidence) / 2, count - 1) if count > 1 else Z95
    return wilson_interval(mean * trials, trials, quantile)


def mean_interval(values: Values, confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval of a mean (Student 1908, doi:10.1093/biomet/6.1.1), for values without
    bounds, such as rewards. Null for fewer than two values."""
    values = np.asarray(values, dtype=float)
    error = clustered_se(values)
    if error is None:
        return None
    half = t_quantile(1 - (1 - confidence) / 2, values.size - 1) * error
    mean = float(values.mean())
    return mean - half, mean + half


def bootstrap_means(values: Values, seed: int, num_resamples: int = NUM_RESAMPLES) -> Array:
    """Means over problems drawn with replacement (Efron 1979, doi:10.1214/aos/1176344552).

    A problem is drawn with all its samples, so both sources of chance are in: which problems, and
    which samples. Every column sees the same draws.

    Args:
        values: [P, K] one row a problem; NaN where a problem has no value.

    Returns:
        [num_resamples, K] means; NaN where a draw holds no value at all.
    """
    values = np.asarray(values, dtype=float)
    num_problems = values.shape[0]
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    complete = bool(known.all())
    rng = np.random.default_rng(seed)
    piece = max(1, MAX_DRAW_CELLS // num_problems)
    means = []
    for start in range(0, num_resamples, piece):
        size = min(piece, num_resamples - start)
        draws = rng.multinomial(num_problems, np.full(num_problems, 1 / num_problems), size=size)
        draws = draws.astype(float)
        weights = num_problems if complete else draws @ known
        with np.errstate(invalid="ignore"):
            means.append(draws @ filled / weights)
    return np.concatenate(means)


def bca_interval(
    values: Values, resampled: Values, confidence: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval of a mean (Efron 1987,
    doi:10.1080/01621459.1987.10478410). For a mean the acceleration is the skewness of the values
    over 6 sqrt(P).

    Args:
        values: [P] one value a problem.
        resampled: [B] means of the resamples, from `bootstrap_means`.
    """
    values = np.asarray(values, dtype=float)
    resampled = np.asarray(resampled, dtype=float)
    resampled = np.sort(resampled[~np.isnan(resampled)])
    mean = values.mean()
    deviations = values - mean
    scale = float((deviations**2).sum()) ** 1.5
    if scale < 1e-15 or resampled.size == 0:
        return float(mean), float(mean)
    acceleration = float((deviations**3).sum()) / (6 * scale)
    tolerance = 1e-12  # sums of the same values in another order are ties
    below = float((resampled < mean - tolerance).mean() + (resampled <= mean + tolerance).mean())
    bias = NORMAL.inv_cdf(min(max(below / 2, 1 / resampled.size), 1 - 1 / resampled.size))
    tail = (1 - confidence) / 2
    points = []
    for z in (NORMAL.inv_cdf(tail), NORMAL.inv_cdf(1 - tail)):
        shifted = (bias + z) / (1 - acceleration * (bias + z))
        points.append(NORMAL.cdf(bias + shifted))
    low, high = np.quantile(resampled, points)
    return float(low), float(high)


def bootstrap_interval(
    values: Values, resampled: Values, num_samples: float | None = None
) -> tuple[float, float]:
    """The bootstrap's 95 % interval of a mean of values in [0, 1], made no narrower than
    `clustered_interval`.

    A resample only ever holds values that were seen, so where nearly all problems agree the
    bootstrap alone is far too sure of itself (down to 24 % instead of 95 %: docs/figures.md).

    Args:
        values: [P] one value a problem.
        resampled: [B] means of the resamples, from `bootstrap_means`.
        num_samples: Judged samples a problem.
    """
    low, high = bca_interval(values, resampled)
    floor, ceiling = clustered_interval(np.clip(values, 0, 1), num_samples)
    return min(low, floor), max(high, ceiling)


@lru_cache(maxsize=1024)
def t_quantile(probability: float, degrees: int) -> float:
    """Quantile (probability > 0.5) of Student's t distribution, from that of the beta one."""
    x = beta_quantile(2 * (1 - probability), degrees / 2, 0.5)
    return math.sqrt(degrees * (1 - x) / x)


def beta_quantile(probability: float, a: float, b: float) -> float:
    """Quantile of the Beta(a, b) distribution, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-16 + 1e-14 * low:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function by its continued fraction (NIST Digital Library of
    Mathematical Functions, 8.17.22), evaluated by Lentz's method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, use the other tail
        return 1 - _beta_cdf(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / max(tiny, 1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        for coefficient in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + coefficient * d
            c = 1 + coefficient / c
            d = 1 / (d if abs(d) > tiny else tiny)
            c = c if abs(c) > tiny else tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def _check_proportion(successes: float, trials: float) -> None:
    if trials <= 0 or not 0 <= successes <= trials * (1 + 1e-12):
        raise ValueError(
            f"a proportion needs 0 <= successes <= trials and at least one trial, "
            f"got {successes} of {trials}"
        )
