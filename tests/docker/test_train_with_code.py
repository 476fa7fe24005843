"""Training with model-written programs judged in Docker: Ray, vLLM, sandboxes, learner."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.completions_log import read_completions
from rlvr.metrics import read_metrics
from tests.integration.tiny_model import make_tiny_model

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

RECIPE = """
num_steps = 3
groups_per_step = 4
[model]
path = "{folder}/model"
[data]
path = "{folder}/data.jsonl"
answer_field = ""
tests_field = "tests"
verifier = "code"
verifier_params = {{ num_slots = 2, time_s = 2 }}
[rollout]
group_size = 4
max_tokens = 12
max_model_len = 128
kv_cache_gb = 0.1
enforce_eager = true
num_threads = 1
[learner]
num_threads = 1
[eval]
[eval.data]
path = "{folder}/gold.jsonl"
answer_field = ""
tests_field = "tests"
verifier = "gold.py:Gold"
"""

GOLD = '''
from verifiers import Problem
from verifiers.code import CodeVerifier

class Gold(CodeVerifier):
    """Judges the right program, whatever the model says."""

    async def verify(self, problem, completion):
        return await super().verify(problem, "```python\\nprint(int(input()) + 1)\\n```")
'''


def test_three_steps_with_the_code_verifier(tmp_path: Path, sandbox_image: str) -> None:
    make_tiny_model(tmp_path / "model")
    tests = {"kind": "stdio", "language": "python", "cases": [{"stdin": "1", "stdout": "2"}]}
    rows = [{"prompt": f"add one, {i}", "tests": tests} for i in range(16)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (tmp_path / "gold.py").write_text(GOLD)
    recipe = tmp_path / "code.toml"
    recipe.write_text(RECIPE.format(folder=tmp_path))
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "rlvr.cli", "train", str(recipe), f"run_dir={run_dir}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr

    rows = [row for row in read_metrics(run_dir) if "reward/mean" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(row["verdicts/error"] == 0 for row in rows)
    # Random bytes are no program that adds one, and every one of them was judged.
    assert all(row["pass_rate"] == 0 for row in rows)
    assert len(read_completions(run_dir)) == 3 * 4 * 4
    # The right program passes in the same sandboxes, so the zeros above are verdicts.
    evaluations = [row for row in read_metrics(run_dir) if "eval/pass_at_1" in row]
    assert [row["eval/pass_at_1"] for row in evaluations] == [1.0, 1.0]
