r"""Exact-number answers: GSM8K, arithmetic, and whatever else ends in one number.

Where the answer is looked for, first match wins (text up to the last `</think>` is left out, and
an unclosed `<think>` holds no answer):

1. `boxed`: the last `\boxed{...}`, which must hold one number and nothing else but a unit in
   `\text{}`,
2. `hashes`: the number right after the last `####` that has one (a numbered heading has none),
3. `answer is`: on the line of the last "answer is", "answer:" or "answer =", the first number
   after it, or after the line's last `=`,
4. `last number`: the last number of the text.

What a number is: ASCII digits with commas in threes or without (`1,234`; not `1,23`), a decimal
point, an exponent (`1e5`), a fraction `a/b` or `\frac{a}{b}`; a sign that touches it (`+`, `-`,
U+2212, en dash) and does not follow a digit, letter or bracket, so that "10-3" ends in 3. Currency
and percent signs around it are dropped from gold and answer alike, without scaling: `50%` equals
`50`, not `0.5`. Values are compared as exact fractions: `3.0` equals `3`, `0.5` equals `1/2`,
`0.333` does not equal `1/3`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from verifiers.problem import Problem
from verifiers.verdict import Verdict

MAX_NUMBER_CHARS = 1_000
"""Longer literals are not numbers: exact arithmetic on them takes more than linear time."""
MAX_EXPONENT = 1_000
"""Larger exponents are not numbers: `1e999999999` would take all memory."""
MAX_SHOWN_CHARS = 100
"""Longest piece of a completion in a verdict's detail."""

_MINUS_SIGNS = str.maketrans(
    dict.fromkeys("\N{MINUS SIGN}\N{EN DASH}\N{FULLWIDTH HYPHEN-MINUS}", "-")
)
_LATEX = (
    (re.compile(r"\\!|(?<=[0-9])\\,(?=[0-9]{3})"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"\\[dt]?frac\s?\{\s?([0-9]{1,100})\s?\}\s?\{\s?([0-9]{1,100})\s?\}"), r"\1/\2"),
)
_UNIT = re.compile(r"\s?\\(?:text|mathrm)\{[^{}0-9]*\}$")

_SIGN = r"(?:(?<![0-9A-Za-z)\]}])[+-])?"
_CURRENCY = "[$£€¥₹]?"
_TOKEN = r"(?:[0-9]+(?:[.,][0-9]+)*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_START = r"(?<![0-9A-Za-z_])(?<![0-9][.,])"  # not within an identifier or a longer literal
_NUMBER = rf"{_SIGN}{_CURRENCY}{_SIGN}{_START}{_TOKEN}(?:/{_TOKEN})?"
_FIND = re.compile(_NUMBER)
_HASHES = re.compile(rf"####[ \t]*({_NUMBER})(?![.):]\s*\S)")
_ANSWER_IS = re.compile(r"\banswer(?:\s+is\b|\s?[:=])", re.IGNORECASE)
_WHOLE = re.compile(
    rf"(?P<sign>[+-]?)\s?{_CURRENCY}\s?(?P<inner>[+-]?)(?P<top>{_TOKEN})(?:/(?P<bottom>{_TOKEN}))?"
    r"\s?[$£€¥₹%]?\.?"
)
_LITERAL = re.compile(
    r"(?:[0-9]+|[1-9][0-9]{0,2}(?:,[0-9]{3})+)?(?:\.[0-9]+)?(?:[eE]([+-]?[0-9]+))?"
)


class NumberVerifier:
    """Correct if and only if the completion's number equals the gold exactly.

    `problem.answer` must itself be one number; otherwise the verdict is `error`.

    Args:
        strict: the whole completion, white space apart, must be the number; otherwise `no_answer`.
    """

    name = "number"
    in_process = True  # linear-time patterns, bounded arithmetic, no imports: nothing to kill

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict

    def verify(self, problem: Problem, completion: str) -> Verdict:
        gold = None if problem.answer is None else parse_number(problem.answer)
        if gold is None:
            return Verdict.error(
                reason=f"the gold answer of problem {problem.id!r} is not a number: "
                f"{(problem.answer or '')[:MAX_SHOWN_CHARS]!r} (data.answer_regex can extract one)",
                permanent=True,
            )
        found = ("strict", completion.strip()) if self.strict else extract(completion)
        if found is None:
            return Verdict.no_answer()
        rule, text = found
        value = parse_number(text)
        detail: dict[str, Any] = {"extracted": text[:MAX_SHOWN_CHARS], "rule": rule}
        if value is None and self.strict:
            return Verdict.no_answer(**detail)
        return Verdict.correct(**detail) if value == gold else Verdict.incorrect(**detail)


def extract(completion: str) -> tuple[str, str] | None:
    """The rule that found an answer and the text it found (not necessarily a valid number)."""
    text = _plain(completion.rpartition("</think>")[2])
    if "<think>" in text:
        return None
    boxed = _last_boxed(text)
    if boxed:
        return "boxed", boxed
    hashes = _HASHES.findall(text)
    if hashes:
        return "hashes", hashes[-1]
    for marker in list(_ANSWER_IS.finditer(text))[-1:]:
        line = text[marker.end() :].partition("\n")[0]
        number = _FIND.search(line.rpartition("=")[2]) or _FIND.search(line)
        if number:
            return "answer is", number.group()
    numbers = _FIND.findall(text)
    return ("last number", numbers[-1]) if numbers else None


def parse_number(text: str) -> Fraction | None:
    """The exact value of a text that is one number (see the module's grammar), else null."""
    match = _WHOLE.fullmatch(_plain(text).strip())
    if match is None or (match["sign"] and match["inner"]):
        return None
    top = _value(match["top"])
    bottom = Fraction(1) if match["bottom"] is None else _value(match["bottom"])
    if top is None or not bottom:
        return None
    return (-top if "-" in (match["sign"], match["inner"]) else top) / bottom


def _value(token: str) -> Fraction | None:
    literal = _LITERAL.fullmatch(token)
    if literal is None or len(token) > MAX_NUMBER_CHARS:
        return None
    if literal[1] is not None and abs(int(literal[1])) > MAX_EXPONENT:
        return None
    return Fraction(token.replace(",", ""))


def _plain(text: str) -> str:
    """Minus signs unified, and the LaTeX spellings of one number resolved."""
    text = text.translate(_MINUS_SIGNS)
    if "\\" in text or "{,}" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return text


def _last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, its unit dropped; null if it is empty or not closed.

    Only the last one is tried, so that a text full of unclosed ones costs no more than its length.
    """
    _, found, rest = text.rpartition("\\boxed{")
    depth = 1
    for position, char in enumerate(rest if found else ""):
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return _UNIT.sub("", rest[:position]).strip() or None
    return None
