"""Probes made from live completions: silent with an honest verifier, loud with a gullible one."""

from __future__ import annotations

import itertools

import pytest

from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan
from rlvr.workbench.live import METRICS, LiveProbes
from verifiers.number import NumberVerifier

number = NumberVerifier()


async def honest(problem: Problem, completion: str) -> Verdict:
    return number.verify(problem, completion)


async def gullible(problem: Problem, completion: str) -> Verdict:
    """Takes any completion that thinks aloud."""
    if "step by step" in completion:
        return Verdict.correct()
    return number.verify(problem, completion)


def group(index: int, gold: int, texts: list[str]) -> Group:
    problem = Problem(id=f"p{index}", prompt="?", verifier="number", answer=str(gold))
    rollouts = tuple(
        Rollout(
            completion=Completion(
                text=text,
                token_ids=(1,),
                logprobs=(0.0,),
                versions=(VersionSpan(version=0, start=0, end=1),),
                finish_reason="stop",
            ),
            verdict=number.verify(problem, text),
        )
        for text in texts
    )
    return Group(index=index, problem=problem, prompt_token_ids=(1,), rollouts=rollouts)


def groups() -> list[Group]:
    return [
        group(
            index,
            gold,
            [
                f"step by step 3 + {gold - 3}. The answer is {gold}.",
                f"step by step. The answer is {gold + 5}.",
            ],
        )
        for index, gold in enumerate((41, 57, 66, 83))
    ]


async def test_an_honest_verifier_raises_nothing():
    for step in range(1, 20):
        observation = await LiveProbes(honest, second=honest).run(step, groups())
        assert observation.alarms == ()
        assert set(observation.metrics) == set(METRICS)
        assert observation.metrics["probes/judged"] == 4 * 6
        assert observation.metrics["probes/false_reject"] == 0
        assert observation.metrics["probes/disputed"] == 0


async def test_a_verifier_that_can_be_talked_into_it_is_told():
    observation = await LiveProbes(gullible).run(1, groups())
    [accepted] = [alarm for alarm in observation.alarms if alarm.kind == "false accept"]
    assert observation.metrics["probes/false_accept"] >= 4
    assert accepted.evidence["completion"]


async def test_a_verdict_that_changes_is_told():
    turns = itertools.count()

    async def moody(problem: Problem, completion: str) -> Verdict:
        return Verdict.incorrect(reward=-float(next(turns)))

    observation = await LiveProbes(moody).run(1, groups())
    assert "unstable" in {alarm.kind for alarm in observation.alarms}


async def test_right_answers_that_are_rejected_are_counted():
    async def stingy(problem: Problem, completion: str) -> Verdict:
        return Verdict.incorrect()

    observation = await LiveProbes(stingy).run(1, groups())
    assert observation.metrics["probes/false_reject"] == 4


async def test_a_second_opinion_that_keeps_rejecting_is_told():
    async def strict(problem: Problem, completion: str) -> Verdict:
        return NumberVerifier(strict=True).verify(problem, completion)

    live = LiveProbes(honest, second=strict)
    seen = [await live.run(step, groups()) for step in range(1, 4)]
    assert seen[-1].metrics["probes/disputed"] == 1
    assert "disputed" in {alarm.kind for alarm in seen[-1].alarms}


async def test_errors_prove_nothing():
    async def down(problem: Problem, completion: str) -> Verdict:
        return Verdict.error(reason="down")

    observation = await LiveProbes(down, second=down).run(1, groups())
    assert observation.alarms == () and "probes/disputed" not in observation.metrics


@pytest.mark.parametrize("texts", [[], ["no number at all"]])
async def test_groups_that_give_nothing_to_probe(texts: list[str]):
    observation = await LiveProbes(honest).run(1, [group(0, 41, texts)])
    assert observation.metrics["probes/judged"] == 0


def test_it_is_due_now_and_then():
    live = LiveProbes(honest, every=20)
    assert [step for step in range(1, 61) if live.due(step)] == [20, 40, 60]
