"""The code verifier: programs that models write, run in sandboxes, judged where they cannot reach.

The judge never shares a process, or a container, with a candidate. `stdio` programs get stdin and
nothing else; functions get arguments and may only claim values; test code (HumanEval, MBPP) runs in
a judge of its own. See docs/code_verifier.md.
"""

from __future__ import annotations

import functools
import os
from collections import OrderedDict
from dataclasses import replace
from typing import Any, Literal

from sandbox.errors import SandboxError
from sandbox.protocol import Limits
from verifiers import code_pools, code_shims
from verifiers.code_assert import JUDGE_CPU_S, run_assert
from verifiers.code_extract import CodePrompt, Extracted, Rule, code_prompt, extract, open_fence
from verifiers.code_function import run_function
from verifiers.code_languages import LANGUAGES
from verifiers.code_pools import Pools, PoolSettings
from verifiers.code_report import CaseReport, verdict
from verifiers.code_stdio import Builder, run_stdio
from verifiers.code_tests import (
    AssertTests,
    FunctionTests,
    StdioTests,
    Tests,
    TestsError,
    parse_tests,
)
from verifiers.errors import VerifierLoadError
from verifiers.problem import Problem
from verifiers.verdict import Verdict

REPLY_BYTES = 2 << 20
"""Room for the values that functions return, beside what a program may print."""
MAX_ATTEMPTS = 2
"""Tries of one submission within one verdict when a sandbox fails us; the runner adds its own."""

MAX_PARSED = 64
"""Problems whose parsed tests are kept. Completions of one group come close together."""


class CodeVerifier:
    """Correct if and only if the completion's program passes all of `problem.tests`.

    Args:
        extract: how the program is taken from the completion (`verifiers.code_extract`).
        start: `fork` from a warm interpreter, or `exec` of a new one for each Python process.
        partial_credit: reward the fraction of cases passed.
        stop_early: skip the cases after the first failure; null: unless there is partial credit.
        time_s, wall_s, memory_mb, output_bytes, processes: limits of one case where the tests say
            nothing; `wall_s` null is 1.5 times `time_s` plus one second, and `output_bytes` is
            never below four times the longest expected output.
        total_s: wall seconds after which no further case of a submission is begun; the rest count
            as not passed.
        num_slots: containers for candidates, and as many for judges; null: by the machine.
        runtime: Docker runtime (`runsc` for gVisor); null: Docker's default.
        image: sandbox image; null: the one `rlvr sandbox build` makes.
        max_memory_mb: the most that a problem's tests may ask for.
        pools: for tests; sandboxes to use instead of Docker's. They are not closed.
    """

    name = "code"
    timeout_s = 120.0
    """Deadline of a verdict where `scoring.timeout_s` is shorter. Every process has its own limits;
    this is for a sandbox that hangs, and a busy machine must not reach it."""

    def __init__(
        self,
        *,
        extract: Rule = "auto",
        start: Literal["fork", "exec"] = "fork",
        partial_credit: bool = False,
        stop_early: bool | None = None,
        time_s: float = 10.0,
        wall_s: float | None = None,
        memory_mb: int = 512,
        output_bytes: int = 1 << 20,
        processes: int = 16,
        total_s: float = 60.0,
        num_slots: int | None = None,
        runtime: str | None = None,
        image: str | None = None,
        max_memory_mb: int = 2048,
        pools: Pools | None = None,
    ) -> None:
        _one_of("extract", extract, ("auto", "block", "whole", "continue"))
        _one_of("start", start, ("fork", "exec"))
        if partial_credit and stop_early:
            raise VerifierLoadError("partial_credit needs every case: stop_early cannot be true")
        self._extract: Rule = extract
        self._start: Literal["fork", "exec"] = start
        self._partial_credit = partial_credit
        self._stop_early = not partial_credit if stop_early is None else stop_early
        self._total_s = total_s
        self._defaults: dict[str, Any] = {
            "time_s": time_s,
            "wall_s": wall_s,
            "memory_mb": memory_mb,
            "output_bytes": output_bytes,
            "processes": processes,
        }
        try:
            _limits(self._defaults)
        except ValueError as error:
            raise VerifierLoadError(f"the code verifier's limits: {error}") from error
        self._settings = PoolSettings(
            num_slots=num_slots, runtime=runtime, image=image, max_memory_mb=max_memory_mb
        )
        self._given_pools, self._pools = pools, pools
        self._builder = Builder()
        self._parsed: OrderedDict[tuple[int, str], tuple[Any, Tests]] = OrderedDict()
        # More than there are slots, so that none is idle; few enough that a submission does not
        # spend its deadline waiting for one.
        self.max_concurrency = 2 * (num_slots or len(os.sched_getaffinity(0)))

    async def verify(self, problem: Problem, completion: str) -> Verdict:
        try:
            prompt = _prompt(problem)
            tests = self._parse(problem, prompt)
            tags = tests.language.tags if isinstance(tests, StdioTests) else _PYTHON_TAGS
            if not completion.lstrip().startswith(("```", "~~~")):
                completion = open_fence(problem.prompt_text) + completion
            extracted = extract(completion, self._extract, tags)
            if extracted is None:
                return Verdict.no_answer(reason="there is no code in the completion")
            reports = await self._attempts(tests, extracted, prompt)
        except TestsError as error:
            return Verdict.error(reason=f"problem {problem.id!r}: {error}", permanent=True)
        except SandboxError as error:
            return Verdict.error(reason=str(error))
        num_cases = 1 if isinstance(tests, AssertTests) else len(tests.cases)
        return verdict(
            reports,
            num_cases=num_cases,
            rule=extracted.rule,
            partial_credit=self._partial_credit,
        )

    def _parse(self, problem: Problem, prompt: CodePrompt | None) -> Tests:
        """`parse_tests`, once for all completions of a group."""
        prelude = prompt.prelude if prompt else ""
        key = (id(problem.tests), prelude)
        if key not in self._parsed:
            # The object is kept with it, so that no other one can get its id.
            self._parsed[key] = (problem.tests, parse_tests(problem.tests, prelude=prelude))
            if len(self._parsed) > MAX_PARSED:
                self._parsed.popitem(last=False)
        return self._parsed[key][1]

    async def close(self) -> None:
        """Remove the containers, unless another verifier of this event loop uses them."""
        if self._pools is not None and self._given_pools is None:
            self._pools = None
            await code_pools.release(self._settings)

    async def _attempts(
        self, tests: Tests, extracted: Extracted, prompt: CodePrompt | None
    ) -> list[CaseReport]:
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await self._run(tests, extracted, prompt)
            except SandboxError:
                continue
        return await self._run(tests, extracted, prompt)

    async def _run(
        self, tests: Tests, extracted: Extracted, prompt: CodePrompt | None
    ) -> list[CaseReport]:
        if self._pools is None:
            self._pools = code_pools.acquire(self._settings)
        pools, settings = self._pools, {**self._defaults, **tests.limits}
        try:
            limits = _limits(settings)
            # The channel counts as output, and a judge's own time as wall time.
            roomy = _limits(settings, more_output=REPLY_BYTES, more_wall_s=2 * JUDGE_CPU_S)
            pools.candidates.check_limits(roomy)
        except ValueError as error:
            raise TestsError(f"tests: {str(error).replace('cpu_s', 'time_s')}") from error
        assert limits.wall_s is not None
        if isinstance(tests, StdioTests):
            if "output_bytes" not in tests.limits:
                longest = max(len(case.stdout or b"") for case in tests.cases)
                limits = replace(limits, output_bytes=max(limits.output_bytes, 4 * longest))
            return await run_stdio(
                tests,
                extracted.text,
                pools,
                self._builder,
                limits,
                start=self._start,
                stop_early=self._stop_early,
                total_s=self._total_s,
            )
        helpers = tests.helpers if isinstance(tests, AssertTests) else ()
        program = code_shims.candidate(
            extracted, prompt, tests.entry_point, self._start, helpers=helpers
        )
        if isinstance(tests, FunctionTests):
            return await run_function(
                tests,
                program,
                pools,
                _limits(settings, more_output=REPLY_BYTES),
                output_bytes=limits.output_bytes,
                stop_early=self._stop_early,
                total_s=self._total_s,
            )
        return await run_assert(
            tests,
            program,
            prompt,
            pools,
            roomy,
            wall_s=limits.wall_s,
            output_bytes=limits.output_bytes,
        )


_PYTHON_TAGS = LANGUAGES["python"].tags


def _prompt(problem: Problem) -> CodePrompt | None:
    tests = problem.tests or {}
    entry_point = tests.get("entry_point")
    if not isinstance(entry_point, str):
        return None
    return _cached_prompt(problem.prompt_text, entry_point.partition(".")[0])


_cached_prompt = functools.lru_cache(maxsize=4096)(code_prompt)


def _limits(settings: dict[str, Any], *, more_output: int = 0, more_wall_s: float = 0.0) -> Limits:
    """The sandbox's limits.

    Raises:
        ValueError: one of them is below what a program needs to start.
    """
    wall_s = settings["wall_s"] or 1.5 * settings["time_s"] + 1.0
    return Limits(
        cpu_s=settings["time_s"],
        wall_s=wall_s + more_wall_s,
        memory_mb=int(settings["memory_mb"]),
        output_bytes=int(settings["output_bytes"]) + more_output,
        processes=int(settings["processes"]),
    )


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise VerifierLoadError(f"{name} is {value!r}; known: {', '.join(known)}")
