"""Gathering single requests into batches for verifiers that judge many completions at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from verifiers.problem import Problem
from verifiers.verdict import Verdict

GATHER_S = 0.005
"""How long the first request of a batch waits for company. While the verifier is busy the batch
goes on filling, so this matters only when it is idle."""

ALONE_FACTOR, ALONE_S = 2.0, 5.0
"""Members of a failed batch are judged alone for at most twice as long as the batch took, or 5 s:
enough to find the one that hangs, and not 32 deadlines when all do. The rest share its error."""

Slot = TypeVar("Slot")


@dataclass(slots=True)
class _Request:
    problem: Problem
    completion: str
    answer: asyncio.Future[tuple[Verdict, float]]


class Batcher(Generic[Slot]):
    """One verifier's queue. Belongs to one event loop.

    Args:
        slot: enters when there is room for one more call of the verifier.
        run: judges a batch in that slot: one verdict each, or the error of the whole, and seconds.
        max_batch_size: most completions a call.
    """

    def __init__(
        self,
        *,
        slot: Callable[[], AbstractAsyncContextManager[Slot]],
        run: Callable[
            [Sequence[Problem], Sequence[str], Slot],
            Awaitable[tuple[list[Verdict] | Verdict, float]],
        ],
        max_batch_size: int,
    ) -> None:
        self._slot = slot
        self._run = run
        self._max_batch_size = max_batch_size
        self._waiting: deque[_Request] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False

    async def judge(self, problem: Problem, completion: str) -> tuple[Verdict, float]:
        """The completion's verdict, and the seconds its batch took."""
        request = _Request(problem, completion, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._gather()
        return await request.answer

    async def close(self) -> None:
        """End what is under way; those who wait for it get a RuntimeError."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for request in self._waiting:
            _fail(request, asyncio.CancelledError())

    def _gather(self) -> None:
        """Have one task at a time wait for room for the next batch."""
        if self._waiting and not self._gathering:
            self._gathering = True
            self._spawn(self._next_batch())

    async def _next_batch(self) -> None:
        if len(self._waiting) < self._max_batch_size:
            await asyncio.sleep(GATHER_S)
        batch: list[_Request] = []
        try:
            async with self._slot() as slot:
                while self._waiting and len(batch) < self._max_batch_size:
                    request = self._waiting.popleft()
                    if not request.answer.cancelled():
                        batch.append(request)
                self._gathering = False
                self._gather()
                if batch:
                    await self._judge(batch, slot)
        except BaseException as error:
            for request in batch:
                _fail(request, error)
            raise

    async def _judge(self, batch: list[_Request], slot: Slot) -> None:
        """Judge the batch; if it fails as a whole, its members alone, in this slot."""
        problems = [request.problem for request in batch]
        completions = [request.completion for request in batch]
        answer, seconds = await self._run(problems, completions, slot)
        if isinstance(answer, list):
            for request, verdict in zip(batch, answer, strict=True):
                _resolve(request, verdict, seconds)
            return
        left_s = max(ALONE_FACTOR * seconds, ALONE_S) if len(batch) > 1 else 0.0
        for request in batch:
            if left_s <= 0.0:
                _resolve(request, answer, seconds)
                continue
            alone, alone_s = await self._run([request.problem], [request.completion], slot)
            left_s -= alone_s
            _resolve(request, alone[0] if isinstance(alone, list) else alone, seconds + alone_s)

    def _spawn(self, coroutine: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coroutine)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it has gone to those who waited


def _resolve(request: _Request, verdict: Verdict, seconds: float) -> None:
    if not request.answer.done():
        request.answer.set_result((verdict, seconds))


def _fail(request: _Request, error: BaseException) -> None:
    if request.answer.done():
        return
    if isinstance(error, asyncio.CancelledError):
        error = RuntimeError("the runner was closed while a verdict was under way")
    request.answer.set_exception(error)
