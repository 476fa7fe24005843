"""The pool of rollout workers: load, restarts, nothing lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rlvr.errors import DataError, RolloutError, WeightTransferError
from rlvr.pool import BusyClock, RolloutPool
from rlvr.sampling import Sampling
from rlvr.types import Completion, Group, Problem, Rollout, VersionSpan

SAMPLING = Sampling(max_tokens=4)


class FakeWorker:
    """Answers after `delay_s`, until it is told to die."""

    def __init__(self, index: int, *, starts: bool = True, delay_s: float = 0.002) -> None:
        self.index = index
        self.alive = True
        self.killed = False
        self.served: list[int] = []
        self._starts = starts
        self._delay_s = delay_s

    async def call(self, method: str, *args: Any) -> Any:
        if method == "start":
            if not self._starts:
                raise RolloutError("no memory")
            return None
        await asyncio.sleep(self._delay_s)
        if not self.alive:
            raise RolloutError("the actor died")
        if method == "generate":
            index, problem, num, _ = args
            if problem.id == "too long":
                raise DataError("prompt too long")
            self.served.append(index)
            return group(index, problem, num)
        return None

    def kill(self) -> None:
        self.killed = True


def group(index: int, problem: Problem, num: int) -> Group:
    completion = Completion(
        text="x",
        token_ids=(1, 2),
        logprobs=(-1.0, -1.0),
        versions=(VersionSpan(version=0, start=0, end=2),),
        finish_reason="stop",
    )
    rollouts = tuple(Rollout(completion=completion) for _ in range(num))
    return Group(index=index, problem=problem, prompt_token_ids=(0,), rollouts=rollouts)


def problem(name: str) -> Problem:
    return Problem(id=name, prompt="?", verifier="number")


class Bench:
    """A pool over fake workers, with every worker ever spawned and every refresh."""

    def __init__(self, num_workers: int = 2, max_restarts: int = 3, **worker: Any) -> None:
        self.spawned: list[FakeWorker] = []
        self.refreshed: list[tuple[str, FakeWorker]] = []

        def spawn(index: int) -> FakeWorker:
            self.spawned.append(FakeWorker(index, **worker))
            return self.spawned[-1]

        async def refresh(name: str, worker: Any) -> None:
            self.refreshed.append((name, worker))

        self.pool = RolloutPool(
            num_workers, spawn, refresh, max_restarts=max_restarts, start_timeout_s=1.0
        )

    async def sample(self, count: int) -> list[Group]:
        return await asyncio.gather(
            *(self.pool.generate(i, problem(str(i)), 4, SAMPLING) for i in range(count))
        )


async def test_requests_are_spread_by_load() -> None:
    bench = Bench(num_workers=3)
    await bench.sample(30)
    assert [len(worker.served) for worker in bench.spawned] == [10, 10, 10]


async def test_a_dead_worker_is_replaced_once_and_its_groups_are_sampled_again() -> None:
    bench = Bench()
    running = asyncio.create_task(bench.sample(10))
    await asyncio.sleep(0.001)
    dead = bench.spawned[0]
    dead.alive = False
    groups = await running
    assert [each.index for each in groups] == list(range(10))
    served = sorted(index for worker in bench.spawned for index in worker.served)
    assert served == list(range(10)), "none lost, none twice"
    assert dead.killed
    assert len(bench.spawned) == 3, "five requests saw the death, one restart"
    assert bench.refreshed == [("rollout-0", bench.spawned[2])], "it got the current weights"


async def test_restarts_are_bounded_and_the_last_error_is_told() -> None:
    bench = Bench(num_workers=1, max_restarts=2)

    async def assassin() -> None:
        while True:
            await asyncio.sleep(0.0005)
            bench.spawned[-1].alive = False

    killer = asyncio.create_task(assassin())
    with pytest.raises(RolloutError, match=r"max_restarts = 2 is used up.*the actor died"):
        await bench.pool.generate(0, problem("a"), 4, SAMPLING)
    killer.cancel()
    assert len(bench.spawned) == 3


async def test_a_fault_of_the_data_does_not_cost_a_worker() -> None:
    bench = Bench(num_workers=1)
    with pytest.raises(DataError, match="prompt too long"):
        await bench.pool.generate(0, problem("too long"), 4, SAMPLING)
    assert len(bench.spawned) == 1


async def test_heal_replaces_the_dead_only() -> None:
    bench = Bench(num_workers=3)
    assert not await bench.pool.heal()
    bench.spawned[1].alive = False
    assert await bench.pool.heal()
    assert [name for name, _ in bench.refreshed] == ["rollout-1"]
    assert not await bench.pool.heal()


async def test_a_worker_that_does_not_start_is_named() -> None:
    with pytest.raises(RolloutError, match="rollout-0 did not start: no memory"):
        await Bench(num_workers=1, starts=False).pool.start()


async def test_statistics_count_tokens_once() -> None:
    bench = Bench()
    await bench.sample(5)
    stats = bench.pool.take_stats()
    assert stats["tokens/rollout"] == 5 * 4 * 2
    assert 0 < stats["time/rollout_busy_s"] < 5
    assert bench.pool.take_stats()["tokens/rollout"] == 0


def test_busy_clock_does_not_count_overlaps_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 14.0, 20.0, 21.0])  # enter, leave (last), take, take
    monkeypatch.setattr("rlvr.pool.time.perf_counter", lambda: next(now))
    clock = BusyClock()
    clock.enter()
    clock.enter()
    clock.leave()
    clock.leave()
    assert clock.take() == 4.0
    assert clock.take() == 0.0


async def test_a_restart_that_fails_ends_the_run_with_its_own_error() -> None:
    """And not with the death of the worker, which everybody else who waited for it saw."""
    bench = Bench(num_workers=1)

    async def refuse(name: str, worker: Any) -> None:
        raise WeightTransferError("rollout-0 got a corrupted tensor")

    bench.pool._refresh = refuse
    bench.spawned[0].alive = False
    results = await asyncio.gather(bench.sample(6), return_exceptions=True)
    assert [str(result) for result in results] == ["rollout-0 got a corrupted tensor"]
    with pytest.raises(WeightTransferError):
        await bench.pool.heal()
    assert len(bench.spawned) == 2
