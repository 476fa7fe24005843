"""`rlvr compare A B ...`: is one model better than another on the same problems?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, count
from math import comb
from pathlib import Path
from string import ascii_uppercase
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr.errors import ResultsError
from rlvr.figures import ProblemSamples, format_estimate, plural
from rlvr.intervals import clustered_se
from rlvr.paired import (
    LARGER,
    Judged,
    bootstrap_p,
    differences_of,
    holm,
    paired_interval,
    paired_p,
    problems_needed,
    smallest_visible,
)
from rlvr.read_results import BenchmarkResults, read_results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

ALPHA = 0.05
MAX_SHOWN_CHANGES = 6
MUST_AGREE = {
    "data_hash": "the problems",
    "prompt_hash": "the prompts (template, system prompt, examples)",
    "verifier": "the verifier, its version or its parameters",
}
"""Fields of results.json without whose agreement a difference says nothing about the models."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A problem on which two models differ."""

    problem_id: str
    a_correct: int
    a_judged: int
    b_correct: int
    b_judged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on one benchmark. Differences are B's figure minus A's."""

    benchmark: str
    a: str
    """Letter of a run."""
    b: str
    k: int
    """The figure compared is mean pass@k; avg@n for k = 1."""
    a_value: float
    """A's figure on the paired problems."""
    b_value: float
    difference: float
    low: float
    """Lower end of the difference's 95 % interval."""
    high: float
    se: float | None
    p_value: float
    """Paired permutation test of "no difference"."""
    p_method: str
    p_bootstrap: float
    p_holm: float
    """`p_value` adjusted for all the comparisons made together."""
    wins: int
    """Problems on which B's figure is higher."""
    losses: int
    ties: int
    num_problems: int
    """Problems with a figure in both."""
    num_unpaired: int
    """Problems left out because only one of the two has a figure."""
    problems_needed: int | None
    """To see a true difference of this size with 80 % power, at 5 % over the number of comparisons;
    null when there is none to be seen."""
    smallest_visible: float | None
    """True difference that this many problems show with 80 % power; null when nothing varies."""
    changed: tuple[Change, ...]
    """Largest change first."""

    @property
    def better(self) -> str | None:
        """Letter of the better run; null when there is no evidence of a difference."""
        if self.p_holm >= ALPHA:
            return None
        return self.b if self.difference > 0 else self.a

    def to_json(self) -> dict[str, Any]:
        verdict = f"{self.better} is better" if self.better else "no evidence of a difference"
        return {**asdict(self), "better": self.better, "verdict": verdict}


def run(paths: Sequence[Path], force: bool, as_json: bool, k: int = 1) -> int:
    """Compare results directories pairwise and print what was found.

    Args:
        paths: Two or more results directories, or benchmark folders in them.
        force: Compare although data, prompts or verifiers differ; problems are matched by id.
        as_json: Print JSON instead of tables.
        k: Compare mean pass@k instead of avg@n.

    Returns:
        The exit status, 0 whatever the outcome.

    Raises:
        ResultsError: something cannot be read or must not be compared.
    """
    if len(paths) < 2:
        raise ResultsError("compare needs at least two results directories")
    if len(paths) > len(ascii_uppercase):
        raise ResultsError(f"compare takes at most {len(ascii_uppercase)} results directories")
    runs = dict(zip(ascii_uppercase, map(read_results, paths), strict=False))
    notes = check(runs, force)
    comparisons = compare(runs, k)
    if as_json:
        print(json.dumps(_to_json(runs, comparisons, notes), indent=1))
        return 0
    from rich.console import Console

    print_report(Console(highlight=False), runs, comparisons, notes)
    return 0


def check(runs: Mapping[str, Mapping[str, BenchmarkResults]], force: bool = False) -> list[str]:
    """What a reader of the comparison has to know, one sentence each.

    Raises:
        ResultsError: the runs have no benchmark in common, or, unless `force`, they were made with
            different data, prompts or verifiers.
    """
    shared = _shared_benchmarks(runs)
    if not shared:
        held = "; ".join(f"{letter}: {', '.join(each)}" for letter, each in runs.items())
        raise ResultsError(f"no benchmark is in two of the results ({held})")
    faults, notes = [], []
    for name, letters in shared.items():
        first = letters[0]
        for other in letters[1:]:
            a, b = runs[first][name].results, runs[other][name].results
            pair = f"{name}: {first} and {other} differ in"
            for field, meaning in MUST_AGREE.items():
                if a[field] != b[field]:
                    faults.append(f"{pair} {meaning} ({_differing(a[field], b[field])})")
            for field in ("sampling", "num_samples"):
                if a[field] != b[field]:
                    notes.append(f"{pair} {field} ({_differing(a[field], b[field])})")
            a_packages, b_packages = _packages(a), _packages(b)
            if a_packages != b_packages:
                notes.append(f"{pair} package versions ({_differing(a_packages, b_packages)})")
        for letter in letters:
            if num_errors := runs[letter][name].results["figures"]["statuses"].get("error", 0):
                notes.append(
                    f"{name}: {plural(num_errors, 'completion')} of {letter} could not be judged "
                    "and are in no figure; if that befell the hard problems, its figure flatters"
                )
    for name in sorted({name for each in runs.values() for name in each} - shared.keys()):
        notes.append(f"{name} is in one of the results only and is not compared")
    if faults and not force:
        raise ResultsError(
            "these results must not be compared: "
            + "; ".join(faults)
            + ". With --force the problems of the same id are compared all the same"
        )
    return faults + notes


def _packages(results: Mapping[str, Any]) -> dict[str, Any]:
    """Versions of what sampled and judged."""
    return results.get("versions", {}).get("versions", {})


def _shared_benchmarks(
    runs: Mapping[str, Mapping[str, BenchmarkResults]],
) -> dict[str, list[str]]:
    """Benchmarks that at least two runs hold, and the letters of these runs."""
    names = dict.fromkeys(name for each in runs.values() for name in each)
    holders = {name: [letter for letter, each in runs.items() if name in each] for name in names}
    return {name: letters for name, letters in holders.items() if len(letters) > 1}


def _differing(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        return ", ".join(f"{key} {_short(a.get(key))} and {_short(b.get(key))}" for key in keys)
    return f"{_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    """A hash is told by its beginning."""
    return str(value)[:60] if not isinstance(value, str) else value[:12]


def compare(
    runs: Mapping[str, Mapping[str, BenchmarkResults]], k: int = 1, seed: int = 0
) -> list[Comparison]:
    """Every pair of runs on every benchmark they share; Holm's correction over all of them.

    Raises:
        ResultsError: completions cannot be read, k is larger than n, or two runs share a benchmark
            but no problem.
    """
    shared = _shared_benchmarks(runs)
    # What Holm's correction asks of the smallest p-value, so that the lines on power agree with it.
    alpha = ALPHA / sum(comb(len(letters), 2) for letters in shared.values())
    found = []
    for name, letters in shared.items():
        values = {letter: _Values(runs[letter][name], k) for letter in letters}
        found += [
            _compare_two(name, (a, values[a]), (b, values[b]), k, seed, alpha)
            for a, b in combinations(letters, 2)
        ]
    adjusted = holm([each["p_value"] for each in found])
    return [Comparison(p_holm=p, **each) for each, p in zip(found, adjusted, strict=True)]


class _Values:
    """The problems of one run that have at least k judged samples."""

    def __init__(self, results: BenchmarkResults, k: int) -> None:
        num_samples = results.results["num_samples"]
        if not 1 <= k <= num_samples:
            raise ResultsError(
                f"pass@{k} needs {k} samples a problem; {results.folder} has {num_samples}"
            )
        problems = results.problems()
        self.problems: dict[str, ProblemSamples] = {each.id: each for each in problems}
        self.ids = [each.id for each in problems if len(each.correct) >= k]
        self._k = k

    def judged(self, ids: Sequence[str]) -> Judged:
        verdicts = [self.problems[each].correct for each in ids]
        return Judged(
            num_samples=np.array([len(each) for each in verdicts]),
            num_correct=np.array([sum(each) for each in verdicts]),
            k=self._k,
        )


def _compare_two(
    benchmark: str, a: tuple[str, _Values], b: tuple[str, _Values], k: int, seed: int, alpha: float
) -> dict[str, Any]:
    """The fields of a `Comparison`, without Holm's."""
    (a_letter, a_values), (b_letter, b_values) = a, b
    in_b = set(b_values.ids)
    paired = [problem_id for problem_id in a_values.ids if problem_id in in_b]
    if not paired:
        raise ResultsError(f"{benchmark}: {a_letter} and {b_letter} share no judged problem")
    judged_a, judged_b = a_values.judged(paired), b_values.judged(paired)
    d = differences_of(judged_a, judged_b)
    p = paired_p(judged_a, judged_b, seed)
    low, high = paired_interval(judged_a, judged_b)
    by_size = [index for index in np.argsort(-np.abs(d), kind="stable") if d[index] != 0]
    return {
        "benchmark": benchmark,
        "a": a_letter,
        "b": b_letter,
        "k": k,
        "a_value": float(judged_a.values.mean()),
        "b_value": float(judged_b.values.mean()),
        "difference": float(d.mean()),
        "low": low,
        "high": high,
        "se": clustered_se(d),
        "p_value": p.value,
        "p_method": p.method,
        "p_bootstrap": bootstrap_p(d, seed),
        "wins": int((d > 0).sum()),
        "losses": int((d < 0).sum()),
        "ties": int((d == 0).sum()),
        "num_problems": len(paired),
        "num_unpaired": len(a_values.problems.keys() | b_values.problems.keys()) - len(paired),
        "problems_needed": problems_needed(d, alpha=alpha),
        "smallest_visible": smallest_visible(d, alpha=alpha),
        "changed": tuple(
            _change(a_values.problems[paired[index]], b_values.problems[paired[index]])
            for index in by_size
        ),
    }


def _change(a: ProblemSamples, b: ProblemSamples) -> Change:
    return Change(
        problem_id=a.id,
        a_correct=sum(a.correct),
        a_judged=len(a.correct),
        b_correct=sum(b.correct),
        b_judged=len(b.correct),
    )


def _to_json(
    runs: Mapping[str, Mapping[str, BenchmarkResults]],
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "runs": {
            letter: {
                name: {
                    "folder": str(each.folder),
                    "model": each.results["model"],
                    "avg": each.results["figures"]["avg"],
                }
                for name, each in benchmarks.items()
            }
            for letter, benchmarks in runs.items()
        },
        "comparisons": [each.to_json() for each in comparisons],
        "notes": list(notes),
    }


def print_report(
    console: Console,
    runs: Mapping[str, Mapping[str, BenchmarkResults]],
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
) -> None:
    """Print the comparison for people."""
    from rich.table import Table
    from rich.text import Text

    for name, letters in _shared_benchmarks(runs).items():
        table = Table(title=name, title_justify="left", title_style="bold")
        for column in ("", "results", "model", "figure"):
            table.add_column(column, overflow="fold")
        for letter in letters:
            each = runs[letter][name]
            found = each.results["figures"]
            figure = f"avg@{each.results['num_samples']} {format_estimate(found['avg'])}"
            table.add_row(letter, Text(str(each.folder)), Text(each.model), figure)
        console.print(table)
        for each in comparisons:
            if each.benchmark == name:
                for line in describe(each, len(comparisons)):
                    console.print(_wrapped(line, console.width))
                console.print()
    for note in notes:
        console.print(Text(f"Note: {note}."))


def _wrapped(line: str, width: int) -> Text:
    from rich.text import Text

    indent = "  " if line.startswith(" ") else ""
    return Text(fill(line, width, subsequent_indent=f"{indent}  "))


def describe(each: Comparison, num_comparisons: int) -> list[str]:
    """The comparison in sentences, the verdict first."""
    figure = "avg@n" if each.k == 1 else f"pass@{each.k}"
    test = f"{each.p_method} paired permutation test{'s' if each.p_method == LARGER else ''}"
    p_value = f"p {_format_p(each.p_value)} ({test})"
    if num_comparisons > 1:
        p_value += f"; p {_format_p(each.p_holm)} with Holm for {num_comparisons} comparisons"
    if each.better:
        verdict = f"{each.better} is better."
    else:
        verdict = f"No evidence of a difference between {each.a} and {each.b}."
    lines = [
        f"{verdict} {each.b} - {each.a} = {each.difference:+.3f} "
        f"[{each.low:+.3f}, {each.high:+.3f}] in {figure}, {p_value}",
        f"  by problem: {each.b} higher on {each.wins}, lower on {each.losses}, the same on "
        f"{each.ties} (of {each.num_problems})",
    ]
    if each.num_unpaired:
        lines.append(f"  left out: {plural(each.num_unpaired, 'problem')} without a figure in both")
    if not each.better:
        lines.append(f"  {_power(each, num_comparisons)}")
    if each.changed:
        shown = ", ".join(
            f"{change.problem_id} {change.a_correct}/{change.a_judged} -> "
            f"{change.b_correct}/{change.b_judged}"
            for change in each.changed[:MAX_SHOWN_CHANGES]
        )
        more = len(each.changed) - MAX_SHOWN_CHANGES
        lines.append(f"  changed most: {shown}{f', and {more} more (--json)' if more > 0 else ''}")
    return lines


def _power(each: Comparison, num_comparisons: int) -> str:
    problems, differing = plural(each.num_problems, "problem"), each.wins + each.losses
    # All signs alike, the permutation test gives 2 / 2^differing.
    least = next(m for m in count(1) if num_comparisons * 2 / 2**m < ALPHA)
    if differing < least:
        these = (
            f"only {differing} of these {problems} came out differently, too few for a verdict "
            f"even if all pointed the same way (that takes {least})"
        )
    else:
        these = (
            f"these {problems} show a true difference of {each.smallest_visible:.3f} or more "
            "(80 % power)"
        )
    if each.problems_needed is None:
        return these
    return (
        f"if the true difference is {abs(each.difference):.3f}, about {each.problems_needed:,} "
        f"problems like these would show it (80 % power); {these.removesuffix(' (80 % power)')}"
    )


def _format_p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"= {value:.2g}"
