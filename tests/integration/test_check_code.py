"""`rlvr check` on a code verifier without any sandbox: what it lets through is found."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlvr import check
from tests.unit.human_eval import HUMAN_EVAL

pytestmark = pytest.mark.slow

CODE_FAKE = '''
import subprocess, sys

def run(problem, completion):
    """No sandbox, no care: the exit status decides."""
    source = completion.rpartition("</think>")[2]
    if "```python" in source:
        source = source.partition("```python")[2].partition("```")[0]
    elif source.startswith("    "):
        source = problem.prompt_text + source
    entry = problem.tests["entry_point"]
    program = f"{source}\\n{problem.tests['code']}\\ncheck({entry})\\n"
    try:
        done = subprocess.run([sys.executable, "-I", "-c", program], timeout=2,
            capture_output=True)
    except (subprocess.TimeoutExpired, ValueError, UnicodeEncodeError):
        return False
    return done.returncode == 0
'''


def report(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "code_fake.py").write_text(CODE_FAKE)
    out = io.StringIO()
    verifier, data = f"{folder / 'code_fake.py'}:run", str(folder / "programs.jsonl")
    check.run(verifier, data, as_json=True, console=Console(file=out))
    return json.loads(out.getvalue())


def test_an_unsafe_code_verifier_is_found_out(tmp_path: Path):
    found = report(tmp_path, HUMAN_EVAL)
    checks = {one["name"]: one for one in found["checks"]}
    assert not checks["injections"]["passed"]
    assert any("EXECUTED" in note for note in checks["injections"]["notes"])
    won = {finding["kind"] for finding in checks["injections"]["findings"]}
    assert {"exits with 0", "kills itself with 0", "equals everything"} <= won
    assert checks["golds"]["passed"] and checks["mutants"]["passed"]
    assert "body only" in checks["golds"]["kinds"]
