"""Many verdicts, a bounded number at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from rlvr.config import ScoringConfig
from rlvr.types import Problem, Verdict
from verifiers.registry import LoadedVerifier
from verifiers.runner import Runner


async def judge_all(
    runner: Runner,
    verifier: LoadedVerifier,
    work: Sequence[tuple[Problem, str]],
    config: ScoringConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Verdict]:
    """A verdict for every (problem, completion), in order, a bounded number at once."""
    verdicts: list[Verdict | None] = [None] * len(work)
    places = iter(range(len(work)))
    num_done = 0

    async def take() -> None:
        nonlocal num_done
        for place in places:
            verdicts[place] = await runner.judge(verifier, *work[place])
            num_done += 1
            progress(num_done, len(work))

    waits = verifier.is_async or verifier.compose is not None
    at_once = config.max_concurrency if waits else 2 * config.num_workers
    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(at_once, len(work))):
            tasks.create_task(take())
    return [verdict for verdict in verdicts if verdict is not None]


def make_runner(config: ScoringConfig) -> Runner:
    return Runner(
        timeout_s=config.timeout_s,
        max_retries=config.max_retries,
        num_workers=config.num_workers,
        max_concurrency=config.max_concurrency,
    )
