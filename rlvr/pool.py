"""The rollout workers as one: spreads requests by load, restarts the dead, loses nothing.

Knows nothing of Ray; `cluster.py` says how a worker is spawned, called and killed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlvr.errors import RlvrError, RolloutError
from rlvr.sampling import Sampling
from rlvr.types import Group, Problem

logger = logging.getLogger(__name__)


class WorkerHandle(Protocol):
    """One rollout engine, wherever it runs."""

    async def call(self, method: str, *args: Any) -> Any:
        """Run a method of its `RolloutEngine`.

        Raises:
            RolloutError: the engine or its process is dead; a new worker has to take its place.
            RlvrError: anything else that the method raised; the worker is fine.
        """
        ...

    def kill(self) -> None: ...


Spawn = Callable[[int], WorkerHandle]
"""Makes the worker of an index; it still has to be started."""
Refresh = Callable[[str, WorkerHandle], Awaitable[None]]
"""Gives a new worker (name, handle) the current weights."""


@dataclass(slots=True, eq=False)
class _Worker:
    name: str
    index: int
    handle: WorkerHandle
    num_running: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RolloutPool:
    """Implements `train.Rollouts` over any number of workers."""

    def __init__(
        self,
        num_workers: int,
        spawn: Spawn,
        refresh: Refresh,
        *,
        max_restarts: int,
        start_timeout_s: float,
    ) -> None:
        self._spawn = spawn
        self._refresh = refresh
        self._max_restarts = max_restarts
        self._start_timeout_s = start_timeout_s
        self._num_restarts = 0
        self._failure: RlvrError | None = None
        self._busy = BusyClock()
        self._num_tokens = 0
        self._workers = [_Worker(f"rollout-{i}", i, spawn(i)) for i in range(num_workers)]

    async def start(self) -> None:
        """Returns once every worker is ready.

        Raises:
            RolloutError: naming the worker that did not start.
        """
        await asyncio.gather(*(self._ready(each.name, each.handle) for each in self._workers))

    @property
    def handles(self) -> dict[str, WorkerHandle]:
        return {worker.name: worker.handle for worker in self._workers}

    async def generate(self, index: int, problem: Problem, num: int, sampling: Sampling) -> Group:
        """Sample one group on the least loaded worker. When the worker dies, it is restarted with
        the current weights and the group is sampled again.

        Raises:
            RolloutError: when workers died more than `rollout.max_restarts` times.
            DataError: when the problem's prompt does not fit.
        """
        while True:
            worker = min(self._workers, key=lambda each: each.num_running)
            handle = worker.handle
            worker.num_running += num
            self._busy.enter()
            try:
                group: Group = await handle.call("generate", index, problem, num, sampling)
                self._num_tokens += sum(len(each.completion.token_ids) for each in group.rollouts)
                return group
            except RolloutError as error:
                await self._restart(worker, handle, error)
            finally:
                worker.num_running -= num
                self._busy.leave()

    async def check_prompts(self, problems: Sequence[Problem], sampling: Sampling) -> None:
        """Raise DataError if a problem's prompt does not fit the engines."""
        await self._workers[0].handle.call("check_prompts", problems, sampling)

    async def heal(self) -> bool:
        """Restart every worker that is dead; whether there was one."""
        checks = await asyncio.gather(*(self._check(worker) for worker in self._workers))
        return any(checks)

    async def _check(self, worker: _Worker) -> bool:
        handle = worker.handle
        try:
            await handle.call("check_health")
        except RolloutError as error:
            await self._restart(worker, handle, error)
            return True
        return False

    async def _restart(self, worker: _Worker, dead: WorkerHandle, error: RolloutError) -> None:
        """Replace a worker once, however many requests saw it die."""
        async with worker.lock:
            if self._failure:
                raise self._failure
            if worker.handle is not dead:
                return
            self._num_restarts += 1
            if self._num_restarts > self._max_restarts:
                raise RolloutError(
                    f"{worker.name} died, and rollout.max_restarts = {self._max_restarts} is used "
                    f"up; its last error: {error}"
                ) from error
            logger.warning("%s died and is restarted: %s", worker.name, error)
            dead.kill()
            handle = self._spawn(worker.index)
            try:
                await self._ready(worker.name, handle)
                await self._refresh(worker.name, handle)
            except RlvrError as failure:
                # The run ends with this, not with what the others waiting for the worker see.
                self._failure = failure
                raise
            worker.handle = handle

    async def _ready(self, name: str, handle: WorkerHandle) -> None:
        try:
            await asyncio.wait_for(handle.call("start"), self._start_timeout_s)
        except TimeoutError as error:
            raise RolloutError(
                f"{name} was not ready within {self._start_timeout_s:g} s"
            ) from error
        except RolloutError as error:
            raise RolloutError(f"{name} did not start: {error}") from error

    def take_stats(self) -> dict[str, float]:
        """Tokens and busy seconds since the last call, and the run's restarts so far."""
        tokens, self._num_tokens = self._num_tokens, 0
        return {
            "tokens/rollout": float(tokens),
            "time/rollout_busy_s": self._busy.take(),
            "workers/restarts": float(self._num_restarts),
        }

    async def close(self, timeout_s: float) -> None:
        """Let the engines stop their processes; kill what does not."""
        closing = asyncio.gather(
            *(worker.handle.call("close") for worker in self._workers), return_exceptions=True
        )
        try:
            await asyncio.wait_for(closing, timeout_s)
        except TimeoutError:
            logger.warning("rollout workers did not close within %g s and are killed", timeout_s)
        for worker in self._workers:
            worker.handle.kill()


class BusyClock:
    """Seconds during which at least one request was in flight."""

    def __init__(self) -> None:
        self._running = 0
        self._since = 0.0
        self._seconds = 0.0

    def enter(self) -> None:
        if self._running == 0:
            self._since = time.perf_counter()
        self._running += 1

    def leave(self) -> None:
        self._running -= 1
        if self._running == 0:
            self._seconds += time.perf_counter() - self._since

    def take(self) -> float:
        """The seconds since the last call."""
        now = time.perf_counter()
        seconds, self._seconds = self._seconds, 0.0
        if self._running:
            seconds += now - self._since
            self._since = now
        return seconds
