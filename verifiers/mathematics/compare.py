"""Whether two answers are the same. One code for both oracles: exact arithmetic in the caller's
process, floating point with many digits in a worker process (see `numeric`).

The rules are in docs/math_verifier.md. Functions return a bool, or raise `NeedsNumbers` when exact
arithmetic cannot decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

from verifiers.mathematics.answer import Answer, scaled
from verifiers.mathematics.exact import is_calculation, literal, rational, rounds
from verifiers.mathematics.expr import (
    CONSTANTS,
    Expr,
    ParseError,
    Undefined,
    neg,
    num,
    symbols,
    walk,
)
from verifiers.mathematics.parse import parse
from verifiers.mathematics.regions import NotLinear, Region, is_inequality, is_region, to_region


class NeedsNumbers(Exception):
    """Exact arithmetic cannot decide."""


class Oracle(Protocol):
    """What the comparison needs to know about single expressions."""

    def equal(self, gold: Expr, answer: Expr) -> bool:
        """Whether two scalars are the same, rounding included."""
        ...

    def number(self, expr: Expr) -> Fraction:
        """The value of a real constant, exactly or to many digits."""
        ...

    def proportional(self, first: Expr, second: Expr, *, positive: bool) -> bool:
        """Whether one is a nonzero (or positive) constant times the other."""
        ...

    def region(self, expr: Expr) -> Region:
        """The subset of the line that an expression describes."""
        ...


class ExactOracle:
    """Decides what exact arithmetic can decide."""

    def equal(self, gold: Expr, answer: Expr) -> bool:
        gold_value, value = rational(gold), rational(answer)
        if gold_value is not None and value is not None:
            if gold_value == value:
                return True
            gold_literal, answer_literal = literal(gold), literal(answer)
            return rounds(
                gold_value,
                value,
                gold_literal[1] if gold_literal else None,
                answer_literal[1] if answer_literal else None,
            )
        if symbols(gold) != symbols(answer):
            return False
        if gold == answer and _plain_tree(gold):
            return True
        raise NeedsNumbers

    def number(self, expr: Expr) -> Fraction:
        value = rational(expr)
        if value is None:
            raise NeedsNumbers
        return value

    def proportional(self, first: Expr, second: Expr, *, positive: bool) -> bool:
        if symbols(first) != symbols(second):
            return False
        raise NeedsNumbers

    def region(self, expr: Expr) -> Region:
        try:
            return to_region(expr, self.number)
        except NotLinear:
            raise NeedsNumbers from None


def same_answer(gold: Answer, answer: Answer, oracle: Oracle, *, allow_calculation: bool) -> bool:
    """Whether an answer is the gold, units included.

    Args:
        allow_calculation: whether `6 \\times 7` may stand for a gold number.

    Raises:
        NeedsNumbers: by the exact oracle only.
        TooLarge: an expression passes a limit.
    """
    if gold.expr is None or answer.expr is None:
        return False
    gold_expr, answer_expr = gold.expr, answer.expr
    if gold.unit is not None and answer.unit is not None:
        if gold.unit.dimension != answer.unit.dimension:
            return False
        if gold.unit.factor != answer.unit.factor:
            answer_expr = scaled(answer_expr, answer.unit, gold.unit)
    if gold_expr.head == answer_expr.head == "num":
        return gold_expr.data[0] == answer_expr.data[0] or oracle.equal(gold_expr, answer_expr)
    signs = [expr.head in ("deg", "percent") for expr in (gold_expr, answer_expr)]
    if (signs[0] and answer.unit is not None) or (signs[1] and gold.unit is not None):
        return False  # degrees or percent against metres or dollars
    comparison = _Comparison(oracle, allow_calculation)
    try:
        if comparison.same(gold_expr, answer_expr):
            return True
        commas = _decimal_comma(gold, answer)
        return commas is not None and comparison.same(*commas)
    except Undefined:
        return False


def is_plain_number(expr: Expr | None) -> bool:
    """Whether a gold is one rational number: the kind a calculation must not stand for."""
    if expr is None:
        return False
    while expr.head in ("neg", "percent", "deg"):
        expr = expr.args[0]
    if expr.head == "rel" and expr.data == ("eq",) and expr.args[0].head == "sym":
        return is_plain_number(expr.args[1])
    return expr.head == "num" or (
        expr.head == "div" and all(is_plain_number(arg) for arg in expr.args)
    )


class _Comparison:
    def __init__(self, oracle: Oracle, allow_calculation: bool) -> None:
        self.oracle = oracle
        self.allow_calculation = allow_calculation

    def same(self, gold: Expr, answer: Expr) -> bool:
        if _is_equation(gold) and _is_equation(answer):
            verdict = self._equations(gold, answer)
            if verdict is not None:
                return verdict
        gold_name, gold = self._unwrap(gold)
        answer_name, answer = self._unwrap(answer)
        if not (gold_name is None or answer_name is None or _same_name(gold_name, answer_name)):
            return False
        if answer_name is not None and gold_name is None and not _names_value(answer_name):
            return False
        if gold_name is not None and answer_name is None and not _is_label(gold_name):
            return False
        gold, answer = _spread(gold), _spread(answer)
        if "matrix" not in (gold.head, answer.head) and (is_region(gold) or is_region(answer)):
            return self._regions(gold, answer)
        gold, answer = _matrix(gold), _matrix(answer)
        if "matrix" in (gold.head, answer.head):
            return self._matrices(gold, answer)
        if gold.head in _COLLECTIONS or answer.head in _COLLECTIONS:
            return self._collections(gold, answer)
        if _is_chain(answer) and gold.head != "rel":  # an identity: `2k + 2 = 2(k + 1)`
            return all(self.same(gold, member) for member in answer.args)
        if "rel" in (gold.head, answer.head):
            return False
        is_open = is_calculation(answer) or _is_unevaluated(answer)
        if is_open and not self.allow_calculation and is_plain_number(gold):
            return False
        return self._scalars(gold, answer)

    # Numbers and expressions

    def _scalars(self, gold: Expr, answer: Expr) -> bool:
        if "oo" in (_unsigned(gold).head, _unsigned(answer).head):
            return gold == answer
        if "base" in (gold.head, answer.head):
            return gold == answer
        if gold.head == answer.head and gold.head in ("percent", "deg"):
            return self.oracle.equal(gold.args[0], answer.args[0])
        for expr in (*walk(gold), *walk(answer)):
            if expr.head in _NO_SCALARS:
                return False
        for one, other in ((gold, answer), (answer, gold)):
            if one.head == "deg" or (one.head == "percent" and _is_literal(one.args[0])):
                bare = one.args[0]
                pair = (bare, other) if one is gold else (other, bare)
                if self.oracle.equal(*pair):
                    return True
        return self.oracle.equal(gold, answer)

    # Equations

    def _equations(self, gold: Expr, answer: Expr) -> bool | None:
        """The verdict on two single equations; null where both assign to the same name."""
        gold_name, answer_name = _assigned(gold), _assigned(answer)
        if gold_name is not None and answer_name is not None and _same_name(gold_name, answer_name):
            return None
        if any(arg.head in _STRUCTURED for arg in (*gold.args, *answer.args)):
            return None
        try:
            return self.oracle.proportional(_difference(gold), _difference(answer), positive=False)
        except Undefined:
            return False

    def _unwrap(self, expr: Expr) -> tuple[Expr | None, Expr]:
        """Split `x = 3` into name and value; a chain must agree with itself.

        Raises:
            Undefined: a chain contradicts itself (`x = 4 = 5`).
        """
        if expr.head == "list" and _assigned(expr.args[0]) is not None:
            first, *rest = expr.args
            if not any(item.head == "rel" for item in rest):  # `x = 1, 2`
                return first.args[0], Expr("list", (first.args[1], *rest))
        if expr.head != "rel":
            return None, expr
        if expr.data == ("in",):
            return expr.args[0], expr.args[1]
        if not set(expr.data) <= {"eq", "approx"}:
            return None, expr
        if len(expr.args) == 2 and _is_name(expr.args[1]) and not _is_name(expr.args[0]):
            return expr.args[1], expr.args[0]
        head, *values = expr.args
        if head.head == "sym" and any(symbols(head) & symbols(value) for value in values):
            return None, expr  # `k = 2k + 2` gives k no value
        if _is_name(head) or (len(values) == 1 and _names_value(head)):
            return head, self._agreed(values, expr.data[1:])
        if symbols(head) and len(values) == 1:
            return None, expr
        if _names_value(head):
            return head, self._agreed(values, expr.data[1:])
        return None, self._agreed([head, *values], expr.data)

    def _agreed(self, values: Sequence[Expr], operators: Sequence[str]) -> Expr:
        """The common value of a chain: its last exact member, if possible one that is worked out
        (`18 = 9 \\times 2`)."""
        result = values[0]
        exact = [result]
        for operator, value in zip(operators, values[1:], strict=True):
            if operator == "eq":
                if not self._same_member(result, value):
                    raise Undefined("a chain of equations contradicts itself")
                result = value
                exact.append(value)
            elif not self._near(result, value):
                raise Undefined("an approximation that is not one")
            else:
                break
        return next((value for value in reversed(exact) if not is_calculation(value)), result)

    def _same_member(self, first: Expr, second: Expr) -> bool:
        lenient = _Comparison(self.oracle, allow_calculation=True)
        return lenient.same(first, second) or lenient.same(second, first)

    def _near(self, value: Expr, approximation: Expr) -> bool:
        near = literal(approximation)
        if near is None or near[1] is None:
            return True
        return abs(self.oracle.number(value) - near[0]) <= near[1]

    # Structures

    def _regions(self, gold: Expr, answer: Expr) -> bool:
        for one, other in ((gold, answer), (answer, gold)):
            if one.head in ("union", "reals", "empty") and other.head == one.head == "empty":
                return True
        if is_inequality(gold) and is_inequality(answer):
            if symbols(gold) != symbols(answer):
                return False
            if len(symbols(gold)) > 1 or any(node.head == "apply" for node in walk(gold)):
                return self._inequalities(gold, answer)
        gold, answer = _of_variable(gold), _of_variable(answer)
        if not all(_may_be_region(expr) for expr in (gold, answer)):
            return False
        if self._same_intervals(gold, answer):
            return True
        region = self.oracle.region(gold)
        if not region and {"tuple", "interval"} & {gold.head, answer.head}:
            return False  # `(8, -2)` and `[8, -2]` are points: nobody writes nothing like that
        return region == self.oracle.region(answer)

    def _same_intervals(self, gold: Expr, answer: Expr) -> bool:
        """End by end, by the rules for numbers: `(0.6, 2.66666667]` for `(3/5, 8/3]`."""
        if gold.head != answer.head or gold.data != answer.data:
            return False
        if gold.head == "union" and len(gold.args) == len(answer.args):
            return all(map(self._same_intervals, gold.args, answer.args))
        return gold.head == "interval" and self._items(gold.args, answer.args)

    def _inequalities(self, gold: Expr, answer: Expr) -> bool:
        """Inequalities in several variables: the same up to a positive factor, link by link."""
        first, second = _links(gold), _links(answer)
        if len(first) != len(second):
            return False
        return all(
            operator == other and self.oracle.proportional(left, right, positive=True)
            for (operator, left), (other, right) in zip(first, second, strict=True)
        )

    def _matrices(self, gold: Expr, answer: Expr) -> bool:
        lenient = _Comparison(
            self.oracle, allow_calculation=True
        )  # sums of matrices have sums in them
        if gold.head == answer.head:
            return gold.data == answer.data and lenient._items(gold.args, answer.args)
        matrix, other = (gold, answer) if gold.head == "matrix" else (answer, gold)
        is_closed = other.head == "interval" and other.data == (False, False)
        if not (other.head == "tuple" or is_closed) or 1 not in matrix.data:
            return False
        return self._items(gold.args, answer.args)

    def _collections(self, gold: Expr, answer: Expr) -> bool:
        gold = _positional(gold, answer)
        heads = {gold.head, answer.head}
        if len(heads) == 2 and "set" in heads and not heads & {"tuple", "ratio", "list"}:
            first, second = (
                expr.args if expr.head == "set" else (expr,) for expr in (gold, answer)
            )
            return len(first) == len(second) == 1 and self.same(first[0], second[0])
        if answer.head == "list" and gold.head not in _COLLECTIONS:  # `3/4 or 0.75`
            return all(self.same(gold, item) for item in answer.args)
        if heads <= {"list", "set"}:
            # Points, unlike roots, have no multiplicity.
            points = all(item.head == "tuple" for item in (*gold.args, *answer.args))
            return self._unordered(gold.args, answer.args, distinct=points or "set" in heads)
        if heads in ({"tuple"}, {"ratio"}, {"tuple", "list"}):
            return self._items(gold.args, answer.args)
        return False

    def _items(self, gold: Sequence[Expr], answer: Sequence[Expr]) -> bool:
        return len(gold) == len(answer) and all(
            self.same(left, right) for left, right in zip(gold, answer, strict=True)
        )

    def _unordered(self, gold: Sequence[Expr], answer: Sequence[Expr], *, distinct: bool) -> bool:
        if distinct:
            gold, answer = self._distinct(gold), self._distinct(answer)
        if len(gold) != len(answer):
            return False
        left = list(answer)
        for item in gold:
            found = next((other for other in left if self.same(item, other)), None)
            if found is None:
                return False
            left.remove(found)
        return True

    def _distinct(self, items: Sequence[Expr]) -> list[Expr]:
        result: list[Expr] = []
        for item in items:
            if not any(self.same(known, item) for known in result):
                result.append(item)
        return result


_COLLECTIONS = frozenset(["tuple", "list", "set", "ratio"])
_COMPLEX_LITERAL = frozenset(["add", "mul", "neg", "num", "sym"])
_STRUCTURED = _COLLECTIONS | {"matrix", "interval", "union", "pm", "mp", "reals", "empty"}
_NO_SCALARS = _STRUCTURED | {"oo", "base", "rel", "or", "and", "minus", "meet"}


def _decimal_comma(gold: Answer, answer: Answer) -> tuple[Expr, Expr] | None:
    """Both as numbers where one was written `1,23` or `1000,99` and the other with a point."""
    pair: list[Expr] = []
    for side, other in ((gold, answer), (answer, gold)):
        assert side.expr is not None
        if side.expr.head != "list":
            pair.append(side.expr)
            continue
        text = side.text.strip("$€£ \\")
        whole, comma, places = text.partition(",")
        digits = whole.removeprefix("-")
        if not (comma and digits.isdigit() and places.isdigit() and other.expr is not None):
            return None
        if len(places) == 3 and len(digits) < 4 and digits[0] != "0":
            return None
        if literal(other.expr) is None:
            return None
        try:
            pair.append(parse(f"{whole}.{places}"))
        except ParseError:
            return None
    return (pair[0], pair[1]) if len(pair) == 2 and pair != [gold.expr, answer.expr] else None


def _plain_tree(expr: Expr) -> bool:
    """Whether equal trees mean equal values: nothing in it may be undefined."""
    return all(
        node.head in ("num", "sym", "add", "neg", "mul", "abs")
        or (node.head in ("div", "pow") and node.args[1].head == "num" and node.args[1].data[0] > 0)
        or (node.head == "pow" and node.args[1].data == "root" and node.args[0].head == "num")
        for node in walk(expr)
    )


def _is_literal(expr: Expr) -> bool:
    """An integer or a decimal, as against a fraction or a mixed number."""
    found = literal(expr)
    return found is not None and (found[1] is not None or found[0].denominator == 1)


def _unsigned(expr: Expr) -> Expr:
    return expr.args[0] if expr.head == "neg" else expr


def _is_equation(expr: Expr) -> bool:
    return expr.head == "rel" and expr.data == ("eq",)


def _is_chain(expr: Expr) -> bool:
    return expr.head == "rel" and set(expr.data) == {"eq"}


def _is_unevaluated(expr: Expr) -> bool:
    """Whether a sum or product is left in what should be one rational number. Exponents and the
    absolute value of a complex literal have none: `e^{i\\pi}`, `|3+4i|`."""
    if expr.head == "abs" and {node.head for node in walk(expr.args[0])} <= _COMPLEX_LITERAL:
        return False
    if expr.head in ("add", "mul", "pm", "mp"):
        return True
    args = expr.args[:1] if expr.head == "pow" else expr.args
    return any(map(_is_unevaluated, args))


def _is_name(expr: Expr) -> bool:
    """A variable, a function's value `f(x)`, or a tuple of variables."""
    if expr.head == "tuple":
        return all(_is_name(arg) for arg in expr.args)
    return (expr.head == "sym" and expr.data not in CONSTANTS) or expr.head == "apply"


def _same_name(gold: Expr, answer: Expr) -> bool:
    """Whether two names are one: `W(n)` is `W(x)`, and `y` is what a function's value is called."""
    if gold.head == answer.head == "apply":
        return gold.data == answer.data and len(gold.args) == len(answer.args)
    heads = {gold.head: gold, answer.head: answer}
    return gold == answer or (
        heads.keys() == {"apply", "sym"}
        and heads["sym"].data == "y"
        and all(arg.head == "sym" and arg.data != "y" for arg in heads["apply"].args)
    )


def _is_label(expr: Expr) -> bool:
    """A name, or what capital letters measure: `AB`, `|AB|`, `S_1 : S_2`, `\\frac{NO}{BO}`."""
    if _is_name(expr):
        return True
    return expr.head in ("mul", "abs", "ratio", "div") and all(
        node.head in ("mul", "abs", "ratio", "div")
        or (node.head == "sym" and str(node.data)[0].isupper())
        for node in walk(expr)
    )


def _positional(gold: Expr, answer: Expr) -> Expr:
    """`x = 4, y = 5` as the tuple of its values, and `x = 4, y = 5; x = 6, y = 7` as two tuples,
    where the answer has values without names. Roots `x_1 = 4, x_2 = 5` stay a list."""
    if gold.head != "list" or any(item.head == "rel" for item in answer.args):
        return gold
    if not all(_is_equation(item) and _is_label(item.args[0]) for item in gold.args):
        return gold
    labels = [item.args[0] for item in gold.args]
    names = [str(name.data).partition("_")[0] if name.head == "sym" else name for name in labels]
    values = tuple(item.args[1] for item in gold.args)
    size = len(set(names))
    if size == 1 or names != names[:size] * (len(names) // size):
        return gold
    rows = [Expr("tuple", values[at : at + size]) for at in range(0, len(values), size)]
    return rows[0] if len(rows) == 1 else Expr("list", tuple(rows))


def _names_value(expr: Expr) -> bool:
    """Whether `expr = 7` says what `expr` is, and is no equation to solve: a name, or several
    variables without coefficients (`a + b = 7`, not `2x = 7`)."""
    if _is_name(expr):
        return True
    if len(symbols(expr)) < 2:
        return False
    return not any(node.head == "num" for node in _outside_exponents(expr))


def _outside_exponents(expr: Expr) -> list[Expr]:
    args = expr.args[:1] if expr.head == "pow" else expr.args
    return [expr, *(node for arg in args for node in _outside_exponents(arg))]


def _assigned(expr: Expr) -> Expr | None:
    """The name that a single equation gives a value to."""
    if not _is_equation(expr):
        return None
    return next((arg for arg in expr.args if _is_name(arg)), None)


def _difference(expr: Expr) -> Expr:
    return Expr("add", (expr.args[0], neg(expr.args[1])))


def _of_variable(expr: Expr) -> Expr:
    """An inequality about a function's value, `0 < f(x) < 1`, as one about a variable."""
    if not is_inequality(expr):
        return expr
    args = tuple(Expr("sym", (), "f") if arg.head == "apply" else arg for arg in expr.args)
    return Expr(expr.head, args, expr.data)


def _links(expr: Expr) -> list[tuple[str, Expr]]:
    """Each link of a chain of inequalities as `0 < difference`."""
    result: list[tuple[str, Expr]] = []
    for operator, left, right in zip(expr.data, expr.args, expr.args[1:], strict=False):
        if operator in ("gt", "ge"):
            left, right, operator = right, left, {"gt": "lt", "ge": "le"}[operator]
        result.append((operator, Expr("add", (right, neg(left)))))
    return sorted(result, key=lambda link: link[0])


def _may_be_region(expr: Expr) -> bool:
    return is_region(expr) or expr.head == "set" or (expr.head == "tuple" and len(expr.args) == 2)


def _spread(expr: Expr) -> Expr:
    """With every plus-minus written out: `1 \\pm 2` is the list of 3 and -1."""
    items = expr.args if expr.head in ("list", "set") else (expr,)
    spread = [variant for item in items for variant in _variants(item)]
    if len(spread) == len(items):
        return expr
    return Expr("set" if expr.head == "set" else "list", tuple(spread))


def _variants(expr: Expr) -> tuple[Expr, ...]:
    if not any(node.head in ("pm", "mp") for node in walk(expr)):
        return (expr,)
    return _choose(expr, 1), _choose(expr, -1)


def _choose(expr: Expr, sign: int) -> Expr:
    args = tuple(_choose(arg, sign) for arg in expr.args)
    if expr.head not in ("pm", "mp"):
        return Expr(expr.head, args, expr.data)
    positive = (expr.head == "pm") == (sign > 0)
    last = args[-1] if positive else neg(args[-1])
    return last if len(args) == 1 else Expr("add", (args[0], last))


def _matrix(expr: Expr) -> Expr:
    """Sums, products and multiples of matrices as one matrix; everything else as it is."""
    if expr.head not in ("add", "neg", "mul", "div"):
        return expr
    args = [_matrix(arg) for arg in expr.args]
    if not any(arg.head in ("matrix", "tuple") for arg in args):
        return expr
    if expr.head == "neg":
        return _cells(args[0], neg)
    if expr.head == "div":
        return _cells(args[0], lambda cell: Expr("div", (cell, args[1])))
    result = args[0]
    for arg in args[1:]:
        result = _added(result, arg) if expr.head == "add" else _multiplied(result, arg)
    return result


def _cells(matrix: Expr, change: Callable[[Expr], Expr]) -> Expr:
    return Expr(matrix.head, tuple(change(cell) for cell in matrix.args), matrix.data)


def _added(left: Expr, right: Expr) -> Expr:
    if left.head != right.head or left.data != right.data or len(left.args) != len(right.args):
        raise Undefined("a sum of matrices of different shapes")
    cells = tuple(Expr("add", pair) for pair in zip(left.args, right.args, strict=True))
    return Expr(left.head, cells, left.data)


def _multiplied(left: Expr, right: Expr) -> Expr:
    if left.head not in ("matrix", "tuple"):
        return _cells(right, lambda cell: Expr("mul", (left, cell)))
    if right.head not in ("matrix", "tuple"):
        return _cells(left, lambda cell: Expr("mul", (right, cell)))
    if left.head != "matrix" or right.head != "matrix" or left.data[1] != right.data[0]:
        raise Undefined("a product of matrices whose shapes do not fit")
    rows, inner, columns = left.data[0], left.data[1], right.data[1]
    cells = tuple(
        Expr(
            "add",
            (
                num(0),
                *(
                    Expr("mul", (left.args[r * inner + k], right.args[k * columns + c]))
                    for k in range(inner)
                ),
            ),
        )
        for r in range(rows)
        for c in range(columns)
    )
    return Expr("matrix", cells, (rows, columns))
