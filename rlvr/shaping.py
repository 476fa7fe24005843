"""What the trainer does to rewards and advantages around the estimator: penalties and masks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from rlvr.advantages import overlong_penalty
from rlvr.config import RunConfig
from rlvr.types import Group

KlPenalties = Callable[[Sequence[Group]], Awaitable[list[list[float]]]]


async def shape_rewards(
    groups: Sequence[Group], config: RunConfig, kl_penalties: KlPenalties
) -> list[Group]:
    """Groups with `penalty` set on each rollout: overlong shaping, and the KL when it goes into the
    reward. The verdicts stay as they were judged."""
    algorithm = config.algorithm
    penalties = [[0.0] * len(group.rollouts) for group in groups]
    if overlong := algorithm.overlong:
        for row, group in zip(penalties, groups, strict=True):
            for k, rollout in enumerate(group.rollouts):
                row[k] += overlong_penalty(
                    len(rollout.completion.token_ids),
                    max_tokens=config.rollout.max_tokens,
                    buffer_tokens=overlong.buffer_tokens,
                    penalty=overlong.penalty,
                )
    if algorithm.kl_coef > 0 and algorithm.kl_in == "reward":
        for row, kls in zip(penalties, await kl_penalties(groups), strict=True):
            for k, kl in enumerate(kls):
                row[k] -= algorithm.kl_coef * kl
    return [
        replace(
            group,
            rollouts=tuple(
                replace(rollout, penalty=penalty)
                for rollout, penalty in zip(group.rollouts, row, strict=True)
            ),
        )
        for group, row in zip(groups, penalties, strict=True)
    ]


def mask_truncated(
    advantages: Sequence[Sequence[float | None]], groups: Sequence[Group]
) -> tuple[tuple[float | None, ...], ...]:
    """Advantages with those of truncated completions nulled (DAPO's overlong filtering,
    arXiv:2503.14476 section 3.4): they count in the group's statistics but give no gradient."""
    return tuple(
        tuple(
            None if rollout.completion.truncated else advantage
            for advantage, rollout in zip(row, group.rollouts, strict=True)
        )
        for row, group in zip(advantages, groups, strict=True)
    )
