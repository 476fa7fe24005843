"""Sums, products, integrals and limits: read by latex2sympy2_extended, compared by sympy.

Only a worker process imports this; both libraries may take arbitrarily long, and are then killed
with it.
"""

from __future__ import annotations

from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy

from verifiers.mathematics.answer import canonical
from verifiers.mathematics.expr import Undefined


def same_opaque(gold: str, answer: str) -> bool:
    """Whether two formulas are the same: as written, as trees, or with a zero difference."""
    if canonical(gold) == canonical(answer):
        return True
    first, second = _read(gold), _read(answer)
    if first is None or second is None:
        return False
    if first == second:
        return True
    if isinstance(first, sympy.Eq) and isinstance(second, sympy.Eq):
        return _zero(first.lhs, second.lhs) and _zero(first.rhs, second.rhs)
    if not (isinstance(first, sympy.Expr) and isinstance(second, sympy.Expr)):
        return False
    return _zero(first, second)


def _read(text: str) -> Any:
    try:
        return latex2sympy(text)
    except Exception:  # the boundary to a parser that raises whatever its parts raise
        return None


def _zero(first: Any, second: Any) -> bool:
    try:
        return bool(sympy.simplify((first - second).doit()).is_zero)
    except (ValueError, TypeError, AttributeError, ArithmeticError, NotImplementedError) as error:
        raise Undefined(f"sympy cannot compare it: {error}") from error
