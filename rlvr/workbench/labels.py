"""Precision and recall on labelled completions.

Lines are those of `rlvr score` with one more field, `label`: true where the completion is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.config import ScoringConfig
from rlvr.errors import DataError
from rlvr.intervals import wilson_interval
from rlvr.types import Problem, Status, Verdict
from rlvr.workbench.judging import judge_all, make_runner
from verifiers.registry import LoadedVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One line of a labels file."""

    line: int
    """Counted from 1."""
    id: str
    problem: Problem
    completion: str
    label: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A share with its 95 % interval (Wilson)."""

    successes: int
    trials: int

    @property
    def value(self) -> float | None:
        return self.successes / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float] | None:
        return wilson_interval(self.successes, self.trials) if self.trials else None

    def __str__(self) -> str:
        if self.value is None or self.interval is None:
            return "no case"
        low, high = self.interval
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] ({self.successes} of {self.trials})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReport:
    """How a verifier's verdicts compare with labels."""

    file: str
    judged: tuple[tuple[Labelled, Verdict], ...]

    def count(self, label: bool, *, accepted: bool) -> int:
        """A cell of the confusion matrix; `error` verdicts are in none."""
        return sum(
            case.label is label and (verdict.status is Status.CORRECT) is accepted
            for case, verdict in self.judged
            if verdict.status is not Status.ERROR
        )

    @property
    def precision(self) -> Proportion:
        """Of the accepted, those labelled right."""
        right = self.count(True, accepted=True)
        return Proportion(successes=right, trials=right + self.count(False, accepted=True))

    @property
    def recall(self) -> Proportion:
        """Of those labelled right, the accepted."""
        right = self.count(True, accepted=True)
        return Proportion(successes=right, trials=right + self.count(True, accepted=False))

    @property
    def disagreements(self) -> list[tuple[Labelled, Verdict]]:
        """Wrongly accepted first: they are what training exploits."""
        found = [
            (case, verdict)
            for case, verdict in self.judged
            if verdict.status is not Status.ERROR
            and (verdict.status is Status.CORRECT) is not case.label
        ]
        return sorted(found, key=lambda pair: (pair[0].label, pair[0].line))

    @property
    def errors(self) -> list[tuple[Labelled, Verdict]]:
        return [pair for pair in self.judged if pair[1].status is Status.ERROR]

    def shortfalls(self, min_precision: float, min_recall: float) -> list[str]:
        """Why the labels fail the audit; empty if they do not."""
        found = []
        for name, share, least in (
            ("precision", self.precision, min_precision),
            ("recall", self.recall, min_recall),
        ):
            if share.value is not None and share.value < least:
                found.append(f"{name} {share.value:.4f} is below {least:g}")
        if self.errors:
            found.append(f"{len(self.errors)} completions could not be judged")
        return found


async def measure(
    verifier: LoadedVerifier,
    path: Path,
    config: ScoringConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LabelReport:
    """Judge every line of a labels file.

    Raises:
        DataError: the file cannot be read, or a line is malformed; with its number.
    """
    cases = list(read(path))
    if not cases:
        raise DataError(f"{path} has no lines")
    async with make_runner(config) as runner:
        work = [(case.problem, case.completion) for case in cases]
        verdicts = await judge_all(runner, verifier, work, config, progress)
    return LabelReport(file=str(path), judged=tuple(zip(cases, verdicts, strict=True)))


def read(path: Path) -> Iterator[Labelled]:
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield _case(text, number, path)
    except OSError as error:
        raise DataError(f"the labels {path} cannot be read: {error}") from error


def _case(text: bytes, number: int, path: Path) -> Labelled:
    where = f"{path} line {number}"
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a JSON {type(row).__name__}, expected an object")
    label = _field(row, "label", (bool, int), where)
    if label not in (0, 1):
        raise DataError(f"{where}: field 'label' is {label!r}, expected true or false")
    line_id = str(row.get("id", number))
    try:
        problem = Problem.from_json(
            {"id": line_id, "prompt": "", **_field(row, "problem", (dict,), where)}
        )
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return Labelled(
        line=number,
        id=line_id,
        problem=problem,
        completion=_field(row, "completion", (str,), where),
        label=bool(label),
    )


def _field(row: dict[str, Any], name: str, kinds: tuple[type, ...], where: str) -> Any:
    if not isinstance(row.get(name), kinds):
        found = type(row[name]).__name__ if name in row else "missing"
        raise DataError(f"{where}: field {name!r} is {found}, expected {kinds[0].__name__}")
    return row[name]
