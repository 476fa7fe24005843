"""`rlvr check code` with the real sandbox: the audit passes, and a broken reference is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlvr import check
from tests.unit.human_eval import HUMAN_EVAL

pytestmark = pytest.mark.docker


def test_the_code_verifier_passes_and_a_broken_reference_solution_is_named(tmp_path: Path):
    broken = {**HUMAN_EVAL[0], "task_id": "T/2", "canonical_solution": "    return x + 3\n"}
    rows = [*HUMAN_EVAL, broken]
    path = tmp_path / "programs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = io.StringIO()
    check.run(
        "code",
        str(path),
        as_json=True,
        bad_golds=1,
        overrides=["timeout_s=120"],
        console=Console(file=out),
    )
    found: dict[str, Any] = json.loads(out.getvalue())
    assert [one["name"] for one in found["checks"] if not one["passed"]] == []
    assert [bad["line"] for bad in found["bad_golds"]] == ["line 3"]
    hostile = next(one for one in found["checks"] if one["name"] == "hostile")
    assert set(hostile["statuses"]) <= {"limit", "incorrect"} and hostile["statuses"]["limit"] >= 4
