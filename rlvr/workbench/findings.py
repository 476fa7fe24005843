"""What an audit finds: the types that flow from `audit.py` to the reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlvr.types import Verdict
from rlvr.workbench.probes import Probe

TITLES = {
    "golds": "every gold scores 1",
    "mutants": "wrong answers score 0",
    "empty": "empty completions score 0",
    "copies": "copied prompts score 0",
    "sprays": "sprays score 0",
    "injections": "injections score 0",
    "hostile": "hostile inputs end in time",
    "determinism": "the same verdict every time",
    "tests": "tests notice changes",
}
"""The checks, in the order of the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    probe: Probe
    verdict: Verdict

    @property
    def failure(self) -> str | None:
        return self.probe.failure(self.verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One verdict that is not what it must be."""

    line: str
    """File and line of the problem."""
    problem: str
    """The problem's id."""
    kind: str
    gold: str | None
    completion: str
    reason: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one family of probes came to."""

    name: str
    kinds: dict[str, tuple[int, int]]
    """Kind -> (as they must be, in all)."""
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    failed: bool = False
    statuses: dict[str, int] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    """Kind -> its slowest verdict."""

    @property
    def num(self) -> int:
        return sum(total for _, total in self.kinds.values())

    @property
    def num_right(self) -> int:
        return sum(right for right, _ in self.kinds.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The whole report."""

    verifier: str
    data: str
    mapping: str
    num_problems: int
    checks: tuple[Check, ...]
    bad_golds: tuple[Finding, ...]
    """Golds that do not score 1 in any dressing the verifier reads."""
    latencies_s: tuple[float, ...]
    """One at a time, sorted."""
    throughput: float | None
    """Verdicts a second, as many at once as the settings allow."""
    num_verdicts: int
    seconds: float
    timeout_s: float

    @property
    def passed(self) -> bool:
        return not any(check.failed for check in self.checks)
