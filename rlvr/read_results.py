"""Reading results directories (`rlvr/results.py` writes them), checked before use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import ResultsError
from rlvr.figures import ProblemSamples, by_problem
from rlvr.results import COMPLETIONS, FORMAT, RESULTS, RUN
from verifiers.verdict import Status

RESULT_FIELDS = (
    "benchmark",
    "model",
    "data_hash",
    "prompt_hash",
    "verifier",
    "sampling",
    "num_problems",
    "num_samples",
    "figures",
)
ROW_FIELDS = (
    "problem_id",
    "sample",
    "problem",
    "completion",
    "answer",
    "finish_reason",
    "num_tokens",
    "status",
    "reward",
)
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
            ResultsError: completions.jsonl is missing or malformed; the line is named.
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
        return by_problem(rows.values())


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
    missing = [name for name in RESULT_FIELDS if name not in results]
    if missing:
        raise ResultsError(f"{file} is damaged: {', '.join(missing)} missing")
    return BenchmarkResults(folder=file.parent, results=results)


def _parse_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=str)
    except ValueError as error:
        raise ResultsError(f"{where} is not JSON: {error}") from error
    missing = [name for name in ROW_FIELDS if not isinstance(row, dict) or name not in row]
    if missing:
        raise ResultsError(f"{where} has no {', '.join(missing)}")
    if row["status"] not in STATUSES:
        raise ResultsError(f"{where} has the unknown status {row['status']!r}")
    return row
