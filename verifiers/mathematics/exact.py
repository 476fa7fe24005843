"""Exact arithmetic on expressions that are rational numbers, and the rule for rounded decimals.

This settles most verdicts: it needs no library, and every step is bounded by `MAX_BITS`.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from verifiers.mathematics.expr import MAX_BITS, Expr, TooLarge, Undefined, walk

MAX_FACTORIAL = 3_000
"""Largest argument of a factorial: 3,000! has 30,375 bits."""
MIN_GOLD_DIGITS = 3
"""Significant digits a decimal gold needs before another value may round to it, or one less if it
has `MIN_GOLD_PLACES`: to one digit 0.54 would pass for 0.5, to two 4.46 for 4.5."""
MIN_GOLD_PLACES = 2
MIN_ANSWER_DIGITS = 8
"""Significant digits with which a decimal stands for an exact gold such as 1/3 or the root of 2:
those of single precision."""


def rational(expr: Expr) -> Fraction | None:
    """The exact value, or null where the expression is not (visibly) a rational number.

    Raises:
        Undefined: it divides by zero.
        TooLarge: numerator or denominator pass `MAX_BITS`.
    """
    if expr.head == "num":
        return expr.data[0]
    values: list[Fraction] = []
    if expr.head not in _OPERATIONS:
        return None
    for arg in expr.args:
        value = rational(arg)
        if value is None:
            return None
        values.append(value)
    result = _OPERATIONS[expr.head](values)
    if result is not None:
        _bounded(result.numerator.bit_length(), result.denominator.bit_length())
    return result


def is_calculation(expr: Expr) -> bool:
    """Whether it still adds, subtracts or multiplies rational numbers: `6 \\times 7`, not `3/4`,
    `2^{10}` or `3 + 4i`."""
    return any(
        node.head in ("add", "mul", "pm", "mp")
        and sum(rational(arg) is not None for arg in node.args) > 1
        for node in walk(expr)
    )


def literal(expr: Expr) -> tuple[Fraction, Fraction | None] | None:
    """Value and unit of the last decimal place of a number literal with its sign, else null."""
    if expr.head == "num":
        return expr.data
    if expr.head == "neg" and expr.args[0].head == "num":
        value, ulp = expr.args[0].data
        return -value, ulp
    return None


def rounds(gold: Any, answer: Any, gold_ulp: Fraction | None, answer_ulp: Fraction | None) -> bool:
    """Whether one of two different values is the other, rounded as far as we accept it.

    * A decimal gold with enough significant digits (see `MIN_GOLD_DIGITS`) accepts exact values and
      decimals with more places that round to it (a half may go either way): 3.14 accepts 3.14159
      and 22/7, not 3.1. With two digits, values of another order of magnitude never round to it.
    * An exact gold that is no integer accepts a decimal of at least `MIN_ANSWER_DIGITS`
      significant digits, rounded or cut: 1/3 accepts 0.33333333, not 0.333.
    * An integer gold accepts nothing but its value.

    Args:
        gold, answer: their values, fractions or mpmath numbers.
        gold_ulp, answer_ulp: unit of the last decimal place, null for an exact value.
    """
    if gold_ulp is not None:
        has_places = gold_ulp.denominator >= 10**MIN_GOLD_PLACES
        if _digits(gold, gold_ulp) < MIN_GOLD_DIGITS - has_places:
            return False
        if answer_ulp is not None and answer_ulp >= gold_ulp:
            return False
        return abs(answer - gold) * 2 * gold_ulp.denominator <= gold_ulp.numerator
    if answer_ulp is None or gold == int(gold):
        return False
    if _digits(answer, answer_ulp) < MIN_ANSWER_DIGITS:
        return False
    error = abs(answer - gold) * answer_ulp.denominator
    if abs(answer) > abs(gold):
        error *= 2  # rounded up: by half a unit at most; cut: by a whole one
    return error < answer_ulp.numerator


def _digits(value: Any, ulp: Fraction) -> int:
    """Significant digits of a literal: 0.0033 with unit 0.0001 has two."""
    units = int(abs(value) * ulp.denominator * 2 / ulp.numerator + 1) // 2
    return len(str(units)) if units else 0


def _bounded(*bits: int) -> None:
    if max(bits) > MAX_BITS:
        raise TooLarge(f"a number has more than {MAX_BITS} bits")


def _divide(values: list[Fraction]) -> Fraction:
    top, bottom = values
    if bottom == 0:
        raise Undefined("a division by zero")
    return top / bottom


def _product(values: list[Fraction]) -> Fraction:
    result = Fraction(1)
    for value in values:
        result *= value
    return result


def _power(values: list[Fraction]) -> Fraction | None:
    base, exponent = values
    if exponent.denominator != 1:
        root = _exact_root(base, exponent.denominator)
        if root is None:
            return None
        base, exponent = root, Fraction(exponent.numerator)
    if base == 0:
        if exponent <= 0:
            raise Undefined("zero to a power that is not positive")
        return base
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1:
        _bounded(bits * abs(int(exponent)))
    else:
        exponent %= 2
    return base ** int(exponent)


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The rational root of a positive rational, where there is one. Degrees up to ten."""
    if value < 0 or degree > 10:
        return None
    top, bottom = (_integer_root(part, degree) for part in (value.numerator, value.denominator))
    return None if top is None or bottom is None else Fraction(top, bottom)


def _integer_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = math.isqrt(value)
    else:
        root = 1 << -(-value.bit_length() // degree)  # from above, Newton only comes down
        while (below := ((degree - 1) * root + value // root ** (degree - 1)) // degree) < root:
            root = below
    return root if root**degree == value else None


def _factorial(values: list[Fraction]) -> Fraction:
    (value,) = values
    if value.denominator != 1 or value < 0:
        raise Undefined("a factorial of a number that is no natural one")
    if value > MAX_FACTORIAL:
        raise TooLarge(f"a factorial of more than {MAX_FACTORIAL}")
    return Fraction(math.factorial(int(value)))


def _binomial(values: list[Fraction]) -> Fraction:
    top, bottom = values
    if top.denominator != 1 or bottom.denominator != 1 or top < 0 or bottom < 0:
        raise Undefined("a binomial of numbers that are not natural ones")
    if top > MAX_FACTORIAL:
        raise TooLarge(f"a binomial of more than {MAX_FACTORIAL}")
    return Fraction(math.comb(int(top), int(bottom)))


_OPERATIONS = {
    "neg": lambda values: -values[0],
    "abs": lambda values: abs(values[0]),
    "floor": lambda values: Fraction(math.floor(values[0])),
    "ceil": lambda values: Fraction(math.ceil(values[0])),
    "percent": lambda values: values[0] / 100,
    "add": lambda values: sum(values, Fraction(0)),
    "mul": _product,
    "div": _divide,
    "pow": _power,
    "fact": _factorial,
    "binom": _binomial,
}
