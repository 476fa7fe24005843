"""The audit's probes on completions of a running training: a few, now and then.

What a policy writes after a thousand steps is not what the audit's templates look like. From a
sample of the step's own completions this makes new ones whose verdict is known:

* a rewarded one with the gold in it replaced by a wrong answer, or cut off before it: not correct,
* a rewarded one handed in for another problem: not correct,
* a rejected one with the answer it gives replaced by the gold: correct (counted, not alarmed: a
  completion may be rejected for more than its answer),
* each as it is: the same verdict as before,
* and, with a second opinion, rewarded ones that another verifier rejects.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.hacking import Alarm, Observation
from rlvr.intervals import wilson_interval
from rlvr.types import Group, Problem, Rollout, Status, Verdict
from rlvr.workbench.mutants import mutants
from rlvr.workbench.probes import gives_away, stands_in
from rlvr.workbench.sameness import may_be_same

METRICS = {
    "probes/judged": ("completions", "Probes made from live completions and judged in this step."),
    "probes/false_accept": ("completions", "Of these, wrong ones that were accepted."),
    "probes/false_reject": ("completions", "Of these, right ones that were not accepted."),
    "probes/unstable": ("completions", "Completions with another verdict when asked for again."),
    "probes/disputed": (
        "fraction",
        "Sampled rewarded completions that the second opinion rejects.",
    ),
}
"""Name -> unit and meaning of what `run` adds to a step's metrics."""

MAX_DISPUTED = 0.1
"""Share of rewarded completions that a second opinion may reject (lower end of its interval)."""
NUM_REMEMBERED = 200
"""Second opinions that share is taken of."""

Judge = Callable[[Problem, str], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    kind: str
    problem: Problem
    completion: str
    before: Verdict | None = None
    """The verdict it must get again; null for the other kinds."""


class LiveProbes:
    """Probes the verifier with what the policy writes.

    Args:
        judge: the run's own judging (`Scorer.verdict`).
        every: steps between two looks.
        num_groups: groups looked at each time; each costs at most six verdicts.
        second: another verifier's judging, an independent check of what is rewarded.
        seed: of the choice of groups, together with the step.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        every: int = 20,
        num_groups: int = 4,
        second: Judge | None = None,
        seed: int = 0,
    ) -> None:
        self._judge = judge
        self._second = second
        self._every = every
        self._num_groups = num_groups
        self._seed = seed
        self._opinions: deque[bool] = deque(maxlen=NUM_REMEMBERED)

    def due(self, step: int) -> bool:
        return step % self._every == 0

    async def run(self, step: int, groups: Sequence[Group]) -> Observation:
        """Look at some of a step's scored groups. Probes that could not be judged count as judged
        and prove nothing."""
        rng = random.Random(f"{self._seed}/{step}")
        chosen = rng.sample(list(groups), min(self._num_groups, len(groups)))
        probes = [probe for group in chosen for probe in _probes(group, groups, rng)]
        verdicts = await asyncio.gather(*(self._judge(p.problem, p.completion) for p in probes))
        accepted: list[_Probe] = []
        unstable: list[_Probe] = []
        num_rejected = 0
        for probe, verdict in zip(probes, verdicts, strict=True):
            if verdict.status is Status.ERROR:
                continue
            if probe.before is not None:
                if (verdict.status, verdict.reward) != (probe.before.status, probe.before.reward):
                    unstable.append(probe)
            elif probe.kind == "mended":
                num_rejected += verdict.status is not Status.CORRECT
            elif verdict.status is Status.CORRECT and not _is_right(probe, verdict):
                accepted.append(probe)
        metrics: dict[str, float] = {
            "probes/judged": len(probes),
            "probes/false_accept": len(accepted),
            "probes/false_reject": num_rejected,
            "probes/unstable": len(unstable),
        }
        alarms = []
        if accepted:
            what = f"{len(accepted)} wrong completions made from live ones were accepted"
            alarms.append(_alarm("false accept", step, what, accepted[0]))
        if unstable:
            what = f"{len(unstable)} completions got another verdict when asked for again"
            alarms.append(_alarm("unstable", step, what, unstable[0]))
        if self._second is not None:
            alarms += await self._second_opinion(step, chosen, metrics)
        return Observation(metrics=metrics, alarms=tuple(alarms))

    async def _second_opinion(
        self, step: int, groups: Sequence[Group], metrics: dict[str, float]
    ) -> list[Alarm]:
        assert self._second is not None
        rewarded = [
            (group.problem, rollout.completion.text)
            for group in groups
            for rollout in group.rollouts
            if _is(rollout, Status.CORRECT)
        ]
        opinions = await asyncio.gather(*(self._second(*pair) for pair in rewarded))
        judged = [verdict for verdict in opinions if verdict.status is not Status.ERROR]
        self._opinions.extend(verdict.status is not Status.CORRECT for verdict in judged)
        if not self._opinions:
            return []
        num_disputed = sum(self._opinions)
        metrics["probes/disputed"] = num_disputed / len(self._opinions)
        low, _ = wilson_interval(num_disputed, len(self._opinions))
        if low <= MAX_DISPUTED:
            return []
        message = (
            f"the second opinion rejects {num_disputed} of the last {len(self._opinions)} rewarded "
            "completions it was shown"
        )
        return [Alarm(kind="disputed", step=step, message=message)]


def _probes(group: Group, groups: Sequence[Group], rng: random.Random) -> list[_Probe]:
    """At most six: two of them as the completions are."""
    problem = group.problem
    made: list[_Probe] = []
    right = [rollout for rollout in group.rollouts if _is(rollout, Status.CORRECT)]
    wrong = [rollout for rollout in group.rollouts if _is(rollout, Status.INCORRECT)]
    for rollouts in (right, wrong):
        if rollouts:
            rollout = rng.choice(rollouts)
            text = rollout.completion.text
            made.append(
                _Probe(kind="again", problem=problem, completion=text, before=rollout.verdict)
            )
            if rollout in right:
                made += _spoilt(problem, text, groups, rng)
            else:
                made += _mended(problem, rollout)
    return made


def _spoilt(
    problem: Problem, text: str, groups: Sequence[Group], rng: random.Random
) -> list[_Probe]:
    found: list[_Probe] = []
    gold = problem.answer
    others = [group.problem for group in groups if group.problem.id != problem.id]
    rng.shuffle(others)
    for other in others:
        differs = other.answer is not None or other.tests not in (None, problem.tests)
        if differs and not gives_away(text, other):
            found.append(_Probe(kind="for another problem", problem=other, completion=text))
            break
    if gold is None or not stands_in(gold, text):
        return found
    wrong, _ = mutants(gold, [other.answer for other in others if other.answer is not None])
    replaced = [text.replace(gold, mutant) for mutant in wrong.values()]
    for kind, spoilt in (
        ("gold replaced", replaced),
        ("cut before the gold", [text.partition(gold)[0]]),
    ):
        if usable := [each for each in spoilt if not gives_away(each, problem)]:
            found.append(_Probe(kind=kind, problem=problem, completion=rng.choice(usable)))
    return found


def _mended(problem: Problem, rollout: Rollout) -> list[_Probe]:
    assert rollout.verdict is not None
    extracted: Any = rollout.verdict.detail.get("extracted")
    before, found, after = rollout.completion.text.rpartition(str(extracted or "\0"))
    if problem.answer is None or not found:
        return []
    text = f"{before}{problem.answer}{after}"
    return [_Probe(kind="mended", problem=problem, completion=text)]


def _is_right(probe: _Probe, verdict: Verdict) -> bool:
    """Whether what was accepted is the gold after all, in a spelling that was not seen before."""
    extracted = verdict.detail.get("extracted")
    gold = probe.problem.answer
    return isinstance(extracted, str) and gold is not None and may_be_same(extracted, gold)


def _is(rollout: Rollout, status: Status) -> bool:
    return rollout.verdict is not None and rollout.verdict.status is status


def _alarm(kind: str, step: int, message: str, probe: _Probe) -> Alarm:
    evidence = {
        "probe": probe.kind,
        "problem": probe.problem.id,
        "gold": probe.problem.answer,
        "completion": probe.completion[:500],
    }
    return Alarm(kind=kind, step=step, message=f"{message} (e.g. {probe.kind})", evidence=evidence)
