"""Normalised answers: which completions gave the same answer, for majority votes.

Grouping is by what was written, never by verdict: calling all correct answers the same would let
the gold answer take part in the vote. The price is that answers which are equal but written
differently ("1/2", "0.5" are recognised; "x+1", "1+x" are not) count apart, so maj@k is a little
low rather than too high.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from rlvr.types import Problem
from verifiers.number import parse_number

MAX_ANSWER_CHARS = 1_000
"""Longer ones are no answers that could agree by chance."""
_KEYS = ("answer", "extracted")
"""Where verdicts keep what the completion answered."""
_WRAPPERS = (
    re.compile(r"\\boxed\{(.*)\}", re.DOTALL),
    re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\\\[(.*)\\\]", re.DOTALL),
    re.compile(r"\$+(.*?)\$+", re.DOTALL),
    re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}"),
    re.compile(r"\*\*(.*)\*\*", re.DOTALL),
)
_SPACING = re.compile(r"\\[,!;: ]|\\left|\\right|\s+")
_LOOSE = re.compile(r"(?<!\w) | (?!\w)")
"""A space that does not keep two words or numbers apart."""
_FRACTION = re.compile(r"\\[dt]frac")


def normalised_answer(problem: Problem, detail: dict[str, Any]) -> str | None:
    """The answer that a verdict's detail says was found, in a form that equal answers share.

    Returns:
        Null where the verifier found or reports none (`answer` or `extracted` in its detail), and
        for programs, which nobody votes on.
    """
    return None if problem.tests is not None else _answer(detail)


def _answer(detail: Mapping[str, Any]) -> str | None:
    for key in _KEYS:
        value = detail.get(key)
        if isinstance(value, str) and value.strip():
            return normalise(value) if len(value) <= MAX_ANSWER_CHARS else None
        if isinstance(value, bool | int | float):
            return normalise(str(value))
    # Of a composite: the first component that has one. A detail holds whatever its verifier likes.
    components = detail.get("components")
    for component in components.values() if isinstance(components, dict) else ():
        if isinstance(component, dict) and isinstance(component.get("detail"), dict):
            found = _answer(component["detail"])
            if found is not None:
                return found
    return None


def normalise(text: str) -> str:
    """Numbers as exact fractions; other text without wrappers, spaces, case and a final stop."""
    text = text.strip()
    for _ in range(3):  # wrappers nest: $\\boxed{\\text{(B)}}$
        for wrapper in _WRAPPERS:
            match = wrapper.fullmatch(text)
            if match:
                text = match[1].strip()
    number = parse_number(text)
    if number is not None:
        return str(number)
    text = _FRACTION.sub(r"\\frac", text)
    text = _SPACING.sub(" ", text).strip().rstrip(".")
    return _LOOSE.sub("", text).casefold()
