#!/usr/bin/env python
"""HumanEval's rows to lines for `rlvr score code`, with gold or with empty solutions.

    scripts/make_score_input.py HumanEval.jsonl.gz gold.jsonl
    rlvr score code gold.jsonl --output scores.jsonl

With `--empty` every completion is an empty function body, and every verdict must be a failure.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="HumanEval's rows to lines for `rlvr score code`")
    parser.add_argument("rows", type=Path, help="HumanEval.jsonl or HumanEval.jsonl.gz")
    parser.add_argument("output", type=Path)
    parser.add_argument("--empty", action="store_true", help="empty bodies instead of the gold")
    arguments = parser.parse_args()
    path: Path = arguments.rows
    with (
        gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as rows,
        arguments.output.open("w") as output,
    ):
        for line in rows:
            if line.strip():
                output.write(json.dumps(score_line(json.loads(line), arguments.empty)) + "\n")


def score_line(row: dict[str, Any], empty: bool) -> dict[str, Any]:
    problem = {
        "id": row["task_id"],
        "prompt": row["prompt"],
        "verifier": "code",
        "tests": {
            "language": "python",
            "kind": "assert",
            "entry_point": row["entry_point"],
            "code": row["test"],
        },
    }
    completion = "    pass\n" if empty else row["canonical_solution"]
    return {"id": row["task_id"], "problem": problem, "completion": completion}


if __name__ == "__main__":
    main()
