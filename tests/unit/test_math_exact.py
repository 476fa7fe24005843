"""Exact values, the rounding rule, and subsets of the line, against independent computations."""

from __future__ import annotations

import itertools
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from verifiers.mathematics.answer import read
from verifiers.mathematics.compare import ExactOracle, NeedsNumbers, same_answer
from verifiers.mathematics.exact import MIN_GOLD_DIGITS, rational, rounds
from verifiers.mathematics.expr import Expr, num
from verifiers.mathematics.parse import parse
from verifiers.mathematics.regions import complement, intersect, merge, to_region


def same(gold: str, answer: str) -> bool:
    return same_answer(read(gold), read(answer), ExactOracle(), allow_calculation=False)


@given(
    st.decimals(min_value="-9999", max_value="9999", places=6),
    st.integers(min_value=0, max_value=5),
)
def test_rounding_to_the_golds_places_as_decimal_does(value: Decimal, places: int) -> None:
    quantum = Decimal(1).scaleb(-places)
    rounded = {value.quantize(quantum, mode) for mode in (ROUND_HALF_UP, ROUND_HALF_DOWN)}
    for gold in rounded | {next(iter(rounded)) + quantum, next(iter(rounded)) - quantum}:
        digits = len(str(abs(int(gold.scaleb(places)))))
        assume(digits >= MIN_GOLD_DIGITS - (places > 1) and places > 0)
        exact = Fraction(value)
        if exact == Fraction(gold):
            continue
        accepted = rounds(Fraction(gold), exact, Fraction(quantum), Fraction(1, 10**6))
        assert accepted is (gold in rounded)


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("3.14", "3.14159", True),
        ("3.14159", "3.14", False),
        ("0.33", "\\frac13", True),
        ("\\frac13", "0.33", False),
        ("\\frac13", "0.33333333", True),
        ("\\frac23", "0.66666666", True),
        ("\\frac23", "0.66666668", False),
        ("\\frac14", "0.2500000001", False),
        ("3", "3.0000000001", False),
        ("0.5", "0.54", False),
        ("4.5", "4.46", False),
        ("16.4", "16.42", True),
        ("36^\\circ", "\\$36", False),
        ("0.01", "0.009", False),
        ("0.0000001", "0.0000002", False),
        ("50\\%", "0.5", True),
        ("0.28", "28", False),
        ("\\frac{1}{2}\\%", "0.5", False),
        ("1.23", "1,23", True),
        ("123", "1,23", False),
        ("2 \\text{ hours}", "120 \\text{ minutes}", True),
        ("5 \\text{ cm}", "5 \\text{ m}", False),
        ("5", "x=4=5", False),
        ("5", "x=2+3=5", True),
    ],
)
def test_numbers(gold: str, answer: str, expected: bool) -> None:
    assert same(gold, answer) is expected


@given(st.fractions(max_denominator=1_000), st.fractions(max_denominator=1_000))
def test_exact_values_are_equal_both_ways_or_neither(first: Fraction, second: Fraction) -> None:
    left, right = f"{first}", f"\\frac{{{second.numerator}}}{{{second.denominator}}}"
    assert same(left, right) is same(right, left) is (first == second)


@given(st.permutations(["1", "\\frac12", "-3", "0.25"]))
def test_lists_in_any_order_tuples_in_theirs(items: list[str]) -> None:
    plain = ["1", "\\frac12", "-3", "0.25"]
    assert same(", ".join(plain), ", ".join(items))
    assert same(f"({', '.join(plain)})", f"({', '.join(items)})") is (items == plain)


def test_rounding_goes_by_the_gold() -> None:
    assert same("3.14", "\\frac{22}{7}") and not same("\\frac{22}{7}", "3.14")


def test_what_needs_numbers_is_left_to_the_workers() -> None:
    with pytest.raises(NeedsNumbers):
        same("\\sqrt{8}", "2\\sqrt{2}")


ENDS = st.integers(min_value=-4, max_value=4).map(Fraction)


@st.composite
def regions(draw: st.DrawFn) -> Expr:
    pieces = []
    for _ in range(draw(st.integers(1, 3))):
        low, high = sorted([draw(ENDS), draw(ENDS)])
        assume(low < high)
        pieces.append(
            Expr("interval", (num(low), num(high)), (draw(st.booleans()), draw(st.booleans())))
        )
    return Expr("union", tuple(pieces)) if len(pieces) > 1 else pieces[0]


def holds(expr: Expr, point: Fraction) -> bool:
    """Membership straight from the expression, without the interval arithmetic under test."""
    if expr.head == "union":
        return any(holds(arg, point) for arg in expr.args)
    low, high = (arg.data[0] for arg in expr.args)
    low_open, high_open = expr.data
    above = point > low if low_open else point >= low
    return above and (point < high if high_open else point <= high)


POINTS = [Fraction(k, 4) for k in range(-20, 21)]


def number(expr: Expr) -> Fraction:
    value = rational(expr)
    assert value is not None
    return value


@given(regions(), regions())
def test_regions_are_the_sets_they_stand_for(first: Expr, second: Expr) -> None:
    one, two = to_region(first, number), to_region(second, number)

    def inside(region: tuple, point: Fraction) -> bool:
        as_expr = [
            Expr("interval", (num(p.low), num(p.high)), (p.low_open, p.high_open)) for p in region
        ]
        return any(holds(piece, point) for piece in as_expr)

    for point in POINTS:
        in_one, in_two = holds(first, point), holds(second, point)
        assert inside(merge([*one, *two]), point) is (in_one or in_two)
        assert inside(intersect(one, two), point) is (in_one and in_two)
    assert complement(complement(one)) == one
    same_points = all(holds(first, point) is holds(second, point) for point in POINTS)
    assert (one == two) is same_points  # quarter steps tell all these sets apart


@pytest.mark.parametrize(
    ("text", "equal"),
    [
        ("-2 < x \\le 3", "(-2, 3]"),
        ("2x + 1 > 5", "(2, \\infty)"),
        ("-x \\ge 1", "(-\\infty, -1]"),
        ("x \\ne 3", "(-\\infty, 3) \\cup (3, \\infty)"),
        ("x < 1 \\text{ or } x > 2", "(-\\infty, 1) \\cup (2, \\infty)"),
        ("x > 1 \\text{ and } x < 2", "(1, 2)"),
        ("\\mathbb{R} \\setminus \\{0\\}", "x \\ne 0"),
        ("[1, 2] \\cup [2, 3]", "[1, 3]"),
    ],
)
def test_inequalities_and_intervals(text: str, equal: str) -> None:
    assert same(text, equal) and same(equal, text)


def test_a_matrix_is_not_its_transpose() -> None:
    rows = "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"
    columns = "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"
    assert same(rows, rows) and not same(rows, columns)


def test_plus_minus_is_both_values() -> None:
    for text in itertools.permutations(["5", "-1"]):
        assert same("2 \\pm 3", ", ".join(text))
    assert not same("2 \\pm 3", "5")


def test_parse_depth_and_value_of_a_long_sum() -> None:
    assert rational(parse("+".join(["1"] * 900))) == 900
