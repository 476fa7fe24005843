"""How each case ended, and the verdict that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sandbox.protocol import Outcome, Result
from verifiers.verdict import Status, Verdict

MAX_SHOWN_CHARS = 500
"""Longest piece of data, output or traceback in a verdict's detail."""
MAX_OUTCOMES = 200
"""Most cases whose outcome a detail lists."""


class CaseOutcome(StrEnum):
    """How one case ended. A fault of ours is none of these: it raises."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    RUNTIME_ERROR = "runtime_error"
    COMPILE_ERROR = "compile_error"


LIMITS = (CaseOutcome.TIME_LIMIT, CaseOutcome.MEMORY_LIMIT, CaseOutcome.OUTPUT_LIMIT)

_FROM_SANDBOX = {
    Outcome.RUNTIME_ERROR: CaseOutcome.RUNTIME_ERROR,
    Outcome.TIME_LIMIT: CaseOutcome.TIME_LIMIT,
    Outcome.MEMORY_LIMIT: CaseOutcome.MEMORY_LIMIT,
    Outcome.OUTPUT_LIMIT: CaseOutcome.OUTPUT_LIMIT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """How one case ended, and what a person needs to see why."""

    outcome: CaseOutcome
    note: str = ""
    result: Result | None = None
    """Of the candidate's process; null if it never ran."""
    shown: dict[str, str] = field(default_factory=dict)
    """Input, expected and actual value, as text."""
    no_program: bool = False
    """The text is no program of the language at all."""


def failed(result: Result, note: str = "", **shown: str) -> CaseReport:
    """The report of a process that did not exit with 0 within its limits, or said nothing."""
    outcome = _FROM_SANDBOX.get(result.outcome, CaseOutcome.RUNTIME_ERROR)
    if not note:
        note = "it ended without an answer"
        if result.timed_out_on:
            note = f"it ran out of {result.timed_out_on} time"
        elif result.signal:
            note = f"signal {result.signal} ended it"
        elif result.exit_code:
            note = f"it ended with exit status {result.exit_code}"
    return CaseReport(outcome=outcome, note=note, result=result, shown=shown)


def verdict(
    reports: Sequence[CaseReport], *, num_cases: int, rule: str, partial_credit: bool
) -> Verdict:
    """The verdict of a submission.

    Args:
        reports: of the cases that ran, in order; fewer than `num_cases` after an early stop.
        rule: how the program was extracted.
        partial_credit: reward the fraction of cases passed, of all there are.
    """
    num_passed = sum(report.outcome is CaseOutcome.ACCEPTED for report in reports)
    failure = next((r for r in reports if r.outcome is not CaseOutcome.ACCEPTED), None)
    if failure is not None and failure.no_program and rule == "whole":
        return Verdict.no_answer(reason="there is no code in the completion", extracted=rule)
    detail = _detail(reports, num_passed, num_cases, rule)
    if failure is None and num_passed < num_cases:
        detail["reason"] = f"out of time for all cases together after {len(reports)} of them"
    if failure is not None:
        detail["first_failure"] = _failure(reports.index(failure), failure)
        detail["reason"] = clip(f"{failure.outcome}: {failure.note}")
    if num_passed == num_cases:
        return Verdict.correct(**detail)
    if partial_credit and num_passed:
        return Verdict(status=Status.PARTIAL, reward=num_passed / num_cases, detail=detail)
    if failure is None or failure.outcome in LIMITS:
        return Verdict.limit(**detail)
    return Verdict.incorrect(**detail)


def _detail(
    reports: Sequence[CaseReport], num_passed: int, num_cases: int, rule: str
) -> dict[str, Any]:
    results = [report.result for report in reports if report.result is not None]
    return {
        "extracted": rule,
        "passed": num_passed,
        "cases": num_cases,
        "outcomes": [report.outcome.value for report in reports[:MAX_OUTCOMES]],
        "cpu_s": round(sum(result.cpu_s for result in results), 4),
        "wall_s": round(sum(result.wall_s for result in results), 4),
        "memory_mb": round(max((result.memory_mb for result in results), default=0.0), 1),
    }


def _failure(index: int, report: CaseReport) -> dict[str, Any]:
    failure: dict[str, Any] = {
        "case": index,
        "outcome": report.outcome.value,
        "note": clip(report.note),
        **{name: clip(text) for name, text in report.shown.items()},
    }
    if report.result is not None and report.result.stderr:
        failure["stderr"] = tail(report.result.stderr)
    return failure


def clip(text: str) -> str:
    """The beginning of a text, fit to be printed: a candidate's may hold lone surrogates."""
    short = text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."
    return short.encode("utf-8", "backslashreplace").decode()


def tail(data: bytes) -> str:
    """The end of an output, as text."""
    text = data[-4 * MAX_SHOWN_CHARS :].decode(errors="replace")
    return text if len(text) <= MAX_SHOWN_CHARS else f"...{text[-MAX_SHOWN_CHARS:]}"


def head(data: bytes) -> str:
    """The beginning of an input or output, as text."""
    return clip(data[: 4 * MAX_SHOWN_CHARS].decode(errors="replace"))
