"""Inequalities that are not linear, solved by sympy: `x^2 < 4`, `|x - 1| \\ge 3`.

Only a worker process imports this; sympy may take arbitrarily long, and is then killed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import sympy

from verifiers.mathematics.expr import Expr, TooLarge, Undefined, symbols
from verifiers.mathematics.numeric import quantized
from verifiers.mathematics.regions import LINE, Piece, Region, intersect, merge

MAX_DEGREE = 50
"""Largest integer power handed to sympy."""

_RELATIONS = {
    "lt": sympy.Lt, "le": sympy.Le, "gt": sympy.Gt, "ge": sympy.Ge, "ne": sympy.Ne, "eq": sympy.Eq,
}  # fmt: skip
_FUNCTIONS = {
    name: getattr(sympy, name) for name in ("sin", "cos", "tan", "exp", "asin", "acos", "atan")
} | {"ln": sympy.log, "log": lambda v, base=10: sympy.log(v, base)}


def solve(expr: Expr, number: Callable[[Expr], Fraction]) -> Region:
    """The solutions of a chain of inequalities in one variable.

    Raises:
        Undefined: sympy cannot solve it, or it has more than finitely many pieces.
    """
    if expr.head in ("or", "and"):
        regions = [solve(arg, number) for arg in expr.args]
        if expr.head == "or":
            return merge([piece for region in regions for piece in region])
        result = LINE
        for region in regions:
            result = intersect(result, region)
        return result
    names = symbols(expr)
    if expr.head != "rel" or len(names) != 1:
        raise Undefined("no inequality in one variable")
    variable = sympy.Symbol("x", real=True)
    result = LINE
    for operator, left, right in zip(expr.data, expr.args, expr.args[1:], strict=False):
        if operator not in _RELATIONS:
            raise Undefined(f"{operator} is no inequality")
        relation = _RELATIONS[operator](to_sympy(left, variable), to_sympy(right, variable))
        try:
            found = sympy.solveset(relation, variable, sympy.S.Reals)
        except NotImplementedError as error:
            raise Undefined(str(error)) from error
        result = intersect(result, _region(found))
    return result


def to_sympy(expr: Expr, variable: sympy.Symbol) -> Any:
    """The expression as a sympy object, built from objects and never from text."""
    if expr.head == "num":
        return sympy.Rational(expr.data[0].numerator, expr.data[0].denominator)
    if expr.head == "sym":
        return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}.get(expr.data, variable)
    if expr.head == "oo":
        return sympy.oo
    args = [to_sympy(arg, variable) for arg in expr.args]
    if expr.head == "pow" and args[1].is_Rational and abs(args[1]) > MAX_DEGREE:
        raise TooLarge(f"a power of more than {MAX_DEGREE} in an inequality")
    if expr.head == "fn" and expr.data in _FUNCTIONS:
        return _FUNCTIONS[expr.data](*args)
    if expr.head not in _OPERATIONS:
        raise Undefined(f"{expr.head} in an inequality")
    return _OPERATIONS[expr.head](*args)


def _region(found: Any) -> Region:
    if found is sympy.S.EmptySet:
        return ()
    if isinstance(found, sympy.Interval):
        low, high = _endpoint(found.start), _endpoint(found.end)
        return (Piece(low, high, bool(found.left_open), bool(found.right_open)),)
    if isinstance(found, sympy.FiniteSet):
        points = [_endpoint(arg) for arg in found.args]
        return merge([Piece(point, point, False, False) for point in points])
    if isinstance(found, sympy.Union):
        return merge([piece for arg in found.args for piece in _region(arg)])
    if found is sympy.S.Reals:
        return LINE
    raise Undefined("a set that is no finite union of intervals")


def _endpoint(value: Any) -> Fraction | float:
    if value.is_infinite:
        return float(value)
    if value.is_Rational:
        return Fraction(int(value.p), int(value.q))
    return quantized(value.evalf(60)._mpf_)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "neg": lambda a: -a,
    "add": lambda *terms: sympy.Add(*terms),
    "mul": lambda *factors: sympy.Mul(*factors),
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "abs": sympy.Abs,
    "percent": lambda a: a / 100,
}
