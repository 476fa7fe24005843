"""`stdio` tests: the program gets stdin and nothing else; its output is compared out here."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from sandbox.protocol import Case, Limits, Outcome, Program, Result, Sandbox
from verifiers.code_compare import same_output
from verifiers.code_languages import Language
from verifiers.code_pools import Pools
from verifiers.code_report import CaseOutcome, CaseReport, failed, head, tail
from verifiers.code_tests import Checker, StdioCase, StdioTests, TestsError

COMPILE_LIMITS = Limits(
    cpu_s=20.0, wall_s=30.0, memory_mb=1024, processes=32, file_bytes=64 << 20, open_files=256
)
"""All of bits/stdc++.h and a regular expression took 9 CPU seconds on a busy machine."""
CHECKER_LIMITS = Limits(cpu_s=10.0, wall_s=30.0, memory_mb=1024, file_bytes=64 << 20)
CACHE_BYTES = 128 << 20
"""Compiled programs kept, by source, flags and compiler."""
_WRONG = (1, 2)
"""What a checker exits with to say no (testlib: wrong answer, presentation error)."""


class CompileError(Exception):
    """The compiler refused a program, or ran into a limit; the report says which."""

    def __init__(self, report: CaseReport) -> None:
        super().__init__(report.note)
        self.report = report


class Builder:
    """Makes runnable programs of source texts; compiled ones are cached."""

    def __init__(self) -> None:
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    async def build(
        self,
        text: str,
        language: Language,
        sandbox: Sandbox,
        start: Literal["fork", "exec"] = "fork",
    ) -> Program:
        """A program ready to run.

        Raises:
            CompileError: the compiler says no.
        """
        source = text.encode("utf-8", "surrogatepass")
        if not language.run:
            return Program(files={language.source: source}, python=language.source, start=start)
        if not language.compile:
            files = {language.source: source}
            return Program(files=files, argv=language.run, start="exec")
        key = hashlib.sha256(repr(language.compile).encode() + b"\0" + source).digest()
        binary = self._cache.get(key)
        if binary is None:
            binary = await self._compile(source, language, sandbox)
            self._keep(key, binary)
        self._cache.move_to_end(key)
        return Program(
            files={"program": binary}, executable=["program"], argv=language.run, start="exec"
        )

    async def _compile(self, source: bytes, language: Language, sandbox: Sandbox) -> bytes:
        program = Program(files={language.source: source}, argv=language.compile, start="exec")
        [result] = await sandbox.run(program, [Case(collect=["program"])], COMPILE_LIMITS)
        binary = result.files.get("program")
        if result.outcome is Outcome.EXITED and binary:
            return binary
        report = failed(result, f"{language.compile[0]}: {tail(result.stderr)}")
        if report.outcome is CaseOutcome.RUNTIME_ERROR:
            report = replace(report, outcome=CaseOutcome.COMPILE_ERROR, no_program=True)
        raise CompileError(report)

    def _keep(self, key: bytes, binary: bytes) -> None:
        if key not in self._cache:
            self._size += len(binary)
        self._cache[key] = binary
        while self._size > CACHE_BYTES:
            self._size -= len(self._cache.popitem(last=False)[1])


async def run_stdio(
    tests: StdioTests,
    text: str,
    pools: Pools,
    builder: Builder,
    limits: Limits,
    *,
    start: Literal["fork", "exec"],
    stop_early: bool,
    total_s: float,
) -> list[CaseReport]:
    """Run a program on every case; one report a case that ran."""
    try:
        program = await builder.build(text, tests.language, pools.candidates, start)
    except CompileError as error:
        return [error.report]
    spent_s = 0.0

    def stop(index: int, result: Result) -> bool:
        nonlocal spent_s
        spent_s += result.wall_s
        if spent_s > total_s:
            return True
        return stop_early and not (
            result.outcome is Outcome.EXITED
            and (tests.checker is not None or _matches(tests, tests.cases[index], result))
        )

    cases = [Case(stdin=case.stdin) for case in tests.cases]
    results = await pools.candidates.run(program, cases, limits, stop=stop)
    reports: list[CaseReport] = []
    for case, result in zip(tests.cases, results, strict=False):
        reports.append(await _judge(tests, case, result, pools, builder))
        if stop_early and reports[-1].outcome is not CaseOutcome.ACCEPTED:
            break
    return reports


def _matches(tests: StdioTests, case: StdioCase, result: Result) -> bool:
    assert case.stdout is not None
    return same_output(
        result.stdout, case.stdout, compare=tests.compare, tolerance=tests.float_tolerance
    )


async def _judge(
    tests: StdioTests, case: StdioCase, result: Result, pools: Pools, builder: Builder
) -> CaseReport:
    shown = {"stdin": head(case.stdin), "actual": head(result.stdout)}
    if case.stdout is not None:
        shown["expected"] = head(case.stdout)
    if result.outcome is not Outcome.EXITED:
        return _failed(tests, result, shown)
    if tests.checker is None:
        accepted, note = _matches(tests, case, result), "the output differs"
    else:
        accepted, note = await _check(tests.checker, case, result.stdout, pools, builder)
    if accepted:
        return CaseReport(outcome=CaseOutcome.ACCEPTED, result=result)
    return CaseReport(outcome=CaseOutcome.WRONG_ANSWER, note=note, result=result, shown=shown)


def _failed(tests: StdioTests, result: Result, shown: dict[str, str]) -> CaseReport:
    """Python reports what it cannot parse as any other exception; tell it from its traceback."""
    last = tail(result.stderr).rstrip().rpartition("\n")[2]
    errors = ("SyntaxError:", "IndentationError:", "TabError:")
    if tests.language.run or not last.startswith(errors):
        return failed(result, **shown)
    return CaseReport(
        outcome=CaseOutcome.COMPILE_ERROR,
        note=last,
        result=result,
        shown=shown,
        no_program=True,
    )


async def _check(
    checker: Checker, case: StdioCase, output: bytes, pools: Pools, builder: Builder
) -> tuple[bool, str]:
    """Whether the checker accepts an output, and what it says.

    Raises:
        TestsError: it crashes on the expected output too.
    """
    result = await _run_checker(checker, case, output, pools, builder)
    said = tail(result.stderr or result.stdout).strip()
    if result.outcome is Outcome.EXITED:
        return True, ""
    crashed = result.exit_code not in _WRONG or b"Traceback (most recent call" in result.stderr
    if crashed and case.stdout is not None:
        # An output may break a checker, and that is the output's fault. What breaks on the
        # expected output is the checker.
        gold = await _run_checker(checker, case, case.stdout, pools, builder)
        if gold.outcome is not Outcome.EXITED:
            raise TestsError(f"tests.checker fails on the expected output: {said}")
    return False, f"the checker says: {said}"


async def _run_checker(
    checker: Checker, case: StdioCase, output: bytes, pools: Pools, builder: Builder
) -> Result:
    try:
        program = await builder.build(checker.code, checker.language, pools.judges)
    except CompileError as error:
        raise TestsError(f"tests.checker does not compile: {error}") from error
    files = {
        **program.files,
        "input.txt": case.stdin,
        "output.txt": output,
        "answer.txt": case.stdout or b"",
    }
    program = replace(program, files=files)
    names: Sequence[str] = ("input.txt", "output.txt", "answer.txt")
    [result] = await pools.judges.run(program, [Case(args=names)], CHECKER_LIMITS)
    return result
