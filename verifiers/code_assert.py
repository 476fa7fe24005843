"""`assert` tests: trusted test code in a judge's sandbox calls the candidate in another, via us.

A submission passes if and only if the judge itself says so in a message: its process is the only
one with that channel, and no candidate ever runs in its container.
"""

from __future__ import annotations

import json
from typing import Any

from sandbox.protocol import Limits, Outcome, Program, Session
from verifiers import code_shims
from verifiers.code_calls import Caller, Ended, Reply
from verifiers.code_extract import CodePrompt
from verifiers.code_function import close_session
from verifiers.code_pools import Pools
from verifiers.code_report import CaseOutcome, CaseReport, failed
from verifiers.code_tests import AssertTests, TestsError

JUDGE_CPU_S = 10.0
"""What test code may compute by itself, beside the calls it makes."""
JUDGE_OUTPUT_BYTES = 64 << 20
"""All arguments of all calls."""


async def run_assert(
    tests: AssertTests,
    program: Program,
    prompt: CodePrompt | None,
    pools: Pools,
    limits: Limits,
    *,
    wall_s: float,
    output_bytes: int,
) -> list[CaseReport]:
    """Run the tests against a candidate; one report.

    Args:
        limits: of the candidate's process; its wall time leaves room for the judge's.
        wall_s: seconds in which the candidate may keep us waiting.
        output_bytes: what the candidate may print.

    Raises:
        TestsError: the tests are to blame.
    """
    async with pools.candidates.session(program, limits) as session:
        caller = Caller(session, wall_s)
        try:
            helpers = await caller.load()
            known = tuple(name for name in tests.helpers if name in helpers)
            judge = code_shims.judge(tests, prompt, known)
            async with pools.judges.session(judge, _judge_limits(limits, wall_s)) as trusted:
                report = await _converse(tests, trusted, caller)
        except Ended as ended:
            report = ended.report
        result = await session.finish()
    return close_session([report], result, output_bytes)


def _judge_limits(limits: Limits, wall_s: float) -> Limits:
    return Limits(
        cpu_s=JUDGE_CPU_S,
        wall_s=wall_s + 2 * JUDGE_CPU_S,
        memory_mb=max(1024, limits.memory_mb),
        output_bytes=JUDGE_OUTPUT_BYTES,
    )


async def _converse(tests: AssertTests, judge: Session, caller: Caller) -> CaseReport:
    """Carry calls to the candidate and replies to the judge until the judge has its last word."""
    num_calls = 0
    while True:
        data = await judge.receive()
        if data is None:
            return await _judge_died(judge, num_calls)
        message = json.loads(data)
        if "call" in message:
            num_calls += 1
            reply = await caller.call(
                message["call"], message["args"], message["kwargs"], tests.mutation
            )
            if reply.unsupported is not None:
                return _failure(f"it returned {reply.unsupported}, which tests cannot be given")
            await judge.send(json.dumps(_forward(reply)).encode())
        elif "done" in message:
            if not message["done"]:
                raise TestsError("tests.code never calls the entry point")
            return CaseReport(outcome=CaseOutcome.ACCEPTED)
        elif message["tests_fault"]:
            where = f" in {message['line']!r}" if message["line"] else ""
            raise TestsError(f"tests.code fails by itself: {message['failed']}{where}")
        else:
            return _verdict(message)


def _verdict(message: dict[str, Any]) -> CaseReport:
    failed_assert = message["failed"].startswith("AssertionError")
    return CaseReport(
        outcome=CaseOutcome.WRONG_ANSWER if failed_assert else CaseOutcome.RUNTIME_ERROR,
        note=message["failed"],
        shown={"test": message["line"]},
    )


def _failure(note: str) -> CaseReport:
    return CaseReport(outcome=CaseOutcome.RUNTIME_ERROR, note=note)


def _forward(reply: Reply) -> dict[str, Any]:
    if reply.raised is not None:
        return {"raise": reply.raised, "message": reply.message}
    return {"value": reply.value, "args": reply.args}


async def _judge_died(judge: Session, num_calls: int) -> CaseReport:
    """The judge ended without a last word: the tests' fault, unless a value may have done it."""
    result = await judge.finish()
    if result.outcome is Outcome.EXITED or not num_calls:
        raise TestsError(
            f"tests.code ended the judge ({result.outcome}, exit status {result.exit_code})"
        )
    report = failed(result)
    note = f"the tests ended on a value it returned ({report.outcome})"
    return CaseReport(outcome=report.outcome, note=note)
