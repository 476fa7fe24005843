"""The quickstart's problems: right answers, and nothing held out is trained on."""

from __future__ import annotations

import pytest

from rlvr.arithmetic import KINDS, make_problems
from rlvr.types import Problem


def make(split: str, size: int = 600, **params: object) -> list[Problem]:
    return make_problems(verifier="number", split=split, size=size, kinds=list(KINDS), **params)  # type: ignore[arg-type]


def operands(problem: Problem) -> tuple[str, int, int]:
    a, b = problem.metadata["operands"]
    return problem.metadata["kind"], min(a, b), max(a, b)


def test_answers_are_right() -> None:
    for problem in make("train"):
        a, b = problem.metadata["operands"]
        expected = {"add": a + b, "subtract": a - b, "multiply": a * b, "larger": max(a, b)}
        assert problem.answer == str(expected[problem.metadata["kind"]])
        assert int(problem.answer) >= 0
        assert str(a) in problem.prompt_text and str(b) in problem.prompt_text


def test_held_out_operands_are_never_trained_on() -> None:
    seen = {operands(problem) for problem in make("train", size=8000)}
    held_out = {operands(problem) for problem in make("test", size=8000)}
    assert not seen & held_out
    assert len(held_out) > 200


def test_problems_are_reproducible_and_depend_on_the_seed() -> None:
    assert make("train", seed=1) == make("train", seed=1)
    assert make("train", seed=1) != make("train", seed=2)


@pytest.mark.parametrize(
    ("params", "told"),
    [({"kinds": ["add", "divide"]}, "divide"), ({"low": 9, "high": 5}, "too few"),
     ({"split": "dev"}, "dev")],
)  # fmt: skip
def test_wrong_parameters_are_named(params: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_problems(verifier="number", **params)  # type: ignore[arg-type]
