"""Small results directories for tests, as `rlvr eval --output` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.figures import figures
from rlvr.results import FORMAT

REWARDS = {"correct": 1.0, "error": None, "partial": 0.5}
STATUS_OF = {
    "c": "correct",
    "p": "partial",
    "i": "incorrect",
    "n": "no_answer",
    "l": "limit",
    "e": "error",
}


def make_rows(
    verdicts: Mapping[str, str],
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    completion: str = "The answer is 4.",
) -> list[dict[str, Any]]:
    """Rows of completions.jsonl from one letter a sample, e.g. `{"p1": "cci", "p2": "ene"}`."""
    rows = []
    for problem_id, letters in verdicts.items():
        problem = {
            "id": problem_id,
            "prompt": f"What is {problem_id}?",
            "verifier": "number",
            "answer": "4",
            "tests": None,
            "metadata": dict((metadata or {}).get(problem_id, {})),
        }
        for sample, letter in enumerate(letters):
            status = STATUS_OF[letter]
            rows.append(
                {
                    "problem_id": problem_id,
                    "sample": sample,
                    "problem": problem,
                    "completion": completion,
                    "answer": {"c": "4", "i": "5", "p": "3"}.get(letter),
                    "finish_reason": "length" if letter == "n" else "stop",
                    "num_tokens": 10,
                    "status": status,
                    "reward": REWARDS.get(status, 0.0),
                    "detail": {"rule": "last"},
                    "latency_s": 0.0,
                }
            )
    return rows


def write_results(
    folder: Path, rows: Sequence[Mapping[str, Any]], benchmark: str = "sums", **changes: Any
) -> Path:
    """Write `folder/<benchmark>/`; `changes` replace fields of results.json. Returns `folder`."""
    num_samples = max(row["sample"] for row in rows) + 1
    results = {
        "format": FORMAT,
        "benchmark": benchmark,
        "model": {"name": "tiny", "hash": "0" * 64},
        "config": {},
        "versions": {"rlvr": "0.1.0"},
        "data_hash": "data-1",
        "prompt_hash": "prompt-1",
        "verifier": {"name": "number", "version": "v1", "params": {}},
        "sampling": {"temperature": 1.0, "max_tokens": 16},
        "num_problems": len({row["problem_id"] for row in rows}),
        "num_samples": num_samples,
        "figures": figures(rows, num_samples),
        "seconds": 2.0,
        "tokens": 10 * len(rows),
        **changes,
    }
    target = folder / benchmark
    target.mkdir(parents=True)
    (target / "results.json").write_text(json.dumps(results), encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (target / "completions.jsonl").write_text(lines, encoding="utf-8")
    return folder
