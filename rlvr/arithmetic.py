"""Arithmetic word problems made on the spot: the quickstart's data, which needs no download.

Training and held-out problems never share a pair of operands within a kind, so a pass rate on the
held-out ones cannot come from remembering answers.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rlvr.types import Problem

ASK = "Reply with the number only."
NAMES = ("Ana", "Ben", "Chen", "Dina", "Emil", "Fatima", "Goran", "Hana")
THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "tickets")
HELD_OUT_SHARE = 0.3
"""Share of operand pairs kept for the `test` split."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A family of problems over two operands."""

    answer: Callable[[int, int], int]
    templates: tuple[str, ...]
    """With `{a}`, `{b}`, `{name}` and `{things}`."""
    allowed: Callable[[int, int], bool] = lambda a, b: True
    """Which operand pairs make sense."""


KINDS = {
    "add": Kind(
        lambda a, b: a + b,
        (
            "What is {a} + {b}?",
            "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
            "There are {a} {things} in one box and {b} in another. How many {things} in total?",
        ),
    ),
    "subtract": Kind(
        lambda a, b: a - b,
        (
            "What is {a} - {b}?",
            "{name} has {a} {things} and gives away {b}. How many {things} are left?",
        ),
        allowed=lambda a, b: a >= b,  # nothing goes below zero
    ),
    "multiply": Kind(
        lambda a, b: a * b,
        (
            "What is {a} * {b}?",
            "{name} has {a} boxes with {b} {things} in each. How many {things} are there?",
        ),
    ),
    "larger": Kind(
        max,
        (
            "Which number is larger, {a} or {b}?",
            "Which is more, {a} {things} or {b} {things}?",
        ),
        allowed=lambda a, b: a != b,
    ),
}


def make_problems(
    *,
    verifier: str,
    split: Literal["train", "test"] = "train",
    size: int = 2000,
    seed: int = 0,
    kinds: tuple[str, ...] | list[str] = ("add", "subtract"),
    low: int = 1,
    high: int = 20,
    system: str | None = None,
) -> list[Problem]:
    """`size` problems with operands in [low, high], the kinds in turn.

    Raises:
        ValueError: unknown kind or split, or a range too small to hold both splits.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"unknown arithmetic kind {unknown}; known: {', '.join(KINDS)}")
    if split not in ("train", "test"):
        raise ValueError(f"unknown arithmetic split {split!r}; known: train, test")
    rng = random.Random(f"{split}-{seed}")
    pairs = {kind: _pairs(kind, split, low, high) for kind in kinds}
    empty = [kind for kind, found in pairs.items() if not found]
    if empty:
        raise ValueError(f"operands {low} to {high} are too few to make {split} problems")
    problems = []
    for number in range(size):
        name = kinds[number % len(kinds)]
        kind = KINDS[name]
        a, b = rng.choice(pairs[name])
        text = rng.choice(kind.templates).format(
            a=a, b=b, name=rng.choice(NAMES), things=rng.choice(THINGS)
        )
        messages: list[dict[str, str]] = [{"role": "user", "content": f"{text} {ASK}"}]
        if system:
            messages.insert(0, {"role": "system", "content": system})
        metadata: dict[str, Any] = {"kind": name, "operands": [a, b]}
        problems.append(
            Problem(
                id=f"{split}-{number}",
                prompt=tuple(messages),
                verifier=verifier,
                answer=str(kind.answer(a, b)),
                metadata=metadata,
            )
        )
    return problems


def _pairs(kind: str, split: str, low: int, high: int) -> list[tuple[int, int]]:
    """The split's operand pairs. A pair and its mirror image are always in the same split."""
    numbers = range(low, high + 1)
    pairs = [(a, b) for a in numbers for b in numbers if KINDS[kind].allowed(a, b)]
    return [pair for pair in pairs if _held_out(kind, pair) == (split == "test")]


def _held_out(kind: str, pair: tuple[int, int]) -> bool:
    digest = hashlib.sha256(f"{kind}:{min(pair)}:{max(pair)}".encode()).digest()
    return int.from_bytes(digest[:4]) < HELD_OUT_SHARE * 2**32
