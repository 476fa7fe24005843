"""Running any verifier so that it always ends in a verdict.

What is guaranteed, whatever the verifier does:

* it has a deadline of `timeout_s`. A sync verifier runs in a worker process; past the deadline that
  process (and what it started) is killed and replaced. An async verifier is cancelled, and not
  waited for if it ignores that.
* raising, dying (`os._exit`, a segmentation fault), hanging, and returning something that is no
  verdict are faults of ours: an `error` verdict whose detail has the reason, never a reward of 0.
* `error` verdicts, and only they, are retried up to `max_retries` times.
* no worker process outlives `close`, or the death of the process that owns it.

What is not: an async verifier that computes instead of awaiting stalls the caller's event loop
(write it as a plain function); a verifier with `in_process = True` has no deadline; a verifier may
use all memory; what it starts may leave its process group and live on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from types import TracebackType

from verifiers.problem import Problem
from verifiers.protocol import MAX_DETAIL_CHARS, to_verdict
from verifiers.registry import LoadedVerifier
from verifiers.verdict import Status, Verdict
from verifiers.worker import judge, raised

LOAD_TIMEOUT_S = 120.0
"""For importing a verifier in a new worker. Apart from its own deadline, since importing sympy or
a tokenizer on a busy machine takes longer than most verdicts."""
RETRY_DELAY_S = 0.1
"""Before the first retry; doubled for each further one, for what mends itself (a judge that
restarts)."""
MAX_ANSWER_BYTES = 16 * MAX_DETAIL_CHARS
"""Longest answer of a worker: a verdict, with room for escapes."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from verifiers.worker import main; main(int(sys.argv[2]))"
)


class Runner:
    """Judges completions with the guarantees above. Belongs to one event loop.

    Args:
        timeout_s: deadline of one attempt, in seconds, not counting the wait for a free worker.
        max_retries: further attempts after an `error`.
        num_workers: processes for sync verifiers, started when first needed.
        max_concurrency: async verdicts in flight.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 30.0,
        max_retries: int = 2,
        num_workers: int = 2,
        max_concurrency: int = 64,
    ) -> None:
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._async_slots = asyncio.Semaphore(max_concurrency)
        self._workers = [_Worker() for _ in range(num_workers)]
        self._idle: asyncio.LifoQueue[_Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def judge(self, verifier: LoadedVerifier, problem: Problem, completion: str) -> Verdict:
        """One verdict; `latency_s` sums all attempts, without the waits between them."""
        verdict, seconds = await self._attempt(verifier, problem, completion)
        attempts = 1
        while verdict.status is Status.ERROR and attempts <= self._max_retries:
            await asyncio.sleep(RETRY_DELAY_S * 2 ** (attempts - 1))
            verdict, latency_s = await self._attempt(verifier, problem, completion)
            seconds += latency_s
            attempts += 1
        if verdict.status is Status.ERROR:
            detail = {**verdict.detail, "verifier": verifier.name, "attempts": attempts}
            return replace(verdict, latency_s=seconds, detail=detail)
        return replace(verdict, latency_s=seconds)

    async def close(self) -> None:
        """Kill all worker processes and wait until they are gone."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    async def __aenter__(self) -> Runner:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _attempt(
        self, verifier: LoadedVerifier, problem: Problem, completion: str
    ) -> tuple[Verdict, float]:
        if verifier.in_process:
            start = time.perf_counter()
            try:
                verdict = judge(verifier, problem, completion)
            except (Exception, SystemExit) as error:  # the boundary: it may raise anything
                verdict = raised(error)
            return verdict, time.perf_counter() - start
        if verifier.is_async:
            async with self._async_slots:
                start = time.perf_counter()
                verdict = await self._await(verifier, problem, completion)
                return verdict, time.perf_counter() - start
        worker = await self._idle.get()
        try:
            failure = await worker.load(verifier)
            start = time.perf_counter()
            verdict = failure or await worker.verify(verifier, problem, completion, self._timeout_s)
            return verdict, time.perf_counter() - start
        finally:
            self._idle.put_nowait(worker)

    async def _await(self, verifier: LoadedVerifier, problem: Problem, completion: str) -> Verdict:
        task = asyncio.ensure_future(_judge_async(verifier, problem, completion))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        finally:
            task.cancel()  # not awaited: a verifier that ignores it must not hold us up
        if not task.done():
            return _timed_out("the verifier", self._timeout_s)
        if task.cancelled():
            return Verdict.error(reason="the verifier cancelled its own task")
        return task.result()


async def _judge_async(verifier: LoadedVerifier, problem: Problem, completion: str) -> Verdict:
    try:
        return to_verdict(await verifier.verify(problem, completion))
    except (Exception, SystemExit) as error:  # the boundary: a verifier may raise anything
        return raised(error)


class _Worker:
    """One process that runs sync verifiers, started when needed; one request at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._loaded: set[str] = set()
        self._closed = False

    async def load(self, verifier: LoadedVerifier) -> Verdict | None:
        """Have the process import the verifier; null when it is ready, else why it is not."""
        key = _key(verifier)
        if self._process is not None and key in self._loaded:
            return None
        request = ("load", key, verifier.spec, dict(verifier.params))
        verdict = await self._request(request, LOAD_TIMEOUT_S, "importing the verifier")
        if verdict.status is Status.ERROR:
            return verdict
        self._loaded.add(key)
        return None

    async def verify(
        self, verifier: LoadedVerifier, problem: Problem, completion: str, timeout_s: float
    ) -> Verdict:
        request = ("verify", _key(verifier), problem, completion)
        return await self._request(request, timeout_s, "the verifier")

    async def close(self) -> None:
        self._closed = True
        await self._stop()

    async def _request(self, request: tuple[object, ...], timeout_s: float, what: str) -> Verdict:
        try:
            message = pickle.dumps(request)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            return Verdict.error(reason=f"{what} cannot be sent to a worker process: {error}")
        try:
            process = self._process or await self._start()
            assert process.stdin is not None and process.stdout is not None
            async with asyncio.timeout(timeout_s):
                process.stdin.write(message)
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            await self._stop()
            return _timed_out(what, timeout_s)
        except (OSError, ValueError) as error:  # a broken pipe; a line over the limit
            await self._stop()
            return Verdict.error(reason=f"{what}: its worker process failed: {error!r}")
        except BaseException:  # cancelled: the answer to come would be taken for the next one
            await self._stop()
            raise
        if not line.endswith(b"\n"):
            return Verdict.error(reason=f"{what}: its worker process died, {await self._stop()}")
        return Verdict.from_json(json.loads(line))

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _BOOT, json.dumps(sys.path), str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_ANSWER_BYTES,
            start_new_session=True,  # what the verifier starts is killed with it; Ctrl-C is ours
        )
        self._process, self._loaded = process, set()
        if self._closed:
            await self._stop()
            raise RuntimeError("the runner was closed while a verdict was under way")
        return process

    async def _stop(self) -> str:
        """Kill the process and all of its group; say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "already stopped"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = await process.wait()
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _key(verifier: LoadedVerifier) -> str:
    return f"{verifier.spec} {dict(verifier.params)!r}"


def _timed_out(what: str, timeout_s: float) -> Verdict:
    return Verdict.error(reason=f"{what} passed its deadline of {timeout_s:g} s")
