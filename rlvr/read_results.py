"""Reading results directories (`rlvr/results.py` writes them), checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from rlvr.errors import ResultsError
from rlvr.figures import NOTHING, ProblemSamples, average, by_problem, figures
from rlvr.results import COMPLETIONS, FORMAT, RESULTS, RUN
from verifiers.problem import Problem
from verifiers.verdict import Status

RESULT_FIELDS: dict[str, type] = {
    "benchmark": str,
    "model": dict,
    "data_hash": str,
    "prompt_hash": str,
    "verifier": dict,
    "sampling": dict,
    "num_problems": int,
    "num_samples": int,
    "figures": dict,
}
ROW_FIELDS: dict[str, tuple[type, ...]] = {
    "problem_id": (str,),
    "sample": (int,),
    "problem": (dict,),
    "completion": (str,),
    "answer": (str, NoneType),
    "finish_reason": (str,),
    "num_tokens": (int,),
    "status": (str,),
    "reward": (float, int, NoneType),
}
FIGURES = figures([], num_samples=1).keys()
ESTIMATE = NOTHING.to_json().keys()
STATUSES = frozenset(status.value for status in Status)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResults:
    """The finished results of one model on one benchmark."""

    folder: Path
    results: Mapping[str, Any]
    """results.json."""

    @property
    def benchmark(self) -> str:
        return self.results["benchmark"]

    @property
    def model(self) -> str:
        return self.results["model"]["name"]

    def problems(self) -> list[ProblemSamples]:
        """Every completion, gathered by problem.

        Raises:
            ResultsError: completions.jsonl is missing or malformed (the line is named), or is not
                what results.json was made from.
        """
        path = self.folder / COMPLETIONS
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        try:
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    row = _parse_row(line, f"{path}, line {number}")
                    key = row["problem_id"], row["sample"]
                    if key in rows:
                        raise ResultsError(
                            f"{path}, line {number}: sample {key[1]} of problem {key[0]!r} is "
                            "there twice"
                        )
                    rows[key] = row
        except (OSError, UnicodeDecodeError) as error:
            raise ResultsError(f"the completions in {path} cannot be read: {error}") from error
        problems = by_problem(rows.values())
        self._check_agreement(path, len(rows), average(problems).value)
        return problems

    def _check_agreement(self, path: Path, num_rows: int, avg: float | None) -> None:
        """A cut or edited file must not give figures of its own."""
        expected = self.results["num_problems"] * self.results["num_samples"]
        if num_rows != expected:
            raise ResultsError(
                f"{path} holds {num_rows:,} samples, {RESULTS} beside it says {expected:,}: the "
                "file was cut or edited; evaluate again"
            )
        said = self.results["figures"]["avg"]["value"]
        if (avg is None) != (said is None) or abs((avg or 0.0) - (said or 0.0)) > 1e-9:
            raise ResultsError(
                f"{path} gives avg@n {avg}, {RESULTS} beside it says {said}: one of the two was "
                "edited; evaluate again"
            )


def read_results(path: Path) -> dict[str, BenchmarkResults]:
    """The benchmarks of a results directory, by name.

    Args:
        path: What `rlvr eval --output` wrote: a folder with one sub-folder a benchmark, one of
            these sub-folders, or its results.json.

    Raises:
        ResultsError: there are no results, or they are unfinished, malformed, or of another format.
    """
    folder = path.parent if path.name == RESULTS else path
    if not folder.is_dir():
        raise ResultsError(f"there is no results directory {folder}")
    files = [folder / RESULTS] if (folder / RESULTS).is_file() else []
    files = files or sorted(folder.glob(f"*/{RESULTS}"))
    if not files:
        if (folder / RUN).is_file() or any(folder.glob(f"*/{RUN}")):
            raise ResultsError(
                f"the evaluation in {folder} is unfinished; the same `rlvr eval` command with the "
                "same --output goes on with it"
            )
        raise ResultsError(
            f"{folder} holds no {RESULTS}, neither itself nor in a sub-folder; "
            "`rlvr eval MODEL BENCHMARK --output DIR` writes a results directory"
        )
    found = [_read_one(file) for file in files]
    by_name = {each.benchmark: each for each in found}
    if len(by_name) < len(found):
        raise ResultsError(f"{folder} holds the same benchmark twice; name one of its sub-folders")
    return by_name


def _read_one(file: Path) -> BenchmarkResults:
    try:
        results = json.loads(file.read_text(encoding="utf-8"), parse_constant=str)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{file} cannot be read: {error}") from error
    if not isinstance(results, dict) or "format" not in results:
        raise ResultsError(f"{file} is not the results of an evaluation: it has no format")
    if results["format"] != FORMAT:
        raise ResultsError(
            f"{file} has format {results['format']!r}, this rlvr reads format {FORMAT}: "
            "read it with the version that wrote it, or evaluate again"
        )
    wrong = [name for name, kind in RESULT_FIELDS.items() if type(results.get(name)) is not kind]
    if not wrong and "name" not in results["model"]:
        wrong = ["model.name"]
    if not wrong and not _are_figures(results["figures"]):
        wrong = ["figures"]
    if wrong:
        raise ResultsError(
            f"{file} is damaged: {', '.join(wrong)} missing or not of the kind that `rlvr eval` "
            "writes"
        )
    return BenchmarkResults(folder=file.parent, results=results)


def _parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=str)
    except ValueError as error:
        raise ResultsError(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ResultsError(f"{where} is no sample: expected a JSON object")
    missing = [name for name in ROW_FIELDS if name not in row]
    if missing:
        raise ResultsError(f"{where} has no {', '.join(missing)}")
    for name, kinds in ROW_FIELDS.items():
        if type(row[name]) not in kinds:
            raise ResultsError(
                f"{where} is damaged: {name} = {row[name]!r:.60} is of the wrong type"
            )
    if row["status"] not in STATUSES:
        raise ResultsError(f"{where} has the unknown status {row['status']!r}")
    if (row["reward"] is None) != (row["status"] == Status.ERROR):
        raise ResultsError(
            f"{where} has the status {row['status']} and the reward {row['reward']}: exactly the "
            "error verdicts have none"
        )
    try:
        Problem.from_json(row["problem"])
    except ValueError as error:
        raise ResultsError(f"{where} is damaged: {error}") from error
    return row


def _are_figures(found: Mapping[str, Any]) -> bool:
    avg = found.get("avg")
    return found.keys() >= FIGURES and isinstance(avg, dict) and avg.keys() >= ESTIMATE
