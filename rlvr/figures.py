"""From judged samples to the figures of a benchmark, each with its interval, and to a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rlvr.estimators import maj_at_k, pass_at_k, pass_hat_k
from rlvr.intervals import (
    bootstrap_interval,
    bootstrap_means,
    clustered_interval,
    clustered_se,
    mean_interval,
    wilson_interval,
)
from verifiers.verdict import Status

if TYPE_CHECKING:
    from rich.console import Group

Array = npt.NDArray[np.float64]
Row = Mapping[str, Any]

MAX_BREAKDOWN_VALUES = 30
"""A metadata column with more distinct values is an identifier or a measurement, not a grouping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems."""

    value: float | None
    """Null when no problem has a value."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end of the 95 % interval."""
    se: float | None
    """Cluster-robust standard error; null for fewer than two problems."""
    num_problems: int
    """Problems in the mean."""

    def to_json(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "se": self.se,
            "num_problems": self.num_problems,
        }


NOTHING = Estimate(value=None, low=None, high=None, se=None, num_problems=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSamples:
    """All samples of one problem."""

    id: str
    rows: tuple[Row, ...]
    judged: tuple[Row, ...]
    """Those whose status is not `error`."""
    correct: tuple[bool, ...]
    """Verdicts of the judged ones; `partial` is not correct."""

    @property
    def rate(self) -> float | None:
        """Share of the judged samples that are correct; null when none was judged."""
        return sum(self.correct) / len(self.correct) if self.correct else None


def by_problem(rows: Iterable[Row]) -> list[ProblemSamples]:
    """Rows of completions.jsonl gathered by problem, in order of first appearance, each problem's
    by sample."""
    gathered: dict[str, list[Row]] = {}
    for row in rows:
        gathered.setdefault(row["problem_id"], []).append(row)
    problems = []
    for problem_id, its_rows in gathered.items():
        its_rows.sort(key=lambda row: row["sample"])
        judged = tuple(row for row in its_rows if row["status"] != Status.ERROR)
        correct = tuple(row["status"] == Status.CORRECT for row in judged)
        problems.append(
            ProblemSamples(id=problem_id, rows=tuple(its_rows), judged=judged, correct=correct)
        )
    return problems


def figures(
    samples: Iterable[Row],
    num_samples: int,
    seed: int = 0,
    columns: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Every figure of a benchmark, as it stands in results.json.

    Args:
        samples: Rows of completions.jsonl. Of each are read: `problem_id`, `sample`, `status`,
            `answer`, `reward`, `finish_reason`, `num_tokens`, and `problem.metadata`.
        num_samples: Samples asked for a problem (n).
        seed: Of the bootstrap. The same rows, in any order, and seed give the same figures.
        columns: Metadata columns to break down by; null: every column that groups problems (see
            `breakdown`).

    Returns:
        A JSON object. An *estimate* is `{"value", "low", "high", "se", "num_problems"}`, a mean
        over problems with its 95 % interval.

        * `avg`: avg@n, which is mean pass@1: the mean over problems of the share correct.
        * `reward`: mean reward, where it says more than `avg`.
        * `pass_at_k`, `pass_hat_k`, `maj_at_k`: an estimate for each k from "1" to "n", over the
          problems with at least k judged samples. `maj_at_k` is empty where the verifier extracts
          no answers.
        * `truncated`: share of completions cut at the token limit, an estimate too.
        * `statuses`: completions by status.
        * `num_problems`, `num_left_out`: problems in `avg`, and those without any verdict.
        * `num_samples`, `mean_tokens`.
        * `breakdown`: `{column: {value: estimate of avg}}`.

    Raises:
        ValueError: a problem has more rows than `num_samples`.
    """
    problems = sorted(by_problem(samples), key=lambda problem: problem.id)
    for problem in problems:
        if len(problem.rows) > num_samples:
            raise ValueError(
                f"problem {problem.id!r} has {len(problem.rows)} samples, "
                f"but {num_samples} were asked for"
            )
    known = [problem for problem in problems if problem.correct]
    rows = [row for problem in problems for row in problem.rows]
    statuses = Counter(row["status"] for row in rows)
    avg = average(known)
    return {
        "avg": avg.to_json(),
        "reward": _mean_reward(known).to_json(),
        **_by_k(known, avg, seed),
        "truncated": _truncated(problems).to_json(),
        "statuses": {each.value: statuses[each] for each in Status if statuses[each]},
        "num_problems": len(known),
        "num_left_out": len(problems) - len(known),
        "num_samples": num_samples,
        "mean_tokens": sum(row["num_tokens"] for row in rows) / max(1, len(rows)),
        "breakdown": breakdown(problems, columns),
    }


def average(problems: Sequence[ProblemSamples]) -> Estimate:
    """avg@n of the problems that have a verdict. Each problem counts once, however many of its
    samples were judged; with one sample each the interval is Wilson's."""
    known = [problem for problem in problems if problem.correct]
    return _share([problem.correct for problem in known])


def _share(clusters: Sequence[Sequence[bool]]) -> Estimate:
    """Mean over clusters of the share that is true."""
    if not clusters:
        return NOTHING
    rates = np.array([sum(each) / len(each) for each in clusters])
    num_samples = sum(len(each) for each in clusters) / len(clusters)
    if num_samples == 1:
        low, high = wilson_interval(float(rates.sum()), len(rates))
    else:
        low, high = clustered_interval(rates, num_samples)
    return _estimate(rates, low, high)


def _estimate(values: Array, low: float | None, high: float | None) -> Estimate:
    return Estimate(
        value=float(values.mean()),
        low=low,
        high=high,
        se=clustered_se(values),
        num_problems=len(values),
    )


def _mean_reward(known: Sequence[ProblemSamples]) -> Estimate:
    if not known:
        return NOTHING
    rewards = np.array(
        [sum(row["reward"] for row in each.judged) / len(each.judged) for each in known]
    )
    low, high = mean_interval(rewards) or (None, None)
    return _estimate(rewards, low, high)


def _truncated(problems: Sequence[ProblemSamples]) -> Estimate:
    """Over all completions, judged or not: the length limit does not depend on the verdict."""
    return _share([[row["finish_reason"] == "length" for row in each.rows] for each in problems])


def _by_k(known: Sequence[ProblemSamples], avg: Estimate, seed: int) -> dict[str, Any]:
    """pass@k, pass^k and maj@k for every k, on the same resamples of the problems."""
    names = ("pass_at_k", "pass_hat_k", "maj_at_k")
    result: dict[str, Any] = {name: {} for name in names}
    if not known:
        return result
    n = np.array([len(each.correct) for each in known])
    c = np.array([sum(each.correct) for each in known])
    rates, max_k = c / n, int(n.max())
    blocks = [pass_at_k(n, c, max_k), pass_hat_k(n, c, max_k)]
    answers = [[row["answer"] for row in each.judged] for each in known]
    if any(answer is not None for given in answers for answer in given):
        blocks.append(
            np.stack(
                [
                    maj_at_k(given, each.correct, max_k)
                    for given, each in zip(answers, known, strict=True)
                ]
            )
        )
    resampled = bootstrap_means(np.concatenate(blocks, axis=1), seed)
    for index, (name, values) in enumerate(zip(names, blocks, strict=False)):
        for k in range(1, max_k + 1):
            column = values[:, k - 1]
            have = ~np.isnan(column)
            if not have.any():
                continue
            if k == 1 and np.allclose(column, rates):
                estimate = avg  # one figure under four names has one interval
            else:
                means = resampled[:, index * max_k + k - 1]
                bounds = bootstrap_interval(column[have], means, float(n[have].mean()))
                estimate = _estimate(column[have], *bounds)
            result[name][str(k)] = estimate.to_json()
    return result


def breakdown(
    problems: Sequence[ProblemSamples], columns: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """avg@n by the values of metadata columns: `{column: {value: estimate}}`.

    Args:
        problems: All of them; those without a verdict are in no figure.
        columns: Columns to use; null: those that group problems, that is strings, numbers or
            booleans with 2 to 30 distinct values, at most half as many as there are problems.

    Raises:
        ValueError: no problem has such a column.
    """
    metadata = [each.rows[0]["problem"].get("metadata") or {} for each in problems]
    known_columns = list(dict.fromkeys(name for each in metadata for name in each))
    for name in columns or ():
        if name not in known_columns:
            raise ValueError(
                f"no problem has a metadata column {name!r}; there are: "
                f"{', '.join(known_columns) or 'none'}"
            )
    result: dict[str, dict[str, Any]] = {}
    for name in columns if columns is not None else known_columns:
        values = [each.get(name) for each in metadata]
        if columns is None and not _groups_problems(values):
            continue
        labels = {column_label(value): value for value in values}
        groups: dict[str, list[ProblemSamples]] = {label: [] for label in labels}
        for value, problem in zip(values, problems, strict=True):
            groups[column_label(value)].append(problem)
        result[name] = {
            label: average(groups[label]).to_json()
            for label in sorted(labels, key=lambda label: _sort_key(labels[label]))
        }
    return result


def column_label(value: Any) -> str:
    """How a value of a metadata column is called in a breakdown."""
    return "(none)" if value is None else str(value)


def _groups_problems(values: Sequence[Any]) -> bool:
    if not all(value is None or isinstance(value, str | int | float | bool) for value in values):
        return False
    distinct = len(set(map(column_label, values)))
    return 2 <= distinct <= min(MAX_BREAKDOWN_VALUES, len(values) / 2)


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then texts, then problems without the column."""
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, str):
        return 1, 0.0, value
    return 0, float(value), ""


def plural(count: int, noun: str) -> str:
    """`1 problem`, `1,319 problems`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_estimate(estimate: Mapping[str, Any] | None) -> str:
    """`0.412 [0.371, 0.455]`."""
    if not estimate or estimate["value"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def shown_ks(num_samples: int) -> list[int]:
    """1, 2, 4, ... and n: what a table shows of the figures for every k."""
    return sorted({2**power for power in range(num_samples.bit_length())} | {num_samples})


def figures_table(title: str, found: Mapping[str, Any]) -> Group:
    """The figures of one benchmark for a terminal (rich), from what `figures` returned."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    n = found["num_samples"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("k", justify="right")
    names = {"pass@k": "pass_at_k", "pass^k": "pass_hat_k", "maj@k": "maj_at_k"}
    shown = {heading: name for heading, name in names.items() if found[name]}
    for heading in shown:
        table.add_column(heading, no_wrap=True)
    table.add_column("of", justify="right")
    for k in map(str, shown_ks(n)):
        estimates = [found[name].get(k) for name in shown.values()]
        known = max((each["num_problems"] for each in estimates if each), default=0)
        table.add_row(k, *map(format_estimate, estimates), f"{known:,}")
    parts: list[Text | Table] = [Text(title, style="bold"), Text(_summary(found))]
    if n > 1 and shown:
        parts.append(table)
    for column, values in found["breakdown"].items():
        by_value = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        by_value.add_column(column)
        by_value.add_column("of", justify="right")
        by_value.add_column(f"avg@{n}")
        for value, estimate in values.items():
            by_value.add_row(Text(value), str(estimate["num_problems"]), format_estimate(estimate))
        parts.append(by_value)
    return Group(*parts)


def _summary(found: Mapping[str, Any]) -> str:
    n = found["num_samples"]
    lines = [
        f"avg@{n} {format_estimate(found['avg'])}  "
        f"({plural(found['num_problems'], 'problem')} x {n}, 95 % interval)"
    ]
    if found["num_left_out"]:
        lines.append(f"left out: {plural(found['num_left_out'], 'problem')} without any verdict")
    if found["statuses"]:
        counts = ", ".join(f"{count} {status}" for status, count in found["statuses"].items())
        lines.append(f"completions: {counts}")
    if found["reward"]["value"] != found["avg"]["value"]:
        lines.append(f"mean reward {format_estimate(found['reward'])}")
    lines.append(
        f"truncated {format_estimate(found['truncated'])}, {found['mean_tokens']:.0f} tokens each"
    )
    return "\n".join(lines)
