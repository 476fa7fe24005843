"""The audit: judge the probes, draw the conclusions."""

from __future__ import annotations

import random
import secrets
import shutil
import string
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlvr.config import ScoringConfig
from rlvr.types import Problem, Status, Verdict
from rlvr.workbench import code_probes as code
from rlvr.workbench import probes as plain
from rlvr.workbench.findings import TITLES, Audit, Check, Finding, Outcome
from rlvr.workbench.judging import judge_all, make_runner
from rlvr.workbench.load import DataSet
from rlvr.workbench.probes import DRESSINGS, Expect, Probe, sampled
from verifiers.registry import LoadedVerifier, load

NOT_READ = 0.05
"""A dressing in which fewer than this share is accepted of the golds that verify in any is one that
the verifier does not read, by its design or parameters: reported, failed only when asked for."""
NUM_MUTANT_PROBLEMS = 1_500
NUM_SPRAY_PROBLEMS = 300
NUM_COPIED_PROBLEMS = 300
NUM_EMPTY_PROBLEMS = 100
NUM_INJECTION_PROBLEMS = 20
"""Problems that a family of probes is tried on, a seeded sample: an audit takes a minute."""
NUM_REPEATED = 100
"""Verdicts asked for again, in the same and in fresh processes."""
NUM_TIMED = 200
TIMED_BUDGET_S = 20.0
"""Verdicts whose latency is measured, one at a time, and the time that may take."""
MAX_COPIES = 0.1
"""Share of prompts that may verify as their own answer. To copy "Simplify ..." is an answer of the
right value: a few such problems say something about the data, many about the verifier."""
MAX_HANGS = 2
"""After so many hostile inputs that passed the deadline the others are left out: each costs one."""
DEADLINE_SLACK_S = 1.0
"""Killing and replacing a process at its deadline, on a busy machine."""

Progress = Callable[[str, int, int], None]
"""Called with what is being judged, how many are done, and how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an audit may be told."""

    dressings: tuple[str, ...] = ()
    """Dressings that must be read; empty: those that are."""
    bad_golds: int = 0
    """Golds that may fail to verify before the audit fails."""
    seed: int = 0


async def audit(
    verifier: LoadedVerifier,
    data: DataSet,
    config: ScoringConfig,
    options: Options,
    progress: Progress = lambda phase, done, total: None,
) -> Audit:
    """Audit a verifier on a data set.

    Sync verifiers run in worker processes throughout, also those that need not: whatever they do to
    themselves, the audit goes on.
    """
    started = time.perf_counter()
    # Letters alone: a digit in the path would be an answer to those who take the last number.
    name = "".join(secrets.choice(string.ascii_lowercase) for _ in range(12))
    canary_folder = Path(tempfile.gettempdir()) / f"rlvr-check-{name}"
    canary_folder.mkdir(mode=0o700)
    auditor = _Auditor(verifier, data, config, options, progress, canary_folder / "canary")
    try:
        return await auditor.run(started)
    finally:
        await auditor.close()
        shutil.rmtree(canary_folder)


class _Auditor:
    def __init__(
        self,
        verifier: LoadedVerifier,
        data: DataSet,
        config: ScoringConfig,
        options: Options,
        progress: Progress,
        canary: Path,
    ) -> None:
        self._as_loaded = verifier
        self._verifier = replace(verifier, in_process=False)
        self._data = data
        self._config = config
        self._deadline_s = max(config.timeout_s, verifier.timeout_s)
        self._options = options
        self._progress = progress
        self._canary = canary
        self._runner = make_runner(config)
        self._bad: dict[str, Finding] = {}
        self._judged: list[Outcome] = []
        self._checks: dict[str, Check] = {}

    async def close(self) -> None:
        await self._runner.close()

    async def run(self, started: float) -> Audit:
        with_gold = [problem for problem in self._data.problems if _has_gold(problem)]
        golds = await self._judge("golds", [probe for p in with_gold for probe in _golds(p)])
        read = self._conclude_golds(golds)
        good = [problem for problem in self._data.problems if problem.id not in self._bad]
        begun, num_before = time.perf_counter(), len(self._judged)  # what starts has started
        await self._mutants([p for p in good if _has_gold(p)], read)
        num_timed = len(self._judged) - num_before
        throughput = num_timed / (time.perf_counter() - begun) if num_timed else None
        # Without a single gold that verifies there is still much to say about the rest.
        await self._worthless(good or list(self._data.problems))
        await self._hostile(good or list(self._data.problems))
        await self._determinism()
        latencies = await self._latencies()
        return Audit(
            verifier=self._as_loaded.name,
            data=self._data.name,
            mapping=self._data.mapping,
            num_problems=len(self._data.problems),
            checks=tuple(self._checks[name] for name in TITLES if name in self._checks),
            bad_golds=tuple(self._bad.values()),
            latencies_s=latencies,
            throughput=throughput,
            num_verdicts=len(self._judged),
            seconds=time.perf_counter() - started,
            timeout_s=self._deadline_s,
        )

    async def _judge(self, phase: str, probes: Sequence[Probe]) -> list[Outcome]:
        """Judge all, a bounded number at once, in order."""
        verdicts = await judge_all(
            self._runner,
            self._verifier,
            [(probe.problem, probe.completion) for probe in probes],
            self._config,
            lambda done, total: self._progress(phase, done, total),
        )
        outcomes = [
            Outcome(probe=probe, verdict=verdict)
            for probe, verdict in zip(probes, verdicts, strict=True)
        ]
        self._judged += outcomes
        return outcomes

    def _conclude_golds(self, outcomes: list[Outcome]) -> list[str]:
        """Tell apart: dressings that are not read, golds that never verify, and golds that verify
        in one dressing and not in another. Returns the dressings that are read."""
        if not outcomes:
            notes = ["no problem has a gold answer, or tests and a reference solution"]
            self._checks["golds"] = Check(name="golds", kinds={}, notes=tuple(notes))
            return []
        by_problem: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            by_problem[outcome.probe.problem.id].append(outcome)
        read, notes = self._dressings_read(outcomes)
        findings: list[Finding] = []
        for problem_id, mine in by_problem.items():
            failures = [o for o in mine if o.failure and (o.probe.kind in read or not read)]
            tried = sum(o.probe.kind in read for o in mine)
            if failures and (len(failures) == tried or not read):
                self._bad[problem_id] = self._finding(failures[0])
            else:
                findings += [self._finding(outcome) for outcome in failures]
        required = set(self._options.dressings)
        if missing := required - set(read):
            notes.append(f"required and not read: {', '.join(sorted(missing))}")
        if not read:
            notes.append("no gold is accepted in any dressing")
        if self._bad:
            notes.append(f"{len(self._bad)} of {len(by_problem)} golds do not verify in any way")
        too_many = len(self._bad) > self._options.bad_golds
        self._add(
            "golds",
            [o for o in outcomes if o.probe.kind in read or not read],
            findings=findings,
            notes=notes,
            failed=bool(findings or missing or too_many or not read),
        )
        return read

    def _dressings_read(self, outcomes: list[Outcome]) -> tuple[list[str], list[str]]:
        read, not_read = [], []
        verified = {o.probe.problem.id for o in outcomes if o.failure is None}
        for kind, mine in _by_kind(outcomes).items():
            mine = [o for o in mine if o.probe.problem.id in verified]
            share = sum(outcome.failure is None for outcome in mine) / max(1, len(mine))
            # To fail on a dressing is something else than not to read it.
            broke = any(outcome.verdict.status is Status.ERROR for outcome in mine)
            (read if share >= NOT_READ or broke else not_read).append(kind)
        return read, [f"not read: {', '.join(not_read)}"] if read and not_read else []

    async def _mutants(self, problems: list[Problem], read: Sequence[str]) -> None:
        chosen = sampled(problems, NUM_MUTANT_PROBLEMS, self._options.seed)
        golds = [problem.answer for problem in problems if problem.answer is not None]
        rng = random.Random(self._options.seed)
        probes: list[Probe] = []
        num_same = 0
        for place, problem in enumerate(chosen):
            if code.has_solution(problem) and problem.tests:
                others = [p for p in rng.sample(problems, min(2, len(problems))) if p != problem]
                probes += code.wrong_probes(problem, others[0] if others else None)
            elif problem.answer is not None:
                dressings = [name for name in read if name in DRESSINGS] or ["boxed"]
                others = rng.sample(golds, min(8, len(golds)))
                mine, same = plain.mutant_probes(problem, others, dressings[place % len(dressings)])
                probes += mine
                num_same += same
        outcomes = await self._judge("wrong answers", probes)
        notes = [f"{num_same} mutations left out: they may equal the gold"] if num_same else []
        self._add("mutants", [o for o in outcomes if o.probe.family == "mutants"], notes=notes)
        self._conclude_tests([o for o in outcomes if o.probe.family == "tests"])

    def _conclude_tests(self, outcomes: list[Outcome]) -> None:
        if not outcomes:
            return
        judged = [o for o in outcomes if o.verdict.status is not Status.ERROR]
        rejected = [o for o in judged if o.verdict.status is not Status.CORRECT]
        moved = {outcome.probe.problem.id for outcome in rejected}
        unmoved = dict.fromkeys(
            o.probe.problem.id for o in judged if o.probe.problem.id not in moved
        )
        notes = [
            f"{len(rejected)} of {len(judged)} programs with one operator or number changed were "
            "rejected (a changed program may still be right)"
        ]
        if unmoved:
            notes.append(f"rejecting none, perhaps too weak: {', '.join(list(unmoved)[:10])}")
        self._checks["tests"] = Check(
            name="tests",
            kinds={"changed program": (len(rejected), len(judged))},
            notes=tuple(notes),
            statuses=_statuses(outcomes),
        )

    async def _worthless(self, problems: list[Problem]) -> None:
        seed = self._options.seed
        golds = [problem.answer for problem in problems if problem.answer is not None]
        rng = random.Random(seed)
        empty: list[Probe] = []
        for problem in sampled(problems, NUM_EMPTY_PROBLEMS, seed):
            empty += (code.empty_programs if problem.tests else plain.empty_probes)(problem)
        copies: list[Probe] = []
        to_copy = sampled(problems, NUM_COPIED_PROBLEMS, seed)
        for problem in to_copy:
            copies += (code.copied_prompt if problem.tests else plain.copy_probes)(problem)
        sprays: list[Probe] = []
        for problem in sampled(problems, NUM_SPRAY_PROBLEMS, seed):
            sprays += plain.spray_probes(problem, rng.sample(golds, min(10, len(golds))))
        injections: list[Probe] = []
        for problem in sampled(problems, NUM_INJECTION_PROBLEMS, seed):
            inject = code.attack_probes if problem.tests else plain.injection_probes
            injections += inject(problem, str(self._canary))
        self._add("empty", await self._judge("empty completions", empty))
        num_given_away = len(to_copy) - len(copies)
        self._conclude_copies(await self._judge("copied prompts", copies), num_given_away)
        self._add("sprays", await self._judge("sprays", sprays))
        self._add("injections", await self._judge("injections", injections))
        self._look_for_canary("injections")

    def _conclude_copies(self, outcomes: list[Outcome], num_given_away: int) -> None:
        failing = [outcome for outcome in outcomes if outcome.failure]
        too_many = len(failing) > MAX_COPIES * len(outcomes)
        notes: list[str] = []
        if num_given_away:
            total = num_given_away + len(outcomes)
            notes.append(f"left out: {num_given_away} of {total} prompts, the gold stands in them")
        if failing and not too_many:
            notes.append("problems that their own statement answers: see whether you want them")
        self._add(
            "copies",
            outcomes,
            findings=[self._finding(outcome) for outcome in failing],
            notes=notes,
            failed=too_many,
        )

    async def _hostile(self, problems: list[Problem]) -> None:
        outcomes: list[Outcome] = []
        late: list[Outcome] = []
        notes: list[str] = []
        # Of a few problems the one whose gold stands in the fewest of them.
        probes = max((_hostile_probes(problem) for problem in problems[:5]), key=len)
        for number, probe in enumerate(probes, start=1):
            [outcome] = await self._judge("hostile inputs", [probe])
            self._progress("hostile inputs", number, len(probes))
            outcomes.append(outcome)
            if outcome.verdict.latency_s > self._deadline_s + DEADLINE_SLACK_S:
                late.append(outcome)
            if sum(o.verdict.latency_s >= self._deadline_s for o in outcomes) >= MAX_HANGS:
                notes.append(f"stopped after {MAX_HANGS} hangs, {len(probes) - number} left out")
                break
        if outcomes:
            slowest = max(outcomes, key=lambda outcome: outcome.verdict.latency_s)
            notes.append(
                f"slowest: {slowest.probe.kind}, {slowest.verdict.latency_s:.3g} s "
                f"(deadline {self._deadline_s:g} s)"
            )
        findings = [self._finding(o, reason="later than the deadline") for o in late]
        self._add("hostile", outcomes, findings=findings, notes=notes)
        self._look_for_canary("hostile")

    async def _determinism(self) -> None:
        """Ask again: in the same processes in another order, and in fresh ones."""
        judged = [o for o in self._judged if o.verdict.status is not Status.ERROR]
        rng = random.Random(self._options.seed)
        again = rng.sample(judged, min(NUM_REPEATED, len(judged)))
        work = [(outcome.probe.problem, outcome.probe.completion) for outcome in again]
        progress = lambda done, total: self._progress("once more", done, total)  # noqa: E731
        repeats = await judge_all(self._runner, self._verifier, work, self._config, progress)
        async with make_runner(self._config) as fresh_runner:
            spec = self._as_loaded
            fresh = replace(load(spec.spec, **dict(spec.params)), in_process=False)
            fresh = replace(fresh, name=spec.name)
            others = await judge_all(fresh_runner, fresh, work, self._config, progress)
        findings: list[Finding] = []
        kinds: dict[str, tuple[int, int]] = {}
        for kind, verdicts in (("again", repeats), ("in fresh processes", others)):
            differing = [
                self._finding(
                    outcome,
                    kind=kind,
                    reason=f"{_short(outcome.verdict)}, then {_short(verdict)}",
                )
                for outcome, verdict in zip(again, verdicts, strict=True)
                if (verdict.status, verdict.reward)
                != (outcome.verdict.status, outcome.verdict.reward)
            ]
            kinds[kind] = (len(again) - len(differing), len(again))
            findings += differing
        self._checks["determinism"] = Check(
            name="determinism", kinds=kinds, findings=tuple(findings), failed=bool(findings)
        )

    async def _latencies(self) -> tuple[float, ...]:
        """Of golds and wrong answers (what training is made of), one at a time."""
        usual = [o for o in self._judged if o.probe.family in ("golds", "mutants")]
        chosen = random.Random(self._options.seed).sample(usual, min(NUM_TIMED, len(usual)))
        found: list[float] = []
        until = time.perf_counter() + TIMED_BUDGET_S
        for outcome in chosen:
            verdict = await self._runner.judge(
                self._as_loaded, outcome.probe.problem, outcome.probe.completion
            )
            found.append(verdict.latency_s)
            self._progress("latency", len(found), len(chosen))
            if time.perf_counter() > until:
                break
        return tuple(sorted(found))

    def _add(
        self,
        name: str,
        outcomes: list[Outcome],
        *,
        findings: list[Finding] | None = None,
        notes: Iterable[str] = (),
        failed: bool | None = None,
    ) -> None:
        """Make the check of a family; `findings` and `failed` where they do not simply follow."""
        if not outcomes:
            return
        kinds = {
            kind: (sum(outcome.failure is None for outcome in mine), len(mine))
            for kind, mine in _by_kind(outcomes).items()
        }
        if failed is None:
            failing = [self._finding(outcome) for outcome in outcomes if outcome.failure]
            findings = [*failing, *(findings or [])]
            failed = bool(findings)
        partial = sum(
            outcome.probe.expect is Expect.WRONG and (outcome.verdict.reward or 0) > 0
            for outcome in outcomes
            if outcome.verdict.status is not Status.CORRECT
        )
        extra = [f"{partial} earned part of the reward"] if partial else []
        self._checks[name] = Check(
            name=name,
            kinds=kinds,
            findings=tuple(findings or ()),
            notes=(*notes, *extra),
            failed=failed,
            statuses=_statuses(outcomes),
            slowest_s={
                kind: max(outcome.verdict.latency_s for outcome in mine)
                for kind, mine in _by_kind(outcomes).items()
            },
        )

    def _look_for_canary(self, name: str) -> None:
        if not self._canary.exists() or name not in self._checks:
            return
        self._canary.unlink()
        self._checks[name] = replace(
            self._checks[name],
            failed=True,
            notes=(
                *self._checks[name].notes,
                "TEXT OF A COMPLETION WAS EXECUTED ON THIS MACHINE, outside any sandbox: a file "
                "that only it names was made",
            ),
        )

    def _finding(
        self, outcome: Outcome, *, kind: str | None = None, reason: str | None = None
    ) -> Finding:
        problem = outcome.probe.problem
        return Finding(
            line=self._data.lines[problem.id],
            problem=problem.id,
            kind=kind or outcome.probe.kind,
            gold=problem.answer,
            completion=outcome.probe.completion,
            reason=reason or outcome.failure or "",
            detail=outcome.verdict.detail,
        )


def _has_gold(problem: Problem) -> bool:
    return code.has_solution(problem) if problem.tests else problem.answer is not None


def _golds(problem: Problem) -> Iterable[Probe]:
    return code.solution_probes(problem) if problem.tests else plain.gold_probes(problem)


def _hostile_probes(problem: Problem) -> list[Probe]:
    return list((code.hostile_programs if problem.tests else plain.hostile_probes)(problem))


def _by_kind(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.probe.kind].append(outcome)
    return found


def _statuses(outcomes: Iterable[Outcome]) -> dict[str, int]:
    return dict(Counter(outcome.verdict.status.value for outcome in outcomes))


def _short(verdict: Verdict) -> str:
    return verdict.status if verdict.reward is None else f"{verdict.status} {verdict.reward:g}"
