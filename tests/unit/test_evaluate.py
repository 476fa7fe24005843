"""pass@1 and its intervals: closed forms, coverage, and errors kept apart."""

from __future__ import annotations

import random

import pytest

from rlvr.evaluate import clustered_interval, evaluate, pass_rate, wilson_interval
from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan


def make_group(*verdicts: Verdict, index: int = 0, finish: str = "stop") -> Group:
    completion = Completion(
        text="x",
        token_ids=(1, 2, 3),
        logprobs=(-1.0,) * 3,
        versions=(VersionSpan(version=0, start=0, end=3),),
        finish_reason=finish,  # type: ignore[arg-type]
    )
    return Group(
        index=index,
        problem=Problem(id=str(index), prompt="?", verifier="number"),
        prompt_token_ids=(0,),
        rollouts=tuple(Rollout(completion=completion, verdict=verdict) for verdict in verdicts),
    )


RIGHT, WRONG, FAULT = Verdict.correct(), Verdict.incorrect(), Verdict.error()


def test_wilson_matches_a_published_example() -> None:
    """Newcombe 1998 (doi:10.1002/sim.1778), table I: 81 of 263 gives 0.2553 to 0.3662."""
    low, high = wilson_interval(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_wilson_is_never_empty_at_the_ends() -> None:
    assert wilson_interval(0, 20)[0] == 0.0 and 0.1 < wilson_interval(0, 20)[1] < 0.2
    assert wilson_interval(20, 20)[1] == 1.0 and 0.8 < wilson_interval(20, 20)[0] < 0.9


def test_faults_of_ours_are_left_out_not_counted_as_wrong() -> None:
    result = pass_rate(
        [make_group(RIGHT, FAULT), make_group(WRONG, WRONG), make_group(FAULT, FAULT)], 2
    )
    assert result.pass_at_1 == 0.5
    assert (result.num_problems, result.num_left_out) == (2, 1)
    assert result.statuses == {"correct": 1, "error": 3, "incorrect": 2}
    assert "1 left out" in str(result)


def test_a_problem_counts_once_however_many_of_its_samples_were_judged() -> None:
    result = pass_rate([make_group(RIGHT, RIGHT, RIGHT), make_group(WRONG, FAULT, FAULT)], 3)
    assert result.pass_at_1 == 0.5


def test_nothing_judged_is_no_figure() -> None:
    result = pass_rate([make_group(FAULT)], 1)
    assert result.pass_at_1 is None
    assert "no verdicts" in str(result)


def test_unscored_groups_are_refused() -> None:
    group = make_group(RIGHT)
    bare = Group(
        index=0,
        problem=group.problem,
        prompt_token_ids=(0,),
        rollouts=(Rollout(completion=group.rollouts[0].completion),),
    )
    with pytest.raises(ValueError, match="without a verdict"):
        pass_rate([bare], 1)


@pytest.mark.parametrize("samples", [1, 8])
def test_intervals_cover_the_truth_about_95_percent_of_the_time(samples: int) -> None:
    """Problems differ in difficulty (Beta(1, 2)), so samples of one problem are correlated."""
    rng = random.Random(samples)
    truth, covered, trials = 1 / 3, 0, 800
    for _ in range(trials):
        rates = []
        for _ in range(100):
            p = rng.betavariate(1, 2)
            rates.append(sum(rng.random() < p for _ in range(samples)) / samples)
        if samples == 1:
            low, high = wilson_interval(sum(rates), len(rates))
        else:
            low, high = clustered_interval(rates)
        covered += low <= truth <= high
    assert 0.93 <= covered / trials <= 0.97


async def test_evaluate_keeps_problem_order_and_raises_what_sampling_raises() -> None:
    problems = [Problem(id=str(i), prompt="?", verifier="number") for i in range(20)]
    rng = random.Random(0)

    async def sample(index: int, problem: Problem) -> Group:
        import asyncio

        await asyncio.sleep(rng.random() * 0.002)
        return make_group(RIGHT if index % 4 == 0 else WRONG, index=index)

    result, groups = await evaluate(problems, sample, 1)
    assert [group.index for group in groups] == list(range(20))
    assert result.pass_at_1 == 0.25

    async def broken(index: int, problem: Problem) -> Group:
        raise RuntimeError("no engine")

    with pytest.raises(RuntimeError, match="no engine"):
        await evaluate(problems, broken, 1)
