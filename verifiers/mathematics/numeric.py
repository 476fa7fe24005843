"""The oracle of the worker processes: values to many digits, identities by sampling.

Two expressions in variables are called equal if they agree at `NUM_POINTS` random points to
`CONFIRM_DIGITS` digits. For expressions built from the functions we read, an accident is less
likely than a fault of the hardware; and unlike simplification, it always comes to an end. Points
where either side is not real are left out as long as enough others remain, so that
`\\ln(ab)` equals `\\ln a + \\ln b` and `\\sqrt{x^2}` is not `x`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import mpmath
from mpmath import mp

from verifiers.mathematics.exact import literal, rational, rounds
from verifiers.mathematics.expr import MAX_EXPONENT, Expr, TooLarge, Undefined, symbols
from verifiers.mathematics.regions import NotLinear, Region, to_region

DIGITS = 60
"""Working precision. Near-identities that people know hold to some 30 digits."""
CONFIRM_DIGITS = 150
"""Precision at which an agreement found with `DIGITS` must hold again."""
MAX_TRUSTED_BITS = 100
"""Binary exponent of an intermediate value beyond which a disagreement at `DIGITS` may be due to
cancellation, and has to be confirmed."""
SLACK = 15
"""Digits that may be lost to cancellation."""
NUM_POINTS = 12
MIN_REAL_POINTS = 3
MAX_GAMMA = 10_000
"""Largest argument of a factorial in floating point."""

Point = dict[str, Fraction]
Solver = Callable[[Expr, Callable[[Expr], Fraction]], Region]


def _sympy_solver() -> Solver:
    from verifiers.mathematics.inequality import solve  # imports sympy

    return solve


class NumericOracle:
    """See `compare.Oracle`.

    Args:
        get_solver: gives what solves inequalities that are not linear, when there is one.
    """

    def __init__(self, get_solver: Callable[[], Solver] = _sympy_solver) -> None:
        self._get_solver = get_solver

    def equal(self, gold: Expr, answer: Expr) -> bool:
        gold_value, value = rational(gold), rational(answer)
        if gold_value is not None and value is not None and gold_value == value:
            return True
        names = symbols(gold)
        if symbols(answer) != names:
            return False
        if not names:
            return self._constants(gold, answer)
        return _identical(gold, answer, names)

    def number(self, expr: Expr) -> Fraction:
        value = rational(expr)
        return quantized(_real(expr)) if value is None else value

    def proportional(self, first: Expr, second: Expr, *, positive: bool) -> bool:
        names = symbols(first)
        if names != symbols(second):
            return False
        ratios = []
        for point in _points(names):
            with mp.workdps(DIGITS):
                try:
                    top, bottom = evaluate(first, point), evaluate(second, point)
                    if abs(top) < _tiny() or abs(bottom) < _tiny():
                        if abs(top) < _tiny() and abs(bottom) < _tiny():
                            continue
                        return False
                    ratios.append(top / bottom)
                except Undefined:
                    continue
        if len(ratios) < MIN_REAL_POINTS:
            return False
        with mp.workdps(DIGITS):
            steady = all(abs(ratio - ratios[0]) <= _tiny() * abs(ratios[0]) for ratio in ratios)
            return steady and (not positive or (mpmath.im(ratios[0]) == 0 and ratios[0] > 0))

    def region(self, expr: Expr) -> Region:
        try:
            return to_region(expr, self.number)
        except NotLinear:
            return self._get_solver()(expr, self.number)

    def _constants(self, gold: Expr, answer: Expr) -> bool:
        if _agree(gold, answer, {}):
            return True
        gold_literal, answer_literal = literal(gold), literal(answer)
        with mp.workdps(DIGITS):
            gold_value, value = evaluate(gold, {}), evaluate(answer, {})
            if mpmath.im(gold_value) != 0 or mpmath.im(value) != 0:
                return False
            return rounds(
                mpmath.re(gold_value),
                mpmath.re(value),
                gold_literal[1] if gold_literal else None,
                answer_literal[1] if answer_literal else None,
            )


def _identical(gold: Expr, answer: Expr, names: frozenset[str]) -> bool:
    real = complex_points = 0
    for point in _points(names):
        with mp.workdps(DIGITS):
            try:
                values = evaluate(gold, point), evaluate(answer, point)
            except Undefined:
                continue
            is_real = all(abs(mpmath.im(value)) <= _tiny() * abs(value) for value in values)
        if is_real:
            if not _agree(gold, answer, point):
                return False
            real += 1
        elif _agree(gold, answer, point):
            complex_points += 1
    return real >= MIN_REAL_POINTS or complex_points >= NUM_POINTS // 2


def _agree(gold: Expr, answer: Expr, point: Point) -> bool:
    """Whether two values agree: first to `DIGITS`, then to `CONFIRM_DIGITS` and as many more as the
    largest intermediate value has, so that `10^{200} + 1 - 10^{200}` is not zero."""
    digits, peak = DIGITS, [0]
    for confirming in (False, True):
        with mp.workdps(digits):
            first, second = evaluate(gold, point, peak), evaluate(answer, point, peak)
            size, small = max(abs(first), abs(second)), mpmath.mpf(10) ** (SLACK - digits)
            cancels = 0 in (first, second) and size < small
            differs = abs(first - second) > small * size and not cancels
            if differs and (confirming or peak[0] < MAX_TRUSTED_BITS):
                return False
        digits = CONFIRM_DIGITS + peak[0] // 3
    return True


def _points(names: frozenset[str]) -> list[Point]:
    """The same points in every process: half of them positive, half of both signs."""
    generator = random.Random(f"{sorted(names)}")
    points: list[Point] = []
    for index in range(NUM_POINTS):
        point: Point = {}
        for name in sorted(names):
            value = Fraction(generator.randrange(11, 4_000), generator.choice([997, 1009, 1013]))
            negative = index % 2 == 1 and generator.random() < 0.6
            point[name] = -value if negative else value
        points.append(point)
    return points


def _tiny() -> Any:
    return mpmath.mpf(10) ** (SLACK - mp.dps)


def _real(expr: Expr) -> Any:
    with mp.workdps(DIGITS):
        value = evaluate(expr, {})
        if abs(mpmath.im(value)) > _tiny() * max(1, abs(value)):
            raise Undefined("a value that is not real")
        return mpmath.re(value)


def quantized(value: Any) -> Fraction:
    """To 40 decimal places, so that equal endpoints are equal fractions."""
    with mp.workdps(DIGITS):
        value = mpmath.mpf(value)
        if abs(value) > mpmath.mpf(10) ** 15:
            raise TooLarge("an endpoint that is too large")
        return Fraction(int(mpmath.nint(value * 10**40)), 10**40)


def evaluate(expr: Expr, point: Point, peak: list[int] | None = None) -> Any:
    """The value at a point, at the current precision.

    Args:
        peak: its one item is raised to the binary exponent of the largest intermediate value.

    Raises:
        Undefined: there is none.
        TooLarge: it passes `MAX_EXPONENT` decimal digits.
    """
    try:
        value = _evaluate(expr, point, [0] if peak is None else peak)
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise Undefined(str(error)) from error
    if not mpmath.isfinite(value):
        raise Undefined("infinite or not a number")
    return value


def _evaluate(expr: Expr, point: Point, peak: list[int]) -> Any:
    head, data = expr.head, expr.data
    if head == "num":
        return mpmath.mpf(data[0].numerator) / data[0].denominator
    if head == "sym":
        if data in _CONSTANTS:
            return _CONSTANTS[data]()
        if data not in point:
            raise Undefined(f"{data} has no value")
        return mpmath.mpf(point[data].numerator) / point[data].denominator
    values = [_evaluate(arg, point, peak) for arg in expr.args]
    if head == "fn":
        if data not in _FUNCTIONS:
            raise Undefined(f"{data} is not known")
        result = _FUNCTIONS[data](*values)
    elif head == "apply":
        result = _unknown(data, values, point)
    elif head in _OPERATIONS:
        result = _OPERATIONS[head](*values)
    else:
        raise Undefined(f"{head} is no number")
    if mpmath.isfinite(result) and result != 0:
        peak[0] = max(peak[0], int(mpmath.mag(result)))
    if peak[0] > MAX_EXPONENT * 3.33:
        raise TooLarge(f"a value with more than {MAX_EXPONENT} digits")
    return result


def _unknown(name: str, values: list[Any], point: Point) -> Any:
    """Some smooth function that belongs to the name, the same on both sides."""
    seed = point.get(name, Fraction(1))
    shift = mpmath.mpf(seed.numerator) / seed.denominator
    return mpmath.cos(sum(v * (k + 1 + shift) for k, v in enumerate(values))) + shift


def _power(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise Undefined("zero to a power that is not positive")
        return mpmath.mpf(0)
    if abs(exponent) * (abs(mpmath.mag(base)) + 1) > MAX_EXPONENT * 3.33:
        raise TooLarge(f"a power with more than {MAX_EXPONENT} digits")
    return mpmath.power(base, exponent)


def _root_or_power(base: Any, exponent: Any) -> Any:
    """Powers, with the real root of a negative base where one over the exponent is odd."""
    if mpmath.im(base) == 0 and mpmath.re(base) < 0 and mpmath.im(exponent) == 0:
        inverse = 1 / exponent if exponent != 0 else mpmath.mpf(0)
        nearest = mpmath.nint(mpmath.re(inverse))
        if abs(inverse - nearest) < _tiny() and nearest % 2 == 1 and abs(nearest) > 1:
            return -_power(-base, exponent)
    return _power(base, exponent)


def _small(value: Any) -> Any:
    if abs(value) > MAX_GAMMA:
        raise TooLarge(f"a factorial of more than {MAX_GAMMA}")
    return value


def _periodic(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def bounded(value: Any) -> Any:
        if mpmath.mag(value) > 300:  # the reduction modulo pi would need as many digits
            raise TooLarge("a function of an argument that is too large")
        return function(value)

    return bounded


def _logarithm(value: Any, base: Any = 10) -> Any:
    if value == 0 or base == 0 or base == 1:
        raise Undefined("a logarithm that is not defined")
    return mpmath.log(value) / mpmath.log(base)


def _ln(value: Any, base: Any = None) -> Any:
    if value == 0:
        raise Undefined("the logarithm of zero")
    return mpmath.log(value)


def _integers(function: Callable[..., int]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        if any(mpmath.im(v) != 0 or v != mpmath.nint(v) or abs(v) > 10**30 for v in values):
            raise Undefined("a function of integers")
        return mpmath.mpf(function(*(int(mpmath.re(v)) for v in values)))

    return checked


_CONSTANTS = {"pi": lambda: +mp.pi, "e": lambda: +mp.e, "i": lambda: mpmath.mpc(0, 1)}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: _periodic(getattr(mpmath, name))
        for name in ["sin", "cos", "tan", "cot", "sec", "csc"]
    },
    **{name: getattr(mpmath, name) for name in ["asin", "acos", "atan", "re", "im", "arg"]},
    **{name: _periodic(getattr(mpmath, name)) for name in ["sinh", "cosh", "tanh"]},
    "cis": _periodic(lambda v: mpmath.exp(1j * v)),
    "exp": lambda v: _power(mpmath.e, v),
    "ln": _ln,
    "log": _logarithm,
    "sgn": mpmath.sign,
    "max": max,
    "min": min,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "neg": lambda a: -a,
    "add": lambda *terms: mpmath.fsum(terms),
    "mul": lambda *factors: mpmath.fprod(factors),
    "div": lambda a, b: a / b,
    "pow": _root_or_power,
    "abs": abs,
    "floor": mpmath.floor,
    "ceil": mpmath.ceil,
    "percent": lambda a: a / 100,
    "deg": lambda a: a * mp.pi / 180,
    "fact": lambda a: mpmath.gamma(_small(a) + 1),
    "binom": lambda a, b: mpmath.binomial(_small(a), _small(b)),
}
