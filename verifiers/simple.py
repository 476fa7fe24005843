"""Verifiers for short answers: `exact` text, multiple `choice`, `numeric` with a tolerance.

Where `exact` and `choice` look for the answer: `verifiers.answer_text`; `numeric`:
`verifiers.number`. All take linear time.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import isfinite
from typing import Any, Literal

from verifiers.answer_text import MAX_SHOWN_CHARS, after_thinking, find_answer
from verifiers.errors import VerifierLoadError
from verifiers.number import extract, parse_number
from verifiers.problem import Problem
from verifiers.verdict import Verdict

_DECORATION = " \t\n*_`\"'\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class ExactVerifier:
    """Correct if the answer is the gold, letter by letter.

    Both are first brought to one Unicode form (NFKC), runs of white space become one space, and
    quotes, `*`, `_`, back-ticks around them and one final period are dropped.

    Args:
        where: `answer` by the rules of `verifiers.answer_text`, or the `whole` completion.
        ignore_case: compare without regard to case.
        ignore_punctuation: drop all ASCII punctuation.
        accept_field: metadata field with a list of further right answers.
    """

    name = "exact"
    in_process = True

    def __init__(
        self,
        *,
        where: Literal["answer", "whole"] = "answer",
        ignore_case: bool = False,
        ignore_punctuation: bool = False,
        accept_field: str | None = None,
    ) -> None:
        if where not in ("answer", "whole"):
            raise VerifierLoadError(f"exact: where is {where!r}, expected answer or whole")
        self._where = where
        self._ignore_case = ignore_case
        self._ignore_punctuation = ignore_punctuation
        self._accept_field = accept_field

    def verify(self, problem: Problem, completion: str) -> Verdict:
        golds = [] if problem.answer is None else [problem.answer]
        if self._accept_field is not None:
            golds += [str(gold) for gold in problem.metadata.get(self._accept_field) or []]
        wanted = {self._normal(gold) for gold in golds} - {""}
        if not wanted:
            return _no_gold(problem)
        if self._where == "whole":
            text = after_thinking(completion)
            found = None if text is None else ("whole", text.strip())
        else:
            found = find_answer(completion)
        if found is None or not self._normal(found[1]):
            return Verdict.no_answer()
        rule, answer = found
        detail: dict[str, Any] = {"extracted": answer[:MAX_SHOWN_CHARS], "rule": rule}
        return (Verdict.correct if self._normal(answer) in wanted else Verdict.incorrect)(**detail)

    def _normal(self, text: str) -> str:
        text = " ".join(unicodedata.normalize("NFKC", text).split())
        text = text.strip(_DECORATION).removesuffix(".").strip(_DECORATION)
        if self._ignore_punctuation:
            text = " ".join(text.translate(_PUNCTUATION).split())
        return text.casefold() if self._ignore_case else text


_LABEL = re.compile(r"(?<![A-Za-z0-9'])(\(?)([A-Z])(?![A-Za-z0-9'])([).:]?)")
_LOWER_WORD = re.compile(r" (?!(?:or|and)\b)[a-z]")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s?\{([^{}]*)\}")


class ChoiceVerifier:
    """Multiple choice: correct if the answer names the gold's label, and no other.

    `B`, `(B)`, `B.`, `B) Paris`, `option B`, `\\text{(B)}` and the text of option B all name B.
    "B or C" is `no_answer`. The gold is a label or an option's text.

    Args:
        choices_field: metadata field with the options: a list (labelled A, B, ...) or a table of
            label to text. Without one, labels are A to J and only labels can be recognised.
    """

    name = "choice"
    in_process = True

    def __init__(self, *, choices_field: str = "choices") -> None:
        self._choices_field = choices_field

    def verify(self, problem: Problem, completion: str) -> Verdict:
        options = _options(problem.metadata.get(self._choices_field))
        gold = None if problem.answer is None else _label(problem.answer, options)
        if gold is None:
            return _no_gold(problem, " as a label or an option's text")
        found = find_answer(completion)
        if found is None:
            return Verdict.no_answer()
        rule, answer = found
        label = _label(answer, options)
        detail: dict[str, Any] = {"extracted": answer[:MAX_SHOWN_CHARS], "rule": rule}
        if label is None:
            return Verdict.no_answer(**detail)
        return (Verdict.correct if label == gold else Verdict.incorrect)(**detail, label=label)


def _options(choices: Any) -> dict[str, str]:
    if isinstance(choices, Mapping):
        return {str(label).strip().upper(): str(text) for label, text in choices.items()}
    if isinstance(choices, Sequence) and not isinstance(choices, str):
        return {chr(ord("A") + k): str(text) for k, text in enumerate(choices[:26])}
    return dict.fromkeys("ABCDEFGHIJ", "")


def _label(answer: str, options: Mapping[str, str]) -> str | None:
    """The one label an answer names; null if it names none, or several."""
    answer = _LATEX_TEXT.sub(r"\1", answer).replace("$", "").strip(_DECORATION)
    single = answer.strip("().: ")
    if len(single) == 1 and single.upper() in options:
        return single.upper()
    plain = _words(answer)
    same = [label for label, text in options.items() if plain and _words(text) == plain]
    if len(same) == 1:
        return same[0]
    marks = [mark for mark in _LABEL.finditer(answer) if mark[2] in options]
    marks = [m for m in marks if m[1] or m[3] or not _is_article(m, answer)]
    labels = {mark[2] for mark in marks}
    if len(labels) == 1:
        return labels.pop()
    if marks and marks[0].start() == 0 and (marks[0][1] or marks[0][3]):
        # "B. Vitamin C", but not "B) Paris or C) London" nor "B. or C."
        label = marks[0][2]
        rest = _words(answer[marks[0].end() :])
        marked = {mark[2] for mark in marks[1:] if mark[1] or mark[3]}
        if rest == _words(options[label]) or (not marked - {label} and not _joins(rest)):
            return label
    return None


def _is_article(mark: re.Match[str], answer: str) -> bool:
    return mark[2] == "A" and _LOWER_WORD.match(answer, mark.end()) is not None


def _joins(rest: str) -> bool:
    return bool({"or", "and", "either", "both"} & set(rest.split()))


def _words(text: str) -> str:
    return " ".join(text.casefold().translate(_PUNCTUATION).split())


_TIMES_TEN = re.compile(
    r"([0-9])\s?(?:\\times|\\cdot|[\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}x*])\s?10\s?"
    r"(?:(?:\^|\*\*)\s?\{?\s?([+-\N{MINUS SIGN}]?[0-9]{1,4})\s?\}?"
    r"|([\N{SUPERSCRIPT MINUS}]?[\N{SUPERSCRIPT ZERO}\N{SUPERSCRIPT ONE}\N{SUPERSCRIPT TWO}"
    r"\N{SUPERSCRIPT THREE}\N{SUPERSCRIPT FOUR}-\N{SUPERSCRIPT NINE}]{1,4}))"
)


class NumericVerifier:
    """Correct if |answer - gold| <= max(abs_tol, rel_tol |gold|).

    The tolerance is of the gold, so that no huge answer widens it; arithmetic is exact (fractions).
    The number is looked for as by `number`; `6.02 \\times 10^{23}` is one too.

    Args:
        rel_tol: relative tolerance.
        abs_tol: absolute tolerance; needed where the gold can be 0.
    """

    name = "numeric"
    in_process = True

    def __init__(self, *, rel_tol: float = 1e-6, abs_tol: float = 0.0) -> None:
        for key, value in (("rel_tol", rel_tol), ("abs_tol", abs_tol)):
            if not (isfinite(value) and value >= 0):
                raise VerifierLoadError(f"numeric: {key} is {value!r}, expected 0 or more")
        self._rel_tol = Fraction(rel_tol)
        self._abs_tol = Fraction(abs_tol)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        gold = parse_number(_one_literal(problem.answer or ""))
        if gold is None:
            return _no_gold(problem, " as a number")
        found = extract(_one_literal(completion))
        if found is None:
            return Verdict.no_answer()
        rule, text = found
        detail: dict[str, Any] = {"extracted": text[:MAX_SHOWN_CHARS], "rule": rule}
        value = parse_number(text)
        if value is None:
            return Verdict.incorrect(**detail)
        close = abs(value - gold) <= max(self._abs_tol, self._rel_tol * abs(gold))
        return (Verdict.correct if close else Verdict.incorrect)(**detail)


def _one_literal(text: str) -> str:
    r"""`6.02 \times 10^{23}` as `6.02e23`."""

    def literal(match: re.Match[str]) -> str:
        exponent = unicodedata.normalize("NFKC", match[2] or match[3])
        return f"{match[1]}e{exponent.replace(chr(0x2212), '-')}"

    return _TIMES_TEN.sub(literal, text)


def _no_gold(problem: Problem, as_what: str = "") -> Verdict:
    return Verdict.error(
        reason=f"problem {problem.id!r} has no gold answer that can be read{as_what}: "
        f"{(problem.answer or '')[:MAX_SHOWN_CHARS]!r}",
        permanent=True,
    )
