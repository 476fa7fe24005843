"""The labelled probes: every kind of answer both ways, and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifiers import Problem, Status
from verifiers.mathematics import MathVerifier

PROBES = Path(__file__).parents[1] / "data" / "math_probes.jsonl"
ROWS = [json.loads(line) for line in PROBES.read_text(encoding="utf-8").splitlines()]
KINDS = sorted({row["kind"] for row in ROWS})


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(timeout_s=30.0, num_workers=1)
    yield verifier
    verifier.close_now()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "deadline" not in kind])
def test_every_probe_is_judged_right(verifier: MathVerifier, kind: str) -> None:
    wrong: list[str] = []
    for row in ROWS:
        if row["kind"] != kind:
            continue
        problem = Problem(id=row["id"], prompt="", verifier="math", answer=row["problem"]["answer"])
        verdict = verifier.judge(problem, row["completion"])
        if (verdict.status is Status.CORRECT) != row["correct"]:
            wrong.append(f"{row['problem']['answer']} | {row['completion'][:80]} | {verdict}")
        assert verdict.status is not Status.ERROR, row
    assert not wrong


def test_there_are_enough_probes_both_ways() -> None:
    assert len(ROWS) >= 300
    assert min(sum(row["correct"] is answer for row in ROWS) for answer in (True, False)) >= 150


def test_kinds_are_probed_both_ways() -> None:
    one_sided = {"bare", "hostile", "no value", "unevaluated"}
    for kind in KINDS:
        answers = {row["correct"] for row in ROWS if row["kind"] == kind}
        assert len(answers) == 2 or any(name in kind for name in one_sided), kind
