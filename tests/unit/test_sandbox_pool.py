"""The pool, over slots that break on demand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from sandbox import (
    Case,
    Limits,
    Outcome,
    Program,
    Result,
    SandboxError,
    SandboxUnavailableError,
    SlotLostError,
)
from sandbox.metrics import quantile
from sandbox.pool import MAX_ATTEMPTS, Pool, PoolOptions
from sandbox.protocol import Session

PROGRAM = Program(argv=["true"])
LIMITS = Limits()


def result(stdout: bytes) -> Result:
    return Result(
        outcome=Outcome.EXITED, exit_code=0, signal=None, stdout=stdout, stderr=b"",
        wall_s=0.01, cpu_s=0.01, memory_mb=1.0,
    )  # fmt: skip


class FakeSlot:
    """Echoes each case's input; dies before the case whose input is in `factory.deaths`, and is
    used up by those in `factory.fillers`."""

    def __init__(self, factory: Factory) -> None:
        self.healthy, self.num_runs, self.started_s = True, 0, time.monotonic()
        self.factory, self.closed, self.busy = factory, False, False

    async def run(
        self,
        program: Program,
        cases: Sequence[Case],
        limits: Limits,
        on_result: Callable[[Result], bool],
    ) -> None:
        assert not self.busy and not self.closed
        self.busy = True
        try:
            for case in cases:
                await asyncio.sleep(self.factory.case_s)
                if case.stdin in self.factory.deaths:
                    self.factory.deaths.remove(case.stdin)
                    self.healthy = False
                    raise SlotLostError("it died")
                self.num_runs += 1
                self.factory.ran.append(case.stdin)
                if case.stdin in self.factory.fillers:
                    self.healthy = False
                if on_result(result(case.stdin)) or not self.healthy:
                    return
        finally:
            self.busy = False

    @contextlib.asynccontextmanager
    async def session(self, program: Program, limits: Limits) -> AsyncIterator[Session]:
        raise NotImplementedError
        yield

    async def close(self) -> None:
        self.closed = True


class Factory:
    def __init__(self, **options: float) -> None:
        self.slots: list[FakeSlot] = []
        self.deaths: list[bytes] = []
        self.fillers: list[bytes] = []
        self.ran: list[bytes] = []
        self.failures: list[Exception] = []
        self.case_s = 0.0
        self.pool = Pool(self.start, PoolOptions(**{"num_slots": 2, **options}))  # type: ignore[arg-type]

    async def start(self) -> FakeSlot:
        if self.failures:
            raise self.failures.pop()
        self.slots.append(FakeSlot(self))
        return self.slots[-1]

    async def run(self, *inputs: bytes, **options: object) -> list[bytes]:
        cases = [Case(stdin=data) for data in inputs]
        found = await self.pool.run(PROGRAM, cases, LIMITS, **options)  # type: ignore[arg-type]
        return [one.stdout for one in found]


async def test_slots_start_when_they_are_needed_and_no_more_than_that() -> None:
    factory = Factory(num_slots=3)
    assert factory.slots == []
    await factory.run(b"a")
    assert len(factory.slots) == 1
    factory.case_s = 0.001
    await asyncio.gather(*(factory.run(b"a", b"b") for _ in range(20)))
    assert len(factory.slots) == 3


async def test_a_dead_slot_costs_no_result_and_repeats_none() -> None:
    factory = Factory()
    factory.deaths = [b"c", b"a"]
    assert await factory.run(b"a", b"b", b"c", b"d") == [b"a", b"b", b"c", b"d"]
    assert factory.ran == [b"a", b"b", b"c", b"d"]
    assert factory.pool.metrics.slots_lost == 2
    assert factory.pool.metrics.infrastructure_errors == 0


async def test_a_program_that_uses_slots_up_gets_all_its_results_and_no_slot_is_lost() -> None:
    factory = Factory()
    factory.fillers = cases = [b"%d" % i for i in range(MAX_ATTEMPTS + 2)]
    assert await factory.run(*cases) == cases
    assert factory.pool.metrics.slots_lost == 0
    assert len(factory.slots) >= len(cases)


async def test_a_program_that_kills_every_slot_is_given_up() -> None:
    factory = Factory()
    factory.deaths = [b"a"] * (MAX_ATTEMPTS + 1)
    with pytest.raises(SandboxError, match=f"it died .{MAX_ATTEMPTS} slots were tried"):
        await factory.run(b"a")
    assert factory.pool.metrics.infrastructure_errors == 1
    assert await factory.run(b"b") == [b"b"]


async def test_stop_is_asked_once_for_each_case_though_slots_die() -> None:
    factory = Factory()
    factory.deaths = [b"b", b"c"]
    seen = []
    found = await factory.run(
        b"a", b"b", b"c", b"d", stop=lambda index, one: seen.append(index) or one.stdout == b"c"
    )
    assert found == [b"a", b"b", b"c"] and seen == [0, 1, 2]


async def test_starting_is_tried_again_for_a_while() -> None:
    factory = Factory(patience_s=5)
    factory.failures = [SandboxError("the daemon restarts")] * 2
    assert await factory.run(b"a") == [b"a"]
    factory = Factory(patience_s=0.05)
    factory.failures = [SandboxError("the daemon is gone")] * 9
    with pytest.raises(SandboxError, match="no sandbox slot could be started: the daemon is gone"):
        await factory.run(b"a")


async def test_what_cannot_get_better_is_not_tried_again() -> None:
    factory = Factory()
    factory.failures = [SandboxUnavailableError("no image")]
    with pytest.raises(SandboxUnavailableError, match="no image"):
        await factory.run(b"a")
    assert await factory.run(b"a") == [b"a"]


async def test_worn_slots_are_replaced_and_serve_until_then() -> None:
    factory = Factory(num_slots=1, max_runs=2)
    for _ in range(10):
        await factory.run(b"a")
        await asyncio.sleep(0)
    assert len(factory.slots) >= 4
    assert all(slot.num_runs <= 4 for slot in factory.slots)
    await factory.pool.close()
    assert all(slot.closed for slot in factory.slots)


async def test_old_slots_are_replaced() -> None:
    factory = Factory(num_slots=1, max_age_s=0)
    await factory.run(b"a")
    await asyncio.sleep(0)
    await factory.run(b"a")
    assert len(factory.slots) >= 2 and factory.slots[0].closed
    await factory.pool.close()


async def test_waiting_has_a_deadline_and_the_queue_a_bound() -> None:
    factory = Factory(num_slots=1, max_waiting=1)
    factory.case_s = 0.2
    busy = asyncio.create_task(factory.run(b"a"))
    await asyncio.sleep(0.01)
    waiting = asyncio.create_task(factory.run(b"b", deadline_s=0.05))
    await asyncio.sleep(0.01)
    with pytest.raises(SandboxError, match="already wait"):
        await factory.run(b"c")
    with pytest.raises(SandboxError, match=r"no sandbox slot was free for 0\.05 s"):
        await waiting
    assert await busy == [b"a"]
    assert factory.pool.metrics.snapshot()["infrastructure_error_rate"] == pytest.approx(2 / 3)


async def test_a_cancelled_caller_gives_its_slot_back() -> None:
    factory = Factory(num_slots=1)
    factory.case_s = 10
    task = asyncio.create_task(factory.run(b"a"))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    factory.case_s = 0
    assert await factory.run(b"b") == [b"b"]


async def test_a_closed_pool_says_so() -> None:
    factory = Factory()
    await factory.run(b"a")
    await factory.pool.close()
    assert factory.slots[0].closed
    with pytest.raises(SandboxError, match="closed"):
        await factory.run(b"a")


async def test_metrics() -> None:
    factory = Factory()
    await factory.run(b"a", b"b")
    snapshot = factory.pool.metrics.snapshot()
    assert snapshot["submissions"] == 1 and snapshot["outcome_exited"] == 2
    assert snapshot["run_p50_s"] == 0.01 and snapshot["infrastructure_error_rate"] == 0


def test_quantile() -> None:
    assert [quantile([3, 1, 2, 4], q) for q in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]
    assert quantile([], 0.5) == 0


async def test_first_come_first_served() -> None:
    """A caller that comes back at once must not overtake those who wait."""
    factory = Factory(num_slots=1)
    num_served = [0, 0, 0]

    async def caller(index: int) -> None:
        while sum(num_served) < 300:
            await factory.run(b"a")
            num_served[index] += 1

    await asyncio.gather(*(caller(index) for index in range(3)))
    assert max(num_served) - min(num_served) <= 2
