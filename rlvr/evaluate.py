"""Benchmark pass rates: sample every problem n times, judge, and say how sure the figure is.

From Python, `evaluate_model` does what `rlvr eval` does::

    from rlvr.evaluate import evaluate_model

    results = evaluate_model("my/model", ["gsm8k"], ["n=4", "limit=100"], output=Path("out"))
    results["gsm8k"]["figures"]["avg"]   # {"value": 0.41, "low": 0.33, "high": 0.50, ...}

`evaluate` is the same for a policy in training: any function that gives a problem's scored group.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlvr.intervals import clustered_interval, wilson_interval
from rlvr.types import Group, Problem, Status


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


def pass_rate(groups: Sequence[Group], num_samples: int) -> PassRate:
    """pass@1 of scored groups. `error` verdicts are left out of a problem's share, and problems
    with nothing else are left out of the figure and counted."""
    statuses: Counter[str] = Counter()
    lengths: list[int] = []
    truncated = 0
    judged: list[list[bool]] = []
    for group in groups:
        verdicts = []
        for rollout in group.rollouts:
            if rollout.verdict is None:
                raise ValueError(f"problem {group.problem.id!r} has a completion without a verdict")
            statuses[rollout.verdict.status.value] += 1
            lengths.append(len(rollout.completion.token_ids))
            truncated += rollout.completion.truncated
            if rollout.verdict.status is not Status.ERROR:
                verdicts.append(rollout.verdict.status is Status.CORRECT)
        if verdicts:
            judged.append(verdicts)
    mean = low = high = None
    if judged:
        rates = [sum(verdicts) / len(verdicts) for verdicts in judged]
        mean = sum(rates) / len(rates)
        per_problem = sum(map(len, judged)) / len(judged)
        low, high = (
            wilson_interval(sum(rates), len(rates))
            if per_problem == 1
            else clustered_interval(rates, per_problem)
        )
    return PassRate(
        pass_at_1=mean,
        low=low,
        high=high,
        num_problems=len(judged),
        num_samples=num_samples,
        num_left_out=len(groups) - len(judged),
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

    groups = await gather([one(index, each) for index, each in enumerate(problems)])
    return pass_rate(groups, num_samples), groups


async def gather(work: Sequence[Any]) -> list[Any]:
    """Results of all coroutines in order; the first failure cancels the others and is raised, once
    they have ended."""
    running = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class EvalTracker:
    """Which of a run's evaluations is the best, and whether it is time to stop.

    The best is the one whose 95 % interval has the highest *lower* end: with the same held-out
    problems that order is nearly the one of the pass rates, but an evaluation in which many
    verdicts were `error` cannot win by luck. Of equals, the earlier one.

    It has no state to be saved: a resumed run feeds it the evaluations in its metrics again.

    Args:
        patience: Stop after so many evaluations in a row that did not improve; null never stops.
    """

    def __init__(self, patience: int | None = None) -> None:
        self._patience = patience
        self.best_step: int | None = None
        self.best_low: float | None = None
        self.num_stale = 0
        """Evaluations since the best."""

    def update(self, step: int, low: float | None) -> bool:
        """Take note of the evaluation after `step` steps; whether it is the best so far.

        Args:
            low: Lower end of its interval. Null (no verdicts) counts neither way; so does step 0,
                which is the model that the run began with.
        """
        if low is None or step == 0:
            return False
        if self.best_low is None or low > self.best_low:
            self.best_step, self.best_low, self.num_stale = step, low, 0
            return True
        self.num_stale += 1
        return False

    @property
    def should_stop(self) -> bool:
        return self._patience is not None and self.num_stale >= self._patience


def evaluate_model(
    model: str,
    benchmarks: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    output: Path | None = None,
    endpoint: str | None = None,
) -> dict[str, dict[str, Any]]:
    """`rlvr eval` from Python: measure a model on benchmarks, resuming what `output` has already.

    Args:
        model: A folder, hub id, built-in name, run or checkpoint; with `endpoint`, the name that it
            is served under.
        benchmarks: See `rlvr.benchmark_config.load_benchmark`.
        overrides: `key=value`, for all of them.
        output: The results directory; null makes `evals/<model>-<time>`.
        endpoint: URL of an OpenAI-compatible server.

    Returns:
        What `results.json` holds, by benchmark.

    Raises:
        RlvrError: whatever is wrong with the model, the data, the settings or the endpoint. What
            was sampled until then is in `output`.
    """
    from rlvr import benchmark

    return benchmark.run(model, benchmarks, overrides, output=output, endpoint=endpoint)
