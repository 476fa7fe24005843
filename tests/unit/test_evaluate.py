"""pass@1 and its intervals: closed forms, coverage, and errors kept apart."""

from __future__ import annotations

import random

import pytest

from rlvr.evaluate import EvalTracker, evaluate, pass_rate
from rlvr.figures import figures
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


@pytest.mark.parametrize("num_samples", [1, 4])
def test_the_figure_is_the_one_that_benchmarks_print(num_samples: int) -> None:
    """The same verdicts through `rlvr.figures`, which `rlvr eval` uses."""
    rng = random.Random(num_samples)
    groups, rows = [], []
    for index in range(30):
        verdicts = [rng.choice([RIGHT, WRONG, WRONG, FAULT]) for _ in range(num_samples)]
        groups.append(make_group(*verdicts, index=index))
        rows += [
            {
                "problem_id": str(index),
                "sample": sample,
                "problem": {},
                "status": verdict.status.value,
                "reward": verdict.reward,
                "answer": None,
                "finish_reason": "stop",
                "num_tokens": 3,
            }
            for sample, verdict in enumerate(verdicts)
        ]
    result = pass_rate(groups, num_samples)
    expected = figures(rows, num_samples)
    assert (result.pass_at_1, result.low, result.high) == pytest.approx(
        tuple(expected["avg"][key] for key in ("value", "low", "high"))
    )
    assert result.num_left_out == expected["num_left_out"]
    assert result.statuses == expected["statuses"]


def test_the_best_evaluation_has_the_highest_lower_end() -> None:
    tracker = EvalTracker(patience=2)
    lows = [0.9, 0.2, 0.3, 0.3, None, 0.25]  # step 0 is the model that training began with
    assert [tracker.update(step, low) for step, low in enumerate(lows)] == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]
    assert (tracker.best_step, tracker.best_low) == (2, 0.3)
    assert tracker.should_stop  # steps 3 and 5 were not better; 4 said nothing
    assert tracker.update(6, 0.31) and not tracker.should_stop


def test_without_patience_nothing_stops() -> None:
    tracker = EvalTracker()
    for step in range(1, 50):
        tracker.update(step, 1 / step)
    assert tracker.num_stale == 48 and not tracker.should_stop


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
