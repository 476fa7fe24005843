"""Running any verifier so that it always ends in a verdict.

What is guaranteed, whatever the verifier does:

* it has a deadline of `timeout_s`. A sync verifier runs in a worker process; past the deadline that
  process (and what it started) is killed and replaced. An async verifier is cancelled, and not
  waited for if it ignores that.
* raising, dying (`os._exit`, a segmentation fault), hanging, and returning something that is no
  verdict are faults of ours: an `error` verdict whose detail has the reason, never a reward of 0.
* `error` verdicts, and only they, are retried up to `max_retries` times; those that say
  `permanent` are not.
* a verifier with `verify_batch` gets up to `max_batch_size` completions at once. When a batch fails
  as a whole, its members are judged again one by one, so that one cannot spoil the others.
* of a verifier with `max_concurrency`, no more calls than that are under way.
* no worker process outlives `close`, or the death of the process that owns it.

A composite (`compose`, see `verifiers.compose`) holds no slot while its components are judged, each
with all of the above.

What is not: an async verifier that computes instead of awaiting stalls the caller's event loop
(write it as a plain function); a verifier with `in_process = True`, and the `compose` of a
composite, have no deadline; an async verifier may use all memory; what a verifier starts may leave
its process group and live on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Self

from verifiers.batching import Batcher
from verifiers.forms import LoadedVerifier
from verifiers.problem import Problem
from verifiers.processes import WorkerProcess, timed_out
from verifiers.protocol import to_verdict, to_verdicts
from verifiers.verdict import Status, Verdict
from verifiers.worker import judge, raised

RETRY_DELAY_S = 0.1
"""Before the first retry; doubled for each further one, for what mends itself (a judge that
restarts)."""
CLOSE_TIMEOUT_S = 60.0
"""For a verifier's own `close`: removing containers on a busy machine takes tens of seconds."""

_log = logging.getLogger(__name__)

Answer = list[Verdict] | Verdict
"""One verdict a completion, or the one error that befell them all."""


class Runner:
    """Judges completions with the guarantees above. Belongs to one event loop.

    Args:
        timeout_s: deadline of one attempt, in seconds, not counting the wait for a free worker; a
            verifier that says a longer one of its own gets that.
        max_retries: further attempts after an `error`.
        num_workers: processes for sync verifiers, started when first needed.
        max_concurrency: async verdicts in flight.
        worker_memory_mb: most memory of one worker process, in MiB; 0: no limit. Beyond it the
            verifier gets a MemoryError.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        max_retries: int = 2,
        num_workers: int = 2,
        max_concurrency: int = 64,
        worker_memory_mb: int = 8192,
    ) -> None:
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._async_slots = asyncio.Semaphore(max_concurrency)
        self._workers = [WorkerProcess(worker_memory_mb) for _ in range(num_workers)]
        self._idle: asyncio.LifoQueue[WorkerProcess] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)
        self._used: dict[int, _Used] = {}

    async def judge(self, verifier: LoadedVerifier, problem: Problem, completion: str) -> Verdict:
        """One verdict; `latency_s` sums all attempts, without the waits between them."""
        used = self._used.setdefault(id(verifier), _Used(verifier))
        if verifier.compose is not None:
            return await self._compose(verifier, problem, completion)
        verdict, seconds = await self._attempt(used, problem, completion)
        attempts = 1
        while _worth_retrying(verdict) and attempts <= self._max_retries:
            await asyncio.sleep(RETRY_DELAY_S * 2 ** (attempts - 1))
            verdict, latency_s = await self._attempt(used, problem, completion)
            seconds += latency_s
            attempts += 1
        if verdict.status is Status.ERROR:
            detail = {**verdict.detail, "verifier": verifier.name, "attempts": attempts}
            return replace(verdict, latency_s=seconds, detail=detail)
        return replace(verdict, latency_s=seconds)

    async def close(self) -> None:
        """Close the verifiers that were used, kill all worker processes, wait until they are gone.

        A verifier whose own `close` raises, or takes more than `CLOSE_TIMEOUT_S`, is logged as a
        warning: by then every verdict is there, and no reason to lose them.
        """
        used, self._used = self._used, {}
        await asyncio.gather(
            *(worker.close() for worker in self._workers),
            *(one.batcher.close() for one in used.values() if one.batcher is not None),
            *(_close(one.verifier) for one in used.values()),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _compose(
        self, verifier: LoadedVerifier, problem: Problem, completion: str
    ) -> Verdict:
        assert verifier.compose is not None
        start = time.perf_counter()
        try:
            verdict = to_verdict(
                await verifier.compose(
                    problem, completion, lambda part: self.judge(part, problem, completion)
                )
            )
        except (Exception, SystemExit) as error:  # the boundary: it may raise anything
            verdict = raised(error)
        return replace(verdict, latency_s=time.perf_counter() - start)

    async def _attempt(
        self, used: _Used, problem: Problem, completion: str
    ) -> tuple[Verdict, float]:
        """A verdict and the seconds it took (of its whole batch, where there is one)."""
        if used.verifier.verify_batch is None or used.verifier.in_process:
            answer, seconds = await self._run(used, [problem], [completion])
            return answer if isinstance(answer, Verdict) else answer[0], seconds
        if used.batcher is None:
            used.batcher = Batcher(
                slot=lambda: self._slot(used),
                run=lambda problems, completions, slot: self._run_in(
                    slot, used.verifier, problems, completions
                ),
                max_batch_size=used.verifier.max_batch_size,
            )
        return await used.batcher.judge(problem, completion)

    async def _run(
        self, used: _Used, problems: Sequence[Problem], completions: Sequence[str]
    ) -> tuple[Answer, float]:
        async with self._slot(used) as worker:
            return await self._run_in(worker, used.verifier, problems, completions)

    @contextlib.asynccontextmanager
    async def _slot(self, used: _Used) -> AsyncIterator[WorkerProcess | None]:
        """Room for one call of the verifier: of its own limit, then of everybody's."""
        async with used.slots:
            if used.verifier.in_process:
                yield None
            elif used.verifier.is_async:
                async with self._async_slots:
                    yield None
            else:
                worker = await self._idle.get()
                try:
                    yield worker
                finally:
                    self._idle.put_nowait(worker)

    async def _run_in(
        self,
        worker: WorkerProcess | None,
        verifier: LoadedVerifier,
        problems: Sequence[Problem],
        completions: Sequence[str],
    ) -> tuple[Answer, float]:
        if worker is not None:
            failure = await worker.load(verifier)
            start = time.perf_counter()
            timeout_s = self._deadline_s(verifier)
            answer = failure or await worker.judge(verifier, problems, completions, timeout_s)
            return answer, time.perf_counter() - start
        start = time.perf_counter()
        if verifier.is_async:
            answer = await self._await(verifier, problems, completions)
        else:
            try:
                answer = judge(verifier, problems, completions)
            except (Exception, SystemExit) as error:  # the boundary: it may raise anything
                answer = raised(error)
        return answer, time.perf_counter() - start

    async def _await(
        self, verifier: LoadedVerifier, problems: Sequence[Problem], completions: Sequence[str]
    ) -> Answer:
        timeout_s = self._deadline_s(verifier)
        task = asyncio.ensure_future(_judge_async(verifier, problems, completions))
        try:
            await asyncio.wait({task}, timeout=timeout_s)
        finally:
            task.cancel()  # not awaited: a verifier that ignores it must not hold us up
        if not task.done():
            return timed_out("the verifier", timeout_s)
        if task.cancelled():
            return Verdict.error(reason="the verifier cancelled its own task")
        return task.result()

    def _deadline_s(self, verifier: LoadedVerifier) -> float:
        return max(self._timeout_s, verifier.timeout_s)


class _Used:
    """What a runner keeps of a verifier it has judged with."""

    def __init__(self, verifier: LoadedVerifier) -> None:
        self.verifier = verifier
        limit = verifier.max_concurrency
        self.slots = contextlib.nullcontext() if limit is None else asyncio.Semaphore(limit)
        self.batcher: Batcher | None = None


async def _judge_async(
    verifier: LoadedVerifier, problems: Sequence[Problem], completions: Sequence[str]
) -> Answer:
    try:
        if verifier.verify_batch is not None:
            return to_verdicts(await verifier.verify_batch(problems, completions), len(problems))
        return [to_verdict(await verifier.verify(problems[0], completions[0]))]
    except (Exception, SystemExit) as error:  # the boundary: a verifier may raise anything
        return raised(error)


async def _close(verifier: LoadedVerifier) -> None:
    if verifier.close is None:
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await verifier.close()
    except Exception as error:  # the boundary: it may raise anything
        _log.warning("closing the verifier %s failed: %r", verifier.name, error)


def _worth_retrying(verdict: Verdict) -> bool:
    return verdict.status is Status.ERROR and verdict.detail.get("permanent") is not True
