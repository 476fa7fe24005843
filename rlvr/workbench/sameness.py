r"""Whether two answers may be the same, told without the verifier under test.

A mutated gold that happens to equal the gold (`0` negated, `\frac{3}{3}` turned over) is no
mutant. The judgement here errs on one side only: what it calls different is different, or cannot be
read by it and is spelled differently.

Answers are read as a list of expressions (brackets, relations and separators apart), each evaluated
in floating point at two points of its letters. Two answers may be the same when those values agree
as multisets: order, bracket types and relation signs are not looked at.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable

from verifiers.number import parse_number

MAX_CHARS = 400
"""Longer answers are compared as text only."""

_POINTS = (0.7548776662, 1.3247179572)
"""Two irrational-looking numbers that the letters' values are spread around."""
_CONSTANTS = {"\\pi": math.pi, "e": math.e, "i": 1j, "\\infty": 1e300}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "\\sin": cmath.sin,
    "\\cos": cmath.cos,
    "\\tan": cmath.tan,
    "\\ln": cmath.log,
    "\\log": cmath.log10,
    "\\exp": cmath.exp,
}
_SEPARATORS = frozenset(
    {",", ";", "=", "<", ">", "&", ":", "\\\\", "\\le", "\\leq", "\\ge", "\\geq", "\\cup", "\\in"}
)
_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_DROPPED = re.compile(
    r"\$|\\left|\\right|\\[!,;: ]|\\q?quad|~|\^\\circ|\^\{\\circ\}|\N{DEGREE SIGN}|\\?%|\\\$"
    r"|\\begin\{[a-z]*\}|\\end\{[a-z]*\}|\s+(?![A-Za-z])|(?<![A-Za-z])\s+"
)
_REWRITTEN = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:cdot|times)(?![A-Za-z])"), "*"),
    (re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\([{}])"), r"\1"),
    (re.compile(r"\{,\}"), ""),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"[\N{MINUS SIGN}\N{EN DASH}]"), "-"),
)
_LEFT_SIDE = re.compile(r"^\$?[A-Za-z](?:\([a-z]\))?\s*(?:=|\\in(?![a-z]))\s*")
_UNIT = re.compile(r"(?<=[0-9}%])(?:\s+[a-z]{2,}|\s*\\(?:text|mbox|mathrm)\{[^{}]*\})+\.?$")
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\\\|[A-Za-z]|[-+*/^()\[\]{},;=<>&:_]")


def may_be_same(one: str, other: str) -> bool:
    """False only if the two answers are certainly different, or unreadable and spelled apart."""
    if _spelling(one) == _spelling(other):
        return True
    numbers = parse_number(one), parse_number(other)
    if None not in numbers and "%" not in one + other:
        return numbers[0] == numbers[1]
    return any(
        _same_values(values(bare_one), values(bare_other))
        for bare_one, bare_other in zip(_bare(one), _bare(other), strict=True)
    )


def far_apart(one: str, other: str) -> bool:
    """Certainly different, and not by a rounding, a percent sign or a unit either."""
    if may_be_same(one, other):
        return False
    first, second = values(_bare(one)[1]), values(_bare(other)[1])
    if first is None or second is None or len(first) != len(second):
        return True
    factors = (1, 100, 0.01) if "%" in one + other else (1,)
    return not any(
        all(
            cmath.isclose(a[0] * factor, b[0], rel_tol=0.05)
            for a, b in zip(first, second, strict=True)
        )
        for factor in factors
    )


def _bare(answer: str) -> tuple[str, str]:
    """The answer, and the answer without `x =` before it and a unit behind it."""
    without = _LEFT_SIDE.sub("", answer.strip())
    return answer, _UNIT.sub("", without) or answer


def _same_values(
    first: list[tuple[complex, complex]] | None, second: list[tuple[complex, complex]] | None
) -> bool:
    if first is None or second is None or len(first) != len(second):
        return False
    left = list(second)
    for value in first:
        match = next((each for each in left if _close(value, each)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def values(answer: str) -> list[tuple[complex, complex]] | None:
    """Each expression of the answer at two points of its letters; null if it cannot be read."""
    if len(answer) > MAX_CHARS:
        return None
    text = _plain(answer)
    tokens = _TOKEN.findall(text)
    if not tokens or sum(map(len, tokens)) != len(re.sub(r"\s", "", text)):
        return None
    try:
        at_points = [_Evaluator(tokens, point).run() for point in _POINTS]
    except (ValueError, ArithmeticError, RecursionError):
        return None
    return list(zip(*at_points, strict=True)) if len({*map(len, at_points)}) == 1 else None


def _spelling(answer: str) -> str:
    return re.sub(r"\s", "", _plain(answer)).rstrip(".").casefold()


def _plain(answer: str) -> str:
    for pattern, replacement in _REWRITTEN:
        answer = pattern.sub(replacement, answer)
    return _DROPPED.sub("", answer.strip())


def _close(one: tuple[complex, complex], other: tuple[complex, complex]) -> bool:
    return all(
        cmath.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(one, other, strict=True)
    )


class _Evaluator:
    """Recursive descent over the tokens of a LaTeX or plain expression, in floating point.

    Raises ValueError on what it does not know, ArithmeticError where there is no value.
    """

    def __init__(self, tokens: list[str], point: float) -> None:
        self._tokens = tokens
        self._at = 0
        self._point = point

    def run(self) -> list[complex]:
        found: list[complex] = []
        while self._at < len(self._tokens):
            if self._peek() in _SEPARATORS:
                self._at += 1
            else:
                found += self._sum()
        if not found:
            raise ValueError("no expression")
        return found

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _sum(self) -> list[complex]:
        """One expression; several values when it is a bracketed list and nothing else."""
        total = self._product()
        while self._peek() in ("+", "-") and self._peek():
            sign = 1 if self._take() == "+" else -1
            total = [_one(total) + sign * _one(self._product())]
        return total

    def _product(self) -> list[complex]:
        total = self._signed()
        while True:
            token = self._peek()
            if token in ("*", "/"):
                self._at += 1
                factor = _one(self._signed())
                total = [_one(total) * factor if token == "*" else _one(total) / factor]
            elif token and token not in _SEPARATORS | _CLOSING and token not in "+-^_":
                total = [_one(total) * _one(self._signed())]
            else:
                return total

    def _signed(self) -> list[complex]:
        if self._peek() in ("+", "-") and self._peek():
            sign = 1 if self._take() == "+" else -1
            return [sign * _one(self._signed())]
        base = self._atom()
        if self._peek() == "^":
            self._at += 1
            exponent = self._signed() if self._peek() in ("+", "-") else self._atom()
            return [complex(_one(base)) ** _one(exponent)]
        return base

    def _atom(self) -> list[complex]:
        token = self._take()
        if token in _OPENING:
            return self._bracket()
        if token == "\\frac":
            return [_one(self._argument()) / _one(self._argument())]
        if token == "\\sqrt":
            degree: complex = 2
            if self._peek() == "[":
                self._at += 1
                degree = _one(self._bracket())
            return [complex(_one(self._argument())) ** (1 / degree)]
        if token in _FUNCTIONS:
            return [_FUNCTIONS[token](_one(self._signed()))]
        if token in _CONSTANTS:
            return [_CONSTANTS[token]]
        if token[:1].isdigit() or token[:1] == ".":
            return [complex(float(token))]
        if token.isalpha() or _GREEK.fullmatch(token):
            return [self._point + 7 * (sum(map(ord, token)) * 0.6180339887 % 1)]
        raise ValueError(f"cannot read {token!r}")

    def _argument(self) -> list[complex]:
        r"""Of `\frac` and `\sqrt`: a group, or (as in TeX) the next digit alone."""
        token = self._peek()
        if token.isdigit() and len(token) > 1:
            self._tokens[self._at : self._at + 1] = [token[0], token[1:]]
        return self._atom()

    def _bracket(self) -> list[complex]:
        found: list[complex] = []
        while self._peek() not in _CLOSING:
            if self._at >= len(self._tokens):
                raise ValueError("unclosed bracket")
            if self._peek() in _SEPARATORS:
                self._at += 1
            else:
                found += self._sum()
        self._at += 1
        if not found:
            raise ValueError("empty bracket")
        return found


_GREEK = re.compile(
    r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|rho|sigma|tau|phi|varphi|omega)"
)


def _one(found: list[complex]) -> complex:
    if len(found) != 1:
        raise ValueError("a list within an expression")
    return found[0]
