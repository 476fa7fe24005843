"""Subsets of the real line as sorted, disjoint intervals: what intervals, unions, inequalities and
finite sets have in common, so that `(-2, 3]`, `-2 < x \\le 3` and `x + 2 > 0` can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from verifiers.mathematics.expr import Expr, Undefined, num, symbols

Endpoint = Fraction | float
"""A fraction, or plus or minus infinity as a float."""


class Piece(NamedTuple):
    """One interval; a point is closed on both sides with equal ends."""

    low: Endpoint
    high: Endpoint
    low_open: bool
    high_open: bool


Region = tuple[Piece, ...]
LINE: Region = (Piece(-math.inf, math.inf, True, True),)
_FLIPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le", "ne": "ne"}
REGION_HEADS = frozenset(["interval", "union", "meet", "minus", "or", "and", "reals", "empty"])


class NotLinear(Exception):
    """The inequality is not linear in its one variable."""


def is_region(expr: Expr) -> bool:
    """Whether it can only be read as a subset of the line. A pair `(a, b)` can, but need not."""
    return expr.head in REGION_HEADS or is_inequality(expr)


def is_inequality(expr: Expr) -> bool:
    return expr.head == "rel" and all(op in _FLIPPED for op in expr.data)


def to_region(expr: Expr, number: Callable[[Expr], Fraction]) -> Region:
    """The subset of the line that an expression describes.

    Args:
        number: gives the value of a real constant.

    Raises:
        Undefined: it is no such subset.
        NotLinear: it has an inequality that is not linear.
    """
    head, args = expr.head, expr.args
    if head == "reals":
        return LINE
    if head == "empty":
        return ()
    if head == "set":
        return merge([_point(number(arg)) for arg in args])
    if head in ("interval", "tuple"):
        if len(args) != 2:
            raise Undefined("a tuple that is no interval")
        low_open, high_open = expr.data if head == "interval" else (True, True)
        return _interval(_end(args[0], number), _end(args[1], number), low_open, high_open)
    if head in ("union", "or"):
        return merge([piece for arg in args for piece in to_region(arg, number)])
    if head in ("meet", "and"):
        result = LINE
        for arg in args:
            result = intersect(result, to_region(arg, number))
        return result
    if head == "minus":
        result = to_region(args[0], number)
        for arg in args[1:]:
            result = intersect(result, complement(to_region(arg, number)))
        return result
    if head == "rel" and expr.data == ("in",):
        return to_region(args[1], number)
    if head == "rel" and (is_inequality(expr) or expr.data == ("eq",)):
        result = LINE
        for operator, left, right in zip(expr.data, args, args[1:], strict=False):
            result = intersect(result, _half_line(operator, left, right, expr, number))
        return result
    raise Undefined(f"{head} is no subset of the line")


def merge(pieces: Sequence[Piece]) -> Region:
    """The union, with touching pieces joined."""
    result: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.low, piece.low_open)):
        last = result[-1] if result else None
        if last is None or not _touches(last, piece):
            result.append(piece)
        elif (piece.high, not piece.high_open) > (last.high, not last.high_open):
            result[-1] = Piece(last.low, piece.high, last.low_open, piece.high_open)
    return tuple(result)


def intersect(first: Region, second: Region) -> Region:
    found: list[Piece] = []
    for a in first:
        for b in second:
            low, low_open = max((a.low, a.low_open), (b.low, b.low_open))
            high, high_closed = min((a.high, not a.high_open), (b.high, not b.high_open))
            found.extend(_interval(low, high, low_open, not high_closed))
    return merge(found)


def complement(region: Region) -> Region:
    pieces: list[Piece] = []
    low: Endpoint = -math.inf
    low_open = True
    for piece in region:
        pieces.extend(_interval(low, piece.low, low_open, not piece.low_open))
        low, low_open = piece.high, not piece.high_open
    pieces.extend(_interval(low, math.inf, low_open, True))
    return merge(pieces)


def substitute(expr: Expr, name: str, value: Expr) -> Expr:
    if expr.head == "sym":
        return value if expr.data == name else expr
    if not expr.args:
        return expr
    return Expr(expr.head, tuple(substitute(arg, name, value) for arg in expr.args), expr.data)


def _half_line(
    operator: str, left: Expr, right: Expr, whole: Expr, number: Callable[[Expr], Fraction]
) -> Region:
    names = symbols(whole)
    if len(names) != 1:
        raise Undefined("an inequality in several variables")
    (name,) = names

    def at(x: Fraction | int) -> Fraction:
        value = num(x)
        try:
            return number(substitute(left, name, value)) - number(substitute(right, name, value))
        except Undefined:  # a pole
            raise NotLinear(name) from None

    if left.head == "oo" or right.args[:1] == (Expr("oo"),) or right.head == "oo":
        return LINE  # `-oo < x`, `x < oo`
    if left.head == "neg" and left.args[0].head == "oo":
        return LINE
    start = at(0)
    slope = at(1) - start
    if any(abs(at(x) - start - slope * x) > _TOLERANCE for x in (Fraction(5, 2), -3, 7)):
        raise NotLinear(name)
    if slope == 0:
        raise Undefined("an inequality without its variable")
    if slope < 0:
        operator = _FLIPPED.get(operator, operator)
    root = -start / slope
    if operator == "eq":
        return (_point(root),)
    if operator == "ne":
        return complement((_point(root),))
    if operator in ("lt", "le"):
        return (Piece(-math.inf, root, True, operator == "lt"),)
    return (Piece(root, math.inf, operator == "gt", True),)


_TOLERANCE = Fraction(1, 10**30)
"""For constants that are not rational: those come rounded to many more digits."""


def _point(value: Fraction) -> Piece:
    return Piece(value, value, False, False)


def _interval(low: Endpoint, high: Endpoint, low_open: bool, high_open: bool) -> Region:
    low_open, high_open = low_open or low == -math.inf, high_open or high == math.inf
    if low > high or (low == high and (low_open or high_open)):
        return ()
    return (Piece(low, high, low_open, high_open),)


def _end(expr: Expr, number: Callable[[Expr], Fraction]) -> Endpoint:
    if expr.head == "oo":
        return math.inf
    if expr.head == "neg" and expr.args[0].head == "oo":
        return -math.inf
    return number(expr)


def _touches(first: Piece, second: Piece) -> bool:
    if second.low != first.high:
        return second.low < first.high
    return not (first.high_open and second.low_open)
