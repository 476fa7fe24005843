"""Penalties and masks around the advantage estimator."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlvr.load_config import resolve
from rlvr.shaping import mask_truncated, shape_rewards
from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan


def make_group(lengths: Sequence[int], verdict: Verdict, *, limit: int = 10) -> Group:
    rollouts = tuple(
        Rollout(
            completion=Completion(
                text="x",
                token_ids=(1,) * length,
                logprobs=(-1.0,) * length,
                versions=(VersionSpan(version=0, start=0, end=length),),
                finish_reason="length" if length == limit else "stop",
            ),
            verdict=verdict,
        )
        for length in lengths
    )
    problem = Problem(id="a", prompt="?", verifier="number")
    return Group(index=0, problem=problem, prompt_token_ids=(0,), rollouts=rollouts)


async def no_kl(groups: Sequence[Group]) -> list[list[float]]:
    raise AssertionError("the reference model must not be asked for when kl_coef is 0")


async def test_overlong_penalty_grows_over_the_buffer_and_keeps_the_verdict() -> None:
    config = resolve(
        {
            "rollout": {"max_tokens": 10},
            "algorithm": {"overlong": {"buffer_tokens": 4, "penalty": 1.0}},
        },
        [],
        origin="test",
    )
    (group,) = await shape_rewards([make_group([5, 6, 8, 10], Verdict.correct())], config, no_kl)
    assert group.rewards == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert all(each.verdict and each.verdict.reward == 1.0 for each in group.rollouts)


async def test_kl_in_the_reward_is_subtracted_and_masked_members_stay_masked() -> None:
    config = resolve({"algorithm": {"kl_coef": 0.5, "kl_in": "reward"}}, [], origin="test")

    async def kl(groups: Sequence[Group]) -> list[list[float]]:
        return [[0.2, 0.4] for _ in groups]

    right, fault = make_group([3, 3], Verdict.correct()), make_group([3, 3], Verdict.error())
    shaped = await shape_rewards([right, fault], config, kl)
    assert shaped[0].rewards == pytest.approx([0.9, 0.8])
    assert shaped[1].rewards == [None, None]


def test_truncated_completions_lose_their_gradient_only() -> None:
    group = make_group([10, 4, 10], Verdict.correct())
    assert mask_truncated([(1.0, -0.5, None)], [group]) == ((None, -0.5, None),)
