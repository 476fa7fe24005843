"""Expressions as the parser builds them, and the limits within which everything stays bounded.

An `Expr` is a plain tree. Heads:

| head | args | data |
|---|---|---|
| `num` | | (value, ulp): an exact fraction; the unit of the last decimal place, null if exact |
| `sym` | | its name; `pi`, `e`, `i` are constants |
| `oo`, `reals`, `empty` | | |
| `add` | terms | |
| `neg`, `abs`, `floor`, `ceil`, `fact`, `percent`, `deg` | one | |
| `mul` | factors | |
| `div`, `pow`, `binom` | two | |
| `fn` | arguments | its name (`sin`, `log` with the base as second argument, ...) |
| `apply` | arguments | name of an unknown function: `f(x)` |
| `pm`, `mp` | one or two | |
| `base` | | (digits, base) |
| `tuple`, `list`, `set`, `ratio` | items | |
| `interval` | two | (left end open, right end open) |
| `union`, `meet`, `minus` | two or more | |
| `or`, `and` | relations | |
| `matrix` | cells, row by row | (rows, columns) |
| `rel` | members | operators between them: `eq ne lt le gt ge approx in` |
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

MAX_CHARS = 2_000
"""Longest answer that is read. The longest gold of MATH has under 300 characters."""
MAX_DEPTH = 40
"""Deepest nesting. A level costs about ten Python frames, the interpreter allows a thousand."""
MAX_TREE_DEPTH = 150
"""Deepest tree: functions over trees take up to three Python frames a level."""
MAX_DIGITS = 400
"""Longest number literal: exact arithmetic on longer ones takes more than linear time."""
MAX_BITS = 40_000
"""Largest exact numerator or denominator (about 12,000 digits): powers and factorials stop here."""
MAX_ITEMS = 200
"""Longest list, set or matrix: comparing unordered ones takes quadratic time."""
MAX_EXPONENT = 10_000
"""Largest decimal exponent of a number in floating point: `9^{9^{9}}` has 369,693,100."""


class ParseError(ValueError):
    """The text is not an expression we can read."""


class TooLarge(Exception):
    """The expression passes one of the limits above."""


class Undefined(Exception):
    """The expression has no value: a division by zero, an endpoint that is not real."""


class Expr(NamedTuple):
    """A node; equality is structural."""

    head: str
    args: tuple[Expr, ...] = ()
    data: Any = None


def num(value: Fraction | int, ulp: Fraction | None = None) -> Expr:
    return Expr("num", (), (Fraction(value), ulp))


def neg(expr: Expr) -> Expr:
    return Expr("neg", (expr,))


CONSTANTS = ("pi", "e", "i")


def walk(expr: Expr) -> Iterator[Expr]:
    yield expr
    for arg in expr.args:
        yield from walk(arg)


def symbols(expr: Expr) -> frozenset[str]:
    """Names of the variables and of the unknown functions."""
    return frozenset(
        node.data
        for node in walk(expr)
        if (node.head == "sym" and node.data not in CONSTANTS) or node.head == "apply"
    )
