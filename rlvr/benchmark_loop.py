"""The loop of a benchmark: everything is submitted at once, each sample is judged as it arrives,
and kept as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlvr.answers import normalised_answer
from rlvr.evaluate import gather
from rlvr.results import ResultsFolder, Row
from rlvr.sampling import Sampling
from rlvr.types import Problem, Status, Verdict

if TYPE_CHECKING:
    from rlvr.pool import RolloutPool

Judge = Callable[[Problem, str], Awaitable[Verdict]]
"""`Scorer.verdict`, or a stand-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One completion, whoever sampled it."""

    text: str
    finish_reason: str
    """`stop`, `length`, or what else a server says."""
    num_tokens: int
    """0 where a server does not say."""


class Sampler(Protocol):
    """Our own rollout workers, or a served model."""

    one_by_one: bool
    """Whether samples of a problem are asked for, and arrive, one at a time."""

    async def sample(
        self, index: int, problem: Problem, num: int, sampling: Sampling
    ) -> list[Sampled]: ...


class Engines:
    """Rollout workers as a `Sampler`."""

    one_by_one = False

    def __init__(self, rollouts: RolloutPool) -> None:
        self._rollouts = rollouts

    async def sample(
        self, index: int, problem: Problem, num: int, sampling: Sampling
    ) -> list[Sampled]:
        group = await self._rollouts.generate(index, problem, num, sampling)
        return [
            Sampled(
                text=rollout.completion.text,
                finish_reason=rollout.completion.finish_reason,
                num_tokens=len(rollout.completion.token_ids),
            )
            for rollout in group.rollouts
        ]

    async def check(self, problems: Sequence[Problem], sampling: Sampling) -> None:
        """Raise DataError if a problem's prompt leaves no room for `sampling.max_tokens`."""
        await self._rollouts.check_prompts(problems, sampling)


@dataclass(slots=True)
class Tally:
    """How far a benchmark is."""

    total: int
    """Samples asked for."""
    sampled: int = 0
    judged: int = 0
    correct: int = 0
    errors: int = 0


def missing_samples(
    problems: Sequence[Problem], num_samples: int, results: ResultsFolder
) -> dict[int, list[int]]:
    """Sample numbers that have yet to be sampled, by the problem's index."""
    have = results.judged.keys() | results.unjudged.keys()
    missing = {
        index: [i for i in range(num_samples) if (problem.id, i) not in have]
        for index, problem in enumerate(problems)
    }
    return {index: numbers for index, numbers in missing.items() if numbers}


async def collect(
    problems: Sequence[Problem],
    num_samples: int,
    sampling: Sampling,
    sampler: Sampler | None,
    judge: Judge,
    results: ResultsFolder,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> None:
    """Bring `results` up to `num_samples` judged samples of every problem.

    Args:
        sampler: May be null when nothing is left to be sampled.
        progress: Called after each sample that is sampled or judged.

    Raises:
        RolloutError, DataError: sampling failed; what was sampled is kept.
    """
    by_id = {problem.id: problem for problem in problems}
    missing = missing_samples(problems, num_samples, results)
    num_missing = sum(map(len, missing.values()))
    total = len(problems) * num_samples
    tally = Tally(total=total, sampled=total - num_missing, judged=len(results.judged))
    tally.correct = sum(row["status"] == Status.CORRECT for row in results.judged.values())

    async def judge_row(row: Row) -> None:
        problem = by_id[row["problem_id"]]
        judged = with_verdict(row, problem, await judge(problem, row["completion"]))
        results.add(judged)
        tally.judged += 1
        tally.correct += judged["status"] == Status.CORRECT
        tally.errors += judged["status"] == Status.ERROR
        progress(tally)

    async def sample(index: int, numbers: Sequence[int]) -> None:
        assert sampler is not None
        problem = problems[index]
        completions = await sampler.sample(index, problem, len(numbers), sampling)
        rows = [
            unjudged_row(problem, number, completion)
            for number, completion in zip(numbers, completions, strict=True)
        ]
        results.sampled(rows)
        tally.sampled += len(rows)
        progress(tally)
        await asyncio.gather(*map(judge_row, rows))

    one_by_one = sampler is not None and sampler.one_by_one
    requests = [
        (index, part)
        for index, numbers in missing.items()
        for part in ([[number] for number in numbers] if one_by_one else [numbers])
    ]
    progress(tally)
    await gather(
        [
            *(sample(index, numbers) for index, numbers in requests),
            *(judge_row(row) for row in results.unjudged.values()),
        ]
    )


def unjudged_row(problem: Problem, number: int, completion: Sampled) -> Row:
    return Row(
        problem_id=problem.id,
        sample=number,
        problem=problem.to_json(),
        completion=completion.text,
        answer=None,
        finish_reason=completion.finish_reason,
        num_tokens=completion.num_tokens,
        status=Status.ERROR.value,
        reward=None,
        detail={"reason": "not judged yet"},
        latency_s=0.0,
    )


def with_verdict(row: Row, problem: Problem, verdict: Verdict) -> Row:
    judged = verdict.to_json()
    return Row(
        **{  # pyright: ignore[reportArgumentType]
            **row,
            **judged,
            "answer": normalised_answer(problem, verdict.detail),
        }
    )


def error_reasons(rows: Iterable[Row]) -> dict[str, int]:
    """Why verdicts are `error`: reasons and their counts, the most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        if row["status"] == Status.ERROR:
            reason = str(row["detail"].get("reason", "no reason given"))
            counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
