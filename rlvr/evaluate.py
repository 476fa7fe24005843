"""Benchmark pass rates: sample every problem n times, judge, and say how sure the figure is."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlvr.types import Group, Problem, Status

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRate:
    """pass@1 with its interval and everything needed to judge the figure."""

    pass_at_1: float | None
    """Mean over problems of the share of correct completions; null when nothing was judged."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end of the 95 % interval."""
    num_problems: int
    """Problems in the figure."""
    num_samples: int
    """Completions asked for per problem (n)."""
    num_left_out: int
    """Problems without a single verdict (all `error`): not in the figure."""
    statuses: dict[str, int]
    """Completions by verdict status; `error` ones are never counted as wrong."""
    mean_length: float
    """Tokens a completion."""
    truncated: float
    """Share of completions that hit the length limit."""

    def __str__(self) -> str:
        if self.pass_at_1 is None or self.low is None or self.high is None:
            return f"no verdicts ({self.num_left_out} problems left out)"
        left_out = f", {self.num_left_out} left out" if self.num_left_out else ""
        return (
            f"{self.pass_at_1:.3f} [{self.low:.3f}, {self.high:.3f}] "
            f"(n={self.num_problems} problems x {self.num_samples}{left_out})"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def wilson_interval(successes: float, trials: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    p = successes / trials
    centre = p + z * z / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def clustered_interval(rates: Sequence[float], z: float = Z95) -> tuple[float, float]:
    """Interval of the mean of problem-level pass rates, the samples of a problem being one cluster
    (Miller 2024, arXiv:2411.00640, section 2.2).

    The normal interval shrinks to a point when all problems agree, so the wider of it and
    Wilson's interval on the *problems* (as if each were one trial) is used when the spread is 0.
    """
    count = len(rates)
    mean = sum(rates) / count
    spread = sum((rate - mean) ** 2 for rate in rates)
    if count < 2 or spread == 0:
        return wilson_interval(mean * count, count, z)
    error = math.sqrt(spread / (count - 1) / count)
    return max(0.0, mean - z * error), min(1.0, mean + z * error)


def pass_rate(groups: Sequence[Group], num_samples: int) -> PassRate:
    """pass@1 of scored groups. `error` verdicts are left out of a problem's share, and problems
    with nothing else are left out of the figure and counted."""
    statuses: Counter[str] = Counter()
    lengths: list[int] = []
    truncated = 0
    rates: list[float] = []
    for group in groups:
        judged = []
        for rollout in group.rollouts:
            if rollout.verdict is None:
                raise ValueError(f"problem {group.problem.id!r} has a completion without a verdict")
            statuses[rollout.verdict.status.value] += 1
            lengths.append(len(rollout.completion.token_ids))
            truncated += rollout.completion.truncated
            if rollout.verdict.status is not Status.ERROR:
                judged.append(rollout.verdict.status is Status.CORRECT)
        if judged:
            rates.append(sum(judged) / len(judged))
    mean = low = high = None
    if rates:
        mean = sum(rates) / len(rates)
        one_each = num_samples == 1
        low, high = (
            wilson_interval(sum(rates), len(rates)) if one_each else clustered_interval(rates)
        )
    return PassRate(
        pass_at_1=mean,
        low=low,
        high=high,
        num_problems=len(rates),
        num_samples=num_samples,
        num_left_out=len(groups) - len(rates),
        statuses=dict(statuses),
        mean_length=sum(lengths) / max(1, len(lengths)),
        truncated=truncated / max(1, len(lengths)),
    )


async def evaluate(
    problems: Sequence[Problem],
    sample: Callable[[int, Problem], Awaitable[Group]],
    num_samples: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[PassRate, list[Group]]:
    """Sample and judge every problem, all submitted at once so that the engine batches them.

    Args:
        problems: What to evaluate on.
        sample: `sample(index, problem)` gives a problem's scored group.
        num_samples: Completions of each group.
        progress: Called with (done, total) as problems are finished.
    """
    num_done = 0

    async def one(index: int, problem: Problem) -> Group:
        nonlocal num_done
        group = await sample(index, problem)
        num_done += 1
        if progress:
            progress(num_done, len(problems))
        return group

    running = [asyncio.ensure_future(one(index, each)) for index, each in enumerate(problems)]
    try:
        groups = await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
    return pass_rate(groups, num_samples), groups
