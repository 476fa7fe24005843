"""Every gold of GSM8K and MATH-500 verifies itself. Needs the data: RLVR_TEST_DATA=FOLDER."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifiers import Problem, Status
from verifiers.mathematics import MathVerifier

FOLDER = os.environ.get("RLVR_TEST_DATA")
FILES = ["gsm8k_test.jsonl", "math500.jsonl"]
STYLES = ["{gold}", "so $\\boxed{{{gold}}}$.", "The answer is ${gold}$.", "# Answer\n\n{gold}"]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(timeout_s=30.0)
    yield verifier
    verifier.close_now()


@pytest.mark.parametrize("name", FILES)
def test_golds_verify_themselves_and_not_their_neighbours(
    verifier: MathVerifier, name: str
) -> None:
    path = Path(FOLDER or "", name)
    if FOLDER is None or not path.is_file():
        pytest.skip(f"RLVR_TEST_DATA does not name a folder with {name}")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = [row["answer"] for row in rows]
    golds = [answer.rpartition("####")[2].strip() for answer in answers]
    wrong: list[str] = []
    for index, (answer, gold) in enumerate(zip(answers, golds, strict=True)):
        problem = Problem(id=str(index), prompt="", verifier="math", answer=answer)
        completion = STYLES[index % len(STYLES)].format(gold=gold)
        if verifier.judge(problem, completion).status is not Status.CORRECT:
            wrong.append(f"{gold!r} from {completion!r}")
        other = golds[index - 1]
        if other == gold or {other, gold} in EQUAL:
            continue
        if verifier.judge(problem, f"so $\\boxed{{{other}}}$.").status is Status.CORRECT:
            wrong.append(f"{other!r} passes for {gold!r}")
    assert not wrong


EQUAL = [{"x=5", "5"}]
"""Neighbours that differ in spelling only."""
