"""Which answers count as the same in a majority vote."""

from __future__ import annotations

from typing import Any

import pytest

from rlvr.answers import MAX_ANSWER_CHARS, normalise, normalised_answer
from rlvr.types import Problem

PROBLEM = Problem(id="1", prompt="?", verifier="number")


@pytest.mark.parametrize(
    "same",
    [
        ["18", "18.0", "$18", "18.", "+18", "\\boxed{18}", "**18**", "36/2", "$18$", " 18 "],
        ["1/2", "0.5", "\\frac{1}{2}", "\\dfrac{1}{2}", "$\\frac12$".replace("12", "{1}{2}"), ".5"],
        ["1,234", "1234", "1{,}234"],
        ["(B)", "\\text{(B)}", "( b )", "$\\boxed{\\text{(B)}}$"],
        ["x + 1", "x+1", "\\left x+1", "$x + 1$"],
        ["North", "north", "north."],
    ],
    ids=lambda same: same[0],
)
def test_spellings_of_one_answer_vote_together(same: list[str]) -> None:
    assert len({normalise(text) for text in same}) == 1


def test_different_answers_vote_apart() -> None:
    texts = [
        "18",
        "-18",
        "1.8",
        "1/8",
        "81",
        "x+1",
        "x-1",
        "(1,2)",
        "(12)",
        "1 2",
        "12",
        "A",
        "B",
        "",
    ]
    assert len({normalise(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("detail", "answer"),
    [
        ({"extracted": "18.0"}, "18"),
        ({"answer": "x", "extracted": "whole text"}, "x"),
        ({"answer": 4}, "4"),
        ({"answer": True}, "true"),
        ({}, None),
        ({"extracted": ""}, None),
        ({"extracted": "  "}, None),
        ({"extracted": ["18"]}, None),
        ({"extracted": "9" * (MAX_ANSWER_CHARS + 1)}, None),
        ({"components": {"a": {"detail": {}}, "b": {"detail": {"extracted": "7"}}}}, "7"),
        ({"components": ["7"]}, None),
        ({"components": {"a": None, "b": {"detail": "7"}}}, None),
    ],
)
def test_the_answer_is_where_verifiers_keep_it(detail: dict[str, Any], answer: str | None) -> None:
    assert normalised_answer(PROBLEM, detail) == answer


def test_nobody_votes_on_programs() -> None:
    problem = Problem(id="1", prompt="?", verifier="code", tests={"kind": "assert"})
    assert normalised_answer(problem, {"extracted": "last fence"}) is None
