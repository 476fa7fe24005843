"""Properties of the group stream: order, bounded lag, refills, nothing lost."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from rlvr.stream import GroupStream
from rlvr.types import Completion, Group, Problem, Rollout, Verdict, VersionSpan


class CountingProblems:
    """Problem i of an endless data set has id `i`."""

    def __init__(self) -> None:
        self.position = 0

    def next(self) -> tuple[int, Problem]:
        index = self.position
        self.position += 1
        return index, Problem(id=str(index), prompt="?", verifier="number", answer="1")

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def make_group(index: int, problem: Problem, rewards: list[float], version: int = 0) -> Group:
    completion = Completion(
        text="1",
        token_ids=(1,),
        logprobs=(-0.5,),
        versions=(VersionSpan(version=version, start=0, end=1),),
        finish_reason="stop",
    )
    return Group(
        index=index,
        problem=problem,
        prompt_token_ids=(0,),
        rollouts=tuple(
            Rollout(completion=completion, verdict=Verdict.graded(reward)) for reward in rewards
        ),
    )


class Sampler:
    """Samples with a random delay; remembers with which version each group was started."""

    def __init__(self, uniform: set[int] | None = None, seed: int = 0) -> None:
        self.version = 0
        self.started: list[int] = []
        self._uniform = uniform or set()
        self._rng = random.Random(seed)

    async def __call__(self, index: int, problem: Problem) -> Group:
        self.started.append(index)
        version = self.version
        await asyncio.sleep(self._rng.random() * 0.003)
        rewards = [1.0, 1.0] if index in self._uniform else [0.0, 1.0]
        return make_group(index, problem, rewards, version)


def indices(groups: list[Group]) -> list[int]:
    return [group.index for group in groups]


@pytest.mark.parametrize("max_lag", [0, 1, 3])
async def test_groups_come_in_order_and_no_token_is_older_than_max_lag(max_lag: int) -> None:
    sampler = Sampler()
    stream = GroupStream(CountingProblems(), sampler, groups_per_step=4, max_lag=max_lag)
    for step in range(8):
        taken = await stream.take()
        assert indices(taken.groups) == list(range(4 * step, 4 * step + 4))
        assert all(step - group.oldest_version <= max_lag for group in taken.groups)
        assert len(sampler.started) <= 4 * (step + 1 + max_lag)
        await asyncio.sleep(0.002)
        sampler.version += 1
    await stream.close()


async def test_synchronous_stream_runs_nothing_while_the_learner_trains() -> None:
    sampler = Sampler()
    stream = GroupStream(CountingProblems(), sampler, groups_per_step=4)
    await stream.take()
    await asyncio.sleep(0.005)
    assert sampler.started == [0, 1, 2, 3]


async def test_dynamic_sampling_replaces_uniform_groups() -> None:
    stream = GroupStream(
        CountingProblems(), Sampler(uniform={0, 2, 3}), groups_per_step=3, dynamic=True
    )
    taken = await stream.take()
    assert indices(taken.groups) == [1, 4, 5]
    assert indices(taken.dropped) == [0, 2, 3]


async def test_refills_are_bounded_and_the_step_goes_on_with_what_it_has() -> None:
    stream = GroupStream(
        CountingProblems(),
        Sampler(uniform=set(range(100)) - {5}),
        groups_per_step=3,
        dynamic=True,
        max_refill_factor=2.0,
    )
    taken = await stream.take()
    assert indices(taken.groups) == [5]
    assert indices(taken.dropped) == [0, 1, 2, 3, 4]
    hopeless = await stream.take()
    assert indices(hopeless.groups) == [6, 7, 8], "all uniform: train on some, with no gradient"
    assert indices(hopeless.dropped) == [9, 10, 11]


async def test_a_failed_group_raises_and_stays_in_the_stream() -> None:
    failing = {"on": True}

    async def sample(index: int, problem: Problem) -> Group:
        if index == 1 and failing["on"]:
            raise RuntimeError("engine gone")
        return make_group(index, problem, [0.0, 1.0])

    stream = GroupStream(CountingProblems(), sample, groups_per_step=3)
    with pytest.raises(RuntimeError, match="engine gone"):
        await stream.take()
    state, finished = stream.state()
    assert [row["index"] for row in state["pending"]] == [0, 1, 2]
    assert indices(finished) == [0, 2]


async def test_cancelling_take_loses_nothing() -> None:
    sampler = Sampler()
    stream = GroupStream(CountingProblems(), sampler, groups_per_step=4, max_lag=1)
    task = asyncio.create_task(stream.take())
    await asyncio.sleep(0.0015)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert indices((await stream.take()).groups) == [0, 1, 2, 3]
    await stream.close()


@pytest.mark.parametrize("seed", range(8))
async def test_saved_and_restored_anywhere_each_problem_is_taken_once(seed: int) -> None:
    """Interrupt at random moments, restore into a fresh stream, and nothing is lost or doubled."""
    rng = random.Random(seed)
    trained: list[int] = []
    state: dict[str, Any] | None = None
    finished: list[Group] = []
    for _ in range(5):
        sampler = Sampler(uniform={3, 8, 9}, seed=rng.randrange(999))
        stream = GroupStream(
            CountingProblems(),
            sampler,
            groups_per_step=3,
            max_lag=rng.randrange(3),
            dynamic=True,
        )
        if state is not None:
            stream.restore(state, finished)
        for _ in range(rng.randrange(1, 4)):
            taken = await stream.take()
            trained += sorted(indices(taken.groups) + indices(taken.dropped))
        await asyncio.sleep(rng.random() * 0.003)
        state, finished = stream.state()
        for group in finished:
            assert group.index not in trained
        await stream.close()
    assert trained == list(range(len(trained)))


async def test_restored_groups_that_were_scored_are_not_sampled_again() -> None:
    sampler = Sampler()
    stream = GroupStream(CountingProblems(), sampler, groups_per_step=2, max_lag=1)
    await stream.take()
    await asyncio.sleep(0.02)
    state, finished = stream.state()
    assert indices(finished) == [2, 3]
    again = Sampler()
    resumed = GroupStream(CountingProblems(), again, groups_per_step=2, max_lag=1)
    resumed.restore(state, finished)
    assert indices((await resumed.take()).groups) == [2, 3]
    assert again.started == [4, 5]
    await resumed.close()


@pytest.mark.parametrize("max_lag", [0, 2])
async def test_prefetch_starts_what_the_next_take_asks_for_and_no_more(max_lag: int) -> None:
    sampler = Sampler()
    stream = GroupStream(CountingProblems(), sampler, groups_per_step=4, max_lag=max_lag)
    stream.prefetch()
    await asyncio.sleep(0)
    assert sampler.started == list(range(4 + 4 * max_lag))
    assert indices((await stream.take()).groups) == [0, 1, 2, 3]
    assert len(sampler.started) == 4 + 4 * max_lag
    await stream.close()


async def test_groups_that_are_put_back_are_sampled_anew_and_saved_as_unfinished() -> None:
    sampler = Sampler()
    stream = GroupStream(CountingProblems(), sampler, groups_per_step=2, max_lag=1)
    taken = await stream.take()
    stream.put_back(taken)
    state, finished = stream.state()
    assert [row["index"] for row in state["pending"]][:4] == [0, 1, 2, 3]
    assert not {0, 1} & {group.index for group in finished}
    assert indices((await stream.take()).groups) == [0, 1]
    assert sampler.started.count(0) == 2
    await stream.close()
