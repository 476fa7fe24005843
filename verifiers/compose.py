"""Composites: verifiers made of verifiers (`weighted`, `gate`, `first_failure`, `maximum`).

A component is a table, `{verifier = "math", params = {...}, weight = 0.9, name = "answer"}`, or
just the verifier's name. The runner expands a composite: it hands `compose` a `judge` that gives
each component its own deadline, process, retries and batches. An object with

    async def compose(self, problem, completion, judge) -> Judgement

where `await judge(loaded_verifier)` is a component's verdict, is a composite like these.

What holds for all four:

* a component's `error` makes the whole an `error`, whatever the others say, never a lower reward;
* `detail["components"]` has each judged component's `status`, `reward` (as it came, unweighted) and
  `detail`, by name; those that were not needed are absent;
* a component that only shapes the reward (`shapes_only`: the penalties) has no say in the status.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import isfinite
from typing import Any

from verifiers.errors import VerifierLoadError
from verifiers.forms import LoadedVerifier
from verifiers.problem import Problem
from verifiers.registry import load
from verifiers.verdict import Status, Verdict

Judge = Callable[[LoadedVerifier], Awaitable[Verdict]]

NOT_APPLICABLE = "not_applicable"
"""Set to true in the detail of an `error` of a component that has nothing to say of this problem
(None from a TRL function). `weighted` leaves it out; elsewhere it is an error like any other."""

MAX_COMPONENT_DETAIL_CHARS = 8_000
"""One component that shows much must not push the others' rewards out of a detail's limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One part of a composite."""

    name: str
    """Unique in the composite: key in `detail["components"]` and in the metrics."""
    verifier: LoadedVerifier
    weight: float = 1.0
    shapes_only: bool = False


class _Composite:
    """Loads the components.

    Args:
        components: tables or names, see the module.

    Raises:
        VerifierLoadError: a component cannot be loaded or its table is malformed.
    """

    name = ""

    def __init__(self, *, components: Sequence[Mapping[str, Any] | str]) -> None:
        if isinstance(components, str) or not components:
            raise VerifierLoadError(f"{self.name} needs a list of at least one component")
        self._components: list[Component] = []
        for entry in components:
            taken = {component.name for component in self._components}
            self._components.append(_component(entry, taken))
        if all(component.shapes_only for component in self._components):
            raise VerifierLoadError(
                f"{self.name} has only penalties; one component must judge the answer"
            )

    async def _all(self, judge: Judge) -> dict[str, Verdict]:
        """Every component's verdict, judged at the same time."""
        verdicts = await asyncio.gather(*(judge(part.verifier) for part in self._components))
        return {
            part.name: verdict for part, verdict in zip(self._components, verdicts, strict=True)
        }


class Weighted(_Composite):
    """The sum of weight times reward.

    The status is `correct` if every component that has a say is, that of all if they agree,
    `partial` if one of them is `correct` or `partial`, else that of the first.
    """

    name = "weighted"

    async def compose(self, problem: Problem, completion: str, judge: Judge) -> Verdict:
        verdicts = await self._all(judge)
        reward, statuses = 0.0, []
        for part in self._components:
            verdict = verdicts[part.name]
            if verdict.reward is not None:
                reward += part.weight * verdict.reward
                if not part.shapes_only:
                    statuses.append(verdict.status)
            elif verdict.detail.get(NOT_APPLICABLE) is not True:
                return _error(verdicts, part.name)
        if not statuses:  # nobody has a say: they are the errors they look like
            return _error(verdicts)
        return _verdict(_combined(statuses), reward, verdicts)


class Gate(_Composite):
    """The last component's verdict if all before it are `correct`; they are judged in order.

    Where one is not, what follows is not judged; the status is that component's (`partial` becomes
    `incorrect`), the reward is `otherwise`.

    Args:
        otherwise: reward of a completion that does not pass the gates.
    """

    name = "gate"

    def __init__(
        self, *, components: Sequence[Mapping[str, Any] | str], otherwise: float = 0.0
    ) -> None:
        super().__init__(components=components)
        self._otherwise = float(otherwise)
        if len(self._components) < 2:
            raise VerifierLoadError(
                "gate needs two components or more: the gates, and what is behind them"
            )

    async def compose(self, problem: Problem, completion: str, judge: Judge) -> Verdict:
        verdicts: dict[str, Verdict] = {}
        for part in self._components:
            verdict = verdicts[part.name] = await judge(part.verifier)
            if verdict.reward is None:
                return _error(verdicts)
            if part is self._components[-1]:
                return _verdict(verdict.status, verdict.reward, verdicts)
            if verdict.status is not Status.CORRECT:
                status = verdict.status
                if status is Status.PARTIAL:
                    status = Status.INCORRECT
                return _verdict(status, self._otherwise, verdicts, stopped_at=part.name)
        raise AssertionError("unreachable: the last component returns")


class FirstFailure(_Composite):
    """The first verdict that is not `correct`, its reward included, else the last one's.

    Components are judged in order; what follows the first failure is not judged.
    """

    name = "first_failure"

    async def compose(self, problem: Problem, completion: str, judge: Judge) -> Verdict:
        verdicts: dict[str, Verdict] = {}
        for part in self._components:
            verdict = verdicts[part.name] = await judge(part.verifier)
            if verdict.reward is None:
                return _error(verdicts)
            if verdict.status is not Status.CORRECT:
                return _verdict(verdict.status, verdict.reward, verdicts, stopped_at=part.name)
            if part is self._components[-1]:
                return _verdict(verdict.status, verdict.reward, verdicts)
        raise AssertionError("unreachable: the last component returns")


class Maximum(_Composite):
    """The verdict with the highest weight times reward; the first of equals."""

    name = "maximum"

    async def compose(self, problem: Problem, completion: str, judge: Judge) -> Verdict:
        verdicts = await self._all(judge)
        best: tuple[float, str] | None = None
        for part in self._components:
            reward = verdicts[part.name].reward
            if reward is None:
                return _error(verdicts)
            if best is None or part.weight * reward > best[0]:
                best = (part.weight * reward, part.name)
        assert best is not None
        reward, name = best
        return _verdict(verdicts[name].status, reward, verdicts, chosen=name)


def _component(entry: Mapping[str, Any] | str, taken: set[str]) -> Component:
    table: Mapping[str, Any] = {"verifier": entry} if isinstance(entry, str) else entry
    if not isinstance(table, Mapping) or not isinstance(table.get("verifier"), str):
        raise VerifierLoadError(
            f"a component is a verifier's name or a table with the key verifier, got {entry!r}"
        )
    unknown = sorted(set(table) - {"verifier", "params", "weight", "name", "shapes_only"})
    if unknown:
        raise VerifierLoadError(
            f"component {table['verifier']!r} has the unknown key {unknown[0]!r}; known: verifier, "
            "params, weight, name, shapes_only"
        )
    weight = table.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight):
        raise VerifierLoadError(
            f"component {table['verifier']!r}: weight is {weight!r}, expected a finite number"
        )
    verifier = load(table["verifier"], **table.get("params", {}))
    name = table.get("name") or verifier.name
    if name in taken:
        if table.get("name"):
            raise VerifierLoadError(f"two components are called {name!r}; give each its own name")
        name = next(f"{name}_{k}" for k in count(2) if f"{name}_{k}" not in taken)
    shapes_only = table.get("shapes_only", verifier.shapes_only)
    return Component(name=name, verifier=verifier, weight=float(weight), shapes_only=shapes_only)


def _combined(statuses: Sequence[Status]) -> Status:
    if len(set(statuses)) == 1:
        return statuses[0]
    if {Status.CORRECT, Status.PARTIAL} & set(statuses):
        return Status.PARTIAL
    return statuses[0]


def _verdict(
    status: Status, reward: float, verdicts: Mapping[str, Verdict], **detail: str
) -> Verdict:
    return Verdict(status=status, reward=reward, detail={**detail, **_shown(verdicts)})


def _error(verdicts: Mapping[str, Verdict], name: str | None = None) -> Verdict:
    """The whole's error for the component's called `name` (null: the first that has one)."""
    if name is None:
        name = next(name for name, v in verdicts.items() if v.status is Status.ERROR)
    reason = verdicts[name].detail.get("reason", "no reason given")
    return Verdict.error(reason=f"component {name!r}: {reason}", **_shown(verdicts))


def _shown(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    components: dict[str, Any] = {}
    for name, verdict in verdicts.items():
        components[name] = {"status": verdict.status.value, "reward": verdict.reward}
        shown = json.dumps(verdict.detail)
        if len(shown) > MAX_COMPONENT_DETAIL_CHARS:
            components[name]["detail"] = {"truncated": shown[:MAX_COMPONENT_DETAIL_CHARS]}
        elif verdict.detail:
            components[name]["detail"] = verdict.detail
    return {"components": components}
