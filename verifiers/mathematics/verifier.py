"""The math verifier: extraction, exact comparison here, everything slower in worker processes."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from verifiers.mathematics.answer import (
    Answer,
    canonical,
    is_opaque,
    is_text,
    read,
    same_text,
    same_word,
)
from verifiers.mathematics.clean import clean
from verifiers.mathematics.compare import (
    ExactOracle,
    NeedsNumbers,
    is_plain_number,
    same_answer,
)
from verifiers.mathematics.expr import TooLarge, symbols, walk
from verifiers.mathematics.extract import Found, Kind, extract, gold_text
from verifiers.mathematics.pool import START_TIMEOUT_S, Outcome, Pool, Reply
from verifiers.problem import Problem
from verifiers.verdict import Verdict

MAX_SHOWN_CHARS = 200
"""Longest piece of a completion in a verdict's detail."""
_EXACT = ExactOracle()
GOLD_CACHE = 4_096
"""Golds kept parsed: the completions of a group share theirs."""


class MathVerifier:
    """Judges the final answer of a completion against `problem.answer`, which may be LaTeX, plain
    text, or a solution that ends in `\\boxed{}` or `####`. Rules: docs/math_verifier.md.

    Works the same from threads (`judge`), from event loops (`verify`) and from forked processes.

    Args:
        last_number: take the last number of a completion that states no answer; null: only if the
            gold is one rational number.
        allow_unevaluated: let `6 \\times 7` stand for 42.
        timeout_s: deadline of a comparison in a worker process, in seconds.
        num_workers: worker processes, started when first needed.
        memory_mb: address space of a worker process.

    Raises:
        ValueError: an argument is not positive.
    """

    name = "math"

    def __init__(
        self,
        *,
        last_number: bool | None = None,
        allow_unevaluated: bool = False,
        timeout_s: float = 3.0,
        num_workers: int = 2,
        memory_mb: int = 1024,
    ) -> None:
        if timeout_s <= 0 or num_workers < 1 or memory_mb < 256:
            raise ValueError(
                "the math verifier needs timeout_s > 0, num_workers >= 1 and memory_mb >= 256"
            )
        self.last_number = last_number
        self.allow_unevaluated = allow_unevaluated
        self.deadline_s = timeout_s
        self.num_workers = num_workers
        self.memory_mb = memory_mb
        # For the runner. It counts time from when one of these is free, so the wait for a worker
        # process is in no latency and no deadline; and it must not be quicker than the deadline
        # here, which tells whose fault it is.
        self.max_concurrency = num_workers
        self.timeout_s = 2 * (timeout_s + START_TIMEOUT_S)
        self._lock = threading.Lock()
        self._owned: _Owned | None = None

    async def verify(self, problem: Problem, completion: str) -> Verdict:
        """Judge one completion. Only the wait for a worker process leaves the event loop's thread;
        what runs in it takes time linear in the completion's length."""
        slow = self._fast(problem, completion)
        if isinstance(slow, Verdict):
            return slow
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._processes().threads, slow)

    def judge(self, problem: Problem, completion: str) -> Verdict:
        """The same for callers without an event loop, from any number of threads."""
        slow = self._fast(problem, completion)
        return slow if isinstance(slow, Verdict) else slow()

    async def close(self) -> None:
        """Kill the worker processes and wait for their end; a later verdict starts new ones."""
        await asyncio.to_thread(self.close_now)

    def close_now(self) -> None:
        with self._lock:
            owned, self._owned = self._owned, None
        if owned is not None and owned.pid == os.getpid():
            owned.pool.close()
            owned.threads.shutdown(wait=True)

    def pids(self) -> list[int]:
        """Process ids of the worker processes."""
        return [] if self._owned is None else self._owned.pool.pids()

    def _fast(self, problem: Problem, completion: str) -> Verdict | Callable[[], Verdict]:
        """The verdict, or what to call for it where a worker process is needed."""
        try:
            gold = _gold(problem.answer or "")
        except TooLarge as error:
            return _gold_error(problem, str(error))
        if gold.why is not None:
            return _gold_error(problem, gold.why)
        last_number = gold.kind.number if self.last_number is None else self.last_number
        found = extract(completion, gold.kind, last_number=last_number)
        if found is None:
            return Verdict.no_answer()
        if not found.candidates:
            return Verdict.no_answer(rule=found.rule)
        return self._compare(problem, gold, found)

    def _compare(
        self, problem: Problem, gold: _Gold, found: Found
    ) -> Verdict | Callable[[], Verdict]:
        text = found.candidates[0]
        detail: dict[str, Any] = {"extracted": text[:MAX_SHOWN_CHARS], "rule": found.rule}
        if gold.kind.text:
            for candidate in found.candidates:
                if len(candidate) < MAX_SHOWN_CHARS and same_text(
                    gold.answer.text, clean(candidate)
                ):
                    return Verdict.correct(**detail, settled="text")
            return Verdict.incorrect(**detail, settled="text")
        try:
            answer = read(text, letter_units=gold.letter_units)
            if same_word(gold.answer.text, answer.text):
                return Verdict.correct(**detail, settled="text")  # `odd`, else a product
            if is_opaque(gold.answer) or is_opaque(answer):
                if canonical(gold.answer.text) == canonical(answer.text):
                    return Verdict.correct(**detail, settled="text")
                if gold.kind.number and not self.allow_unevaluated:
                    return Verdict.incorrect(**detail, reason="it is not evaluated")
            elif answer.expr is None:
                return Verdict.incorrect(**detail, reason=answer.why)
            else:
                same = same_answer(
                    gold.answer, answer, _EXACT, allow_calculation=self.allow_unevaluated
                )
                return (Verdict.correct if same else Verdict.incorrect)(**detail, settled="exact")
        except TooLarge as error:
            return Verdict.limit(**detail, reason=str(error))
        except NeedsNumbers:
            pass  # the one way on to the worker processes
        request = {
            "gold": gold.text,
            "answer": text,
            "letter_units": gold.letter_units,
            "allow_calculation": self.allow_unevaluated,
        }
        return functools.partial(self._ask, problem, request, detail)

    def _ask(self, problem: Problem, request: dict[str, Any], detail: dict[str, Any]) -> Verdict:
        pool = self._processes().pool
        reply = pool.ask(request, self.deadline_s)
        if reply.outcome is Outcome.DIED:  # not its own doing, as far as we know: once more
            reply = pool.ask(request, self.deadline_s)
        return _verdict(problem, reply, detail)

    def _processes(self) -> _Owned:
        with self._lock:
            if self._owned is None or self._owned.pid != os.getpid():
                threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="math-verifier")
                pool = Pool(self.num_workers, self.memory_mb)
                self._owned = _Owned(os.getpid(), pool, threads)
            return self._owned


class _Owned(NamedTuple):
    """What belongs to one process and must not be used by its forks."""

    pid: int
    pool: Pool
    threads: ThreadPoolExecutor


class _Gold(NamedTuple):
    """A gold answer, read once."""

    text: str
    answer: Answer
    kind: Kind
    letter_units: bool
    """`5 m` in an answer is five metres: the gold has no variables."""
    why: str | None
    """Why it cannot be used, if so."""


@functools.lru_cache(maxsize=GOLD_CACHE)
def _gold(text: str) -> _Gold:
    text = gold_text(text)
    answer = read(text)
    textual = is_text(answer)
    why = None
    if not answer.text:
        why = "it is empty"
    elif answer.expr is None and not textual and not is_opaque(answer):
        why = answer.why or "it is no expression"
    expr = answer.expr
    kind = Kind(
        number=not textual and is_plain_number(expr),
        text=textual,
        several=expr is not None
        and any(node.head in ("list", "set", "pm", "mp", "tuple") for node in walk(expr)),
    )
    return _Gold(text, answer, kind, expr is not None and not symbols(expr), why)


def _gold_error(problem: Problem, why: str) -> Verdict:
    shown = (problem.answer or "")[:MAX_SHOWN_CHARS]
    return Verdict.error(
        reason=f"the gold answer {shown!r} of problem {problem.id!r} cannot be used: {why}",
        permanent=True,
    )


def _verdict(problem: Problem, reply: Reply, detail: dict[str, Any]) -> Verdict:
    blames_gold = not any(stage.get("stage") == "gold" for stage in reply.stages)
    if reply.outcome is Outcome.DIED:
        return Verdict.error(**detail, reason=f"the worker process failed twice: {reply.reason}")
    if reply.outcome is Outcome.TIME:
        if blames_gold:
            return Verdict.error(
                reason=f"reading the gold of problem {problem.id!r}: {reply.reason}"
            )
        return Verdict.limit(**detail, reason=reply.reason)
    result, reason = reply.stages[-1]["result"], reply.stages[-1].get("reason")
    if result == "fault":
        return Verdict.error(**detail, reason=reason, traceback=reply.stages[-1].get("traceback"))
    if result == "error":
        return _gold_error(problem, str(reason))
    if result == "limit":
        return Verdict.limit(**detail, reason=reason)
    return (Verdict.correct if result else Verdict.incorrect)(**detail, settled="numbers")
