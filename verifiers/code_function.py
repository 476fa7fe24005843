"""`function` tests: arguments in, a claimed value out, compared out here as a tree."""

from __future__ import annotations

from dataclasses import replace

from sandbox.protocol import Case, Limits, Outcome, Program, Result
from verifiers import code_values
from verifiers.code_calls import Caller, Ended, Reply, frame, frames, parse_loaded, parse_reply
from verifiers.code_calls import request as call_request
from verifiers.code_pools import Pools
from verifiers.code_report import CaseOutcome, CaseReport, failed
from verifiers.code_tests import FunctionCase, FunctionTests


async def run_function(
    tests: FunctionTests,
    program: Program,
    pools: Pools,
    limits: Limits,
    *,
    output_bytes: int,
    stop_early: bool,
    total_s: float,
) -> list[CaseReport]:
    """Call the entry point on every case; one report a case that ran.

    Args:
        limits: of one process, with room for replies in its output.
        output_bytes: what a process may print.
        total_s: wall seconds after which no further case is begun.
    """
    if tests.process == "submission":
        return await _in_one_process(tests, program, pools, limits, output_bytes, stop_early)
    reports: list[CaseReport] = []
    spent_s = 0.0

    def stop(index: int, result: Result) -> bool:
        nonlocal spent_s
        reports.append(_report(tests, tests.cases[index], result, output_bytes))
        spent_s += result.wall_s
        hopeless = reports[-1].outcome is CaseOutcome.COMPILE_ERROR  # no case will do better
        failed_now = reports[-1].outcome is not CaseOutcome.ACCEPTED
        return hopeless or spent_s > total_s or (stop_early and failed_now)

    cases = [
        Case(stdin=frame(call_request(1, tests.entry_point, case.args, case.kwargs)))
        for case in tests.cases
    ]
    await pools.candidates.run(program, cases, limits, stop=stop)
    return reports


def _report(
    tests: FunctionTests, case: FunctionCase, result: Result, output_bytes: int
) -> CaseReport:
    """Judge the frames that one process left on its stdout."""
    shown = _shown(case)
    if len(result.stderr) > output_bytes:
        return _flood(result, output_bytes)
    if result.outcome is not Outcome.EXITED:
        return failed(result, **shown)
    try:
        found = frames(result.stdout, most=2)
        if found:
            parse_loaded(found[0], result)
        if len(found) < 2:
            raise Ended(failed(result, **shown))
        return _compare(tests, case, parse_reply(found[1], 1, result), result)
    except Ended as ended:
        return ended.report
    except ValueError as error:
        note = f"its reply is malformed: {error}"
        return CaseReport(outcome=CaseOutcome.RUNTIME_ERROR, note=note, result=result, shown=shown)


def _compare(
    tests: FunctionTests, case: FunctionCase, reply: Reply, result: Result | None
) -> CaseReport:
    shown = _shown(case)
    if reply.raised is not None or reply.unsupported is not None:
        note = reply.message or f"it returned {reply.unsupported}, which cannot be compared"
        return CaseReport(outcome=CaseOutcome.RUNTIME_ERROR, note=note, result=result, shown=shown)
    if code_values.equal(
        reply.value,
        case.expected,
        tolerance=tests.float_tolerance,
        exact_types=tests.exact_types,
    ):
        return CaseReport(outcome=CaseOutcome.ACCEPTED, result=result)
    shown["actual"] = code_values.show(reply.value)
    note = "the value differs"
    return CaseReport(outcome=CaseOutcome.WRONG_ANSWER, note=note, result=result, shown=shown)


async def _in_one_process(
    tests: FunctionTests,
    program: Program,
    pools: Pools,
    limits: Limits,
    output_bytes: int,
    stop_early: bool,
) -> list[CaseReport]:
    reports: list[CaseReport] = []
    async with pools.candidates.session(program, limits) as session:
        caller = Caller(session, limits.wall_s or limits.cpu_s)
        try:
            await caller.load()
            for case in tests.cases:
                reply = await caller.call(tests.entry_point, case.args, case.kwargs, "never")
                reports.append(_compare(tests, case, reply, None))
                if stop_early and reports[-1].outcome is not CaseOutcome.ACCEPTED:
                    break
        except Ended as ended:
            reports.append(ended.report)
        result = await session.finish()
    return close_session(reports, result, output_bytes)


def close_session(reports: list[CaseReport], result: Result, output_bytes: int) -> list[CaseReport]:
    """The reports of one process, with its result; what it printed counts only now."""
    if len(result.stderr) + len(result.stdout) > output_bytes:
        return [_flood(result, output_bytes)]
    return [*reports[:-1], replace(reports[-1], result=result)]


def _flood(result: Result, output_bytes: int) -> CaseReport:
    return CaseReport(
        outcome=CaseOutcome.OUTPUT_LIMIT,
        note=f"it printed more than {output_bytes} bytes",
        result=result,
    )


def _shown(case: FunctionCase) -> dict[str, str]:
    shown: dict[str, str] = {"args": code_values.show(case.args)}
    if len(case.kwargs) > 1:
        shown["kwargs"] = code_values.show(case.kwargs)
    shown["expected"] = code_values.show(case.expected)
    return shown
