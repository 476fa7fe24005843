r"""Where in a completion the answer stands, for verifiers that compare text.

Text up to the last `</think>` is left out, and an unclosed `<think>` holds no answer. Then the
first of these that is there:

1. `tags`: inside the last `<answer>...</answer>`,
2. `boxed`: inside the last `\boxed{...}` (its braces balanced),
3. `hashes`: the rest of the line after the last `####`,
4. `answer is`: the rest of the line after the last "answer is", "answer:" or "answer =",
5. `last line`: the last line that is not empty.

Of several tags or boxes the last counts, unless it is one of a row of different ones (nothing but
signs, "or" and "and" between the last two): that is no answer. All in time linear in the text.
"""

from __future__ import annotations

import re

MAX_SHOWN_CHARS = 200
"""Longest piece of a completion in a verdict's detail."""

RULES = ("tags", "boxed", "hashes", "answer is", "last line")

_CONNECTOR = re.compile(r"(?:[\W_]|\b(?:or|and|text)\b)*")
_MARKER = re.compile(r"\banswer(?:\s+is\b\s?:?|\s?[:=]|\*\*\s?:|:\*\*)", re.IGNORECASE)


def after_thinking(completion: str) -> str | None:
    """What follows the last `</think>`; null if thinking did not end."""
    text = completion.rpartition("</think>")[2]
    return None if "<think>" in text else text


def find_answer(completion: str, rules: tuple[str, ...] = RULES) -> tuple[str, str] | None:
    """The first rule of `rules` that finds something, and what it found (stripped, not empty)."""
    text = after_thinking(completion)
    if text is None:
        return None
    for rule in rules:
        found = _FIND[rule](text)
        if found is not None:  # an empty box or tag is an empty answer: no other rule is tried
            return (rule, found) if found else None
    return None


def _tags(text: str) -> str | None:
    before, closing, _ = text.rpartition("</answer>")
    before, opening, inner = before.rpartition("<answer>")
    if not (closing and opening):
        return None
    rest, closing, between = before.rpartition("</answer>")
    other = rest.rpartition("<answer>")[2] if closing else None
    return "" if _in_a_row(other, between, inner) else inner.strip()


def _boxed(text: str) -> str | None:
    before, found, rest = text.rpartition("\\boxed{")
    box = _balanced(rest) if found else None
    if box is None:
        return None
    _, found, rest = before.rpartition("\\boxed{")
    other = _balanced(rest) if found else None
    between = "" if other is None else rest[len(other) + 1 :]
    return "" if _in_a_row(other, between, box) else box.strip()


def _balanced(text: str) -> str | None:
    """The text up to the brace that closes the one before it; null if none does."""
    depth = 1
    for position, char in enumerate(text):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[:position]
    return None


def _in_a_row(other: str | None, between: str, last: str) -> bool:
    """Whether the last tag or box and the one before it, `other`, are offered side by side."""
    if other is None or other.strip() == last.strip():
        return False
    return _CONNECTOR.fullmatch(between) is not None


def _hashes(text: str) -> str | None:
    _, found, rest = text.rpartition("####")
    return (rest.strip().partition("\n")[0].strip() or None) if found else None


def _answer_is(text: str) -> str | None:
    markers = list(_MARKER.finditer(text))
    if not markers:
        return None
    rest = text[markers[-1].end() :].strip()
    return rest.partition("\n")[0].strip(" \t*_") or None


def _last_line(text: str) -> str | None:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else None


_FIND = {
    "tags": _tags,
    "boxed": _boxed,
    "hashes": _hashes,
    "answer is": _answer_is,
    "last line": _last_line,
}
